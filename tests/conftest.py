# SPDX-License-Identifier: Apache-2.0
"""How the tests are shared out when several processes run them (`pytest -n 2 --no-loadscope-reorder`), and
what holds for all of them.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from common import alerts

# The longest first: while one process builds the images for the virtual machines, the others need none.
_ORDER = (
    "tests/vm/test_power_cuts.py",
    "tests/vm/test_health_policy.py",
    "tests/integration",
    "tests/fuzz",
    "tests/vm/test_power_cuts_resumed.py",
    "tests/vm/test_failed_boot.py",
    "tests/vm/test_failed_verdict.py",
    "tests/vm/test_update.py",
    "tests/vm",
    "tests/unit/slot_manager/test_power_cut.py",
    "tests/unit",
)


class _Scheduling(LoadScopeScheduling):  # type: ignore[misc]
    """The tests of a file stay together, and all integration tests, which share one machine."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return "tests/integration" if path.startswith("tests/integration/") else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return _Scheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def _alerts_of_tests_stay_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The machine that runs the tests may have an alerter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alerts, "DIRECTORY", tmp_path_factory.mktemp("alerts"))
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    return next((rank for rank, prefix in enumerate(_ORDER) if item.nodeid.startswith(prefix)), len(_ORDER))
