# SPDX-License-Identifier: Apache-2.0
"""How the tests are shared out when several processes run them (`pytest -n 2 --dist loadgroup`)."""

from pathlib import Path

import pytest

TESTS = Path(__file__).parent

# The longest first: while one process builds the images for the virtual machines, another one needs none.
_ORDER = ("vm/test_failed_boot.py", "integration", "vm/test_failed_verdict.py", "vm", "unit")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file together, and all integration tests, which share one machine."""
    for item in items:
        name = _place(item)
        group = "integration" if name.startswith("integration/") else name
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=_rank)


def _place(item: pytest.Item) -> str:
    return str(item.path.relative_to(TESTS)) if TESTS in item.path.parents else item.path.name


def _rank(item: pytest.Item) -> int:
    place = _place(item)
    return next((rank for rank, prefix in enumerate(_ORDER) if place.startswith(prefix)), len(_ORDER))
