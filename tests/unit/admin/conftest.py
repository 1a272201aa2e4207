# SPDX-License-Identifier: Apache-2.0
"""Fixtures for hypernet-admin."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fakes.private_bus import private_bus, private_bus_daemon  # noqa: F401
from tests.unit.admin.lab import Lab


@pytest.fixture
def lab(tmp_path: Path, private_bus: str) -> Iterator[Lab]:  # noqa: F811
    """A private bus without agents yet."""
    with ExitStack() as processes:
        yield Lab(tmp_path, processes)
