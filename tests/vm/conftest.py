# SPDX-License-Identifier: Apache-2.0
"""One set of images for all VM tests, and one freshly installed server for each test file."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm import releases as release_builder
from tests.vm.releases import REPOSITORY, START, Releases
from tests.vm.server import Server, running_server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.vm)


@pytest.fixture(scope="session")
def vm_cache() -> Path:
    return Path(os.environ.get("HYPERNET_TEST_CACHE", REPOSITORY / "build/test-cache")) / "vm"


@pytest.fixture(scope="session")
def releases(vm_cache: Path) -> Releases:
    return release_builder.prepare(vm_cache)


@pytest.fixture(scope="module")
def server(releases: Releases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on which version 0.1.0 was just installed, after its first boot."""
    with running_server(releases, tmp_path_factory.mktemp("server"), START) as server:
        yield server
