# SPDX-License-Identifier: Apache-2.0
"""One root tree and one machine for all integration tests; each test file boots it as it needs it."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration import root_tree, slots
from tests.integration.machine import Machine, missing_tools
from tests.integration.slots import ReleaseMaker, SlotDisk


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with our freshly built Debian packages."""
    out = tmp_path_factory.mktemp("packages")
    root_tree.build_packages(out)
    return out


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory) -> ReleaseMaker:
    """A maker of signed releases."""
    return ReleaseMaker(tmp_path_factory.mktemp("releases"))


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory, packages: Path) -> Iterator[Machine]:
    """The machine, with our package installed."""
    missing = missing_tools() if os.geteuid() == 0 else ["root privileges"]
    if missing:
        reason = f"a machine cannot be booted without {', '.join(missing)}"
        # On a build server a missing tool must not look like success.
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)

    folder = tmp_path_factory.mktemp("machine")
    (folder / "root").mkdir()
    (package,) = packages.glob("hypernet-agents_*.deb")
    root_tree.make(folder / "root", package)
    with Machine(folder) as machine:
        yield machine
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def new_machine(machine: Machine) -> Iterator[Callable[[], Machine]]:
    """Give the machine, switched off and as if it had never been booted: no configuration, no slots."""

    def renew() -> Machine:
        if machine.running:
            machine.stop()
        for folder in (machine.config, machine.efi):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        for path in ("etc/systemd/system/{}.service.d", "var/lib/hypernet", "var/cache/hypernet"):
            for unit in slots.UNITS:
                shutil.rmtree(machine.root / path.format(unit), ignore_errors=True)
        shutil.rmtree(machine.root / "var/log/journal", ignore_errors=True)
        return machine

    yield renew
    if machine.running:
        machine.stop()


@pytest.fixture(scope="module")
def slot_disk(new_machine: Callable[[], Machine], releases: ReleaseMaker) -> SlotDisk:
    """The disk of the machine, which is switched off: a good 0.1.0 in slot a, nothing in slot b."""
    machine = new_machine()
    slot_disk = SlotDisk(machine.config, machine.efi)
    slot_disk.create(releases.get("0.1.0"))
    slots.use_topology(machine.root)
    (machine.config / "hypernet").mkdir()
    releases.trust(machine.config / "hypernet/trusted-keys")
    return slot_disk
