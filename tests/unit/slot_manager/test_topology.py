# SPDX-License-Identifier: Apache-2.0
"""Finding disk and slots in a sysfs made of folders, with a real partition table."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.slot_manager import topology
from agents.slot_manager.errors import NoSuchSlot, TopologyError
from common.errors import AgentError
from tests.fakes.slot_lab import Lab


class Sysfs:
    """A disk `disk` with partitions 1 to 5 and a dm-verity device that is the root file system."""

    def __init__(self, folder: Path, disk: Path, name: str = "sda", separator: str = "") -> None:
        self.root, self.sysfs, self.dev = folder / "root", folder / "sys", folder / "dev"
        for path in (self.root, self.sysfs / "dev/block", self.dev):
            path.mkdir(parents=True)
        (self.dev / name).symlink_to(disk)
        self.disk = self.sysfs / "devices/pci0/block" / name
        for number in range(1, 6):
            part = self.disk / f"{name}{separator}{number}"
            part.mkdir(parents=True)
            (part / "partition").write_text(f"{number}\n")
        self.parts = {number: self.disk / f"{name}{separator}{number}" for number in range(1, 6)}

    def mount_root_on(self, *numbers: int) -> None:
        device = os.lstat(self.root).st_dev
        node = self.sysfs / "dev/block" / f"{os.major(device)}:{os.minor(device)}"
        dm = self.sysfs / "devices/virtual/block/dm-0"
        (dm / "slaves").mkdir(parents=True)
        node.symlink_to(dm)
        for number in numbers:
            (dm / "slaves" / self.parts[number].name).symlink_to(self.parts[number])

    def mount_root_straight_on(self, number: int) -> None:
        device = os.lstat(self.root).st_dev
        node = self.sysfs / "dev/block" / f"{os.major(device)}:{os.minor(device)}"
        node.symlink_to(self.parts[number])

    def discover(self) -> topology.Topology:
        return topology.discover(self.root, self.sysfs, self.dev)


@pytest.mark.parametrize(("numbers", "booted"), [((2, 3), "a"), ((4, 5), "b")])
@pytest.mark.parametrize(("name", "separator"), [("sda", ""), ("nvme0n1", "p")])
def test_the_running_slot_is_the_one_below_the_root_device(
    lab: Lab, tmp_path: Path, numbers: tuple[int, int], booted: str, name: str, separator: str
) -> None:
    sysfs = Sysfs(tmp_path / "machine", lab.topology.disk, name, separator)
    sysfs.mount_root_on(*numbers)
    found = sysfs.discover()
    assert (found.booted, found.other) == (booted, "b" if booted == "a" else "a")
    assert found.disk == sysfs.dev / name
    assert found.slots["a"].data == sysfs.dev / f"{name}{separator}2"
    assert found.slots["b"].tree == sysfs.dev / f"{name}{separator}5"


@pytest.mark.parametrize(("number", "booted"), [(2, "a"), (4, "b")])
def test_a_running_slot_without_dm_verity_is_the_partition_of_the_root_file_system(
    lab: Lab, tmp_path: Path, number: int, booted: str
) -> None:
    sysfs = Sysfs(tmp_path / "machine", lab.topology.disk)
    sysfs.mount_root_straight_on(number)
    found = sysfs.discover()

    assert (found.booted, found.slots["b"].tree) == (booted, sysfs.dev / "sda5")


def test_a_root_that_is_on_no_disk_is_told(lab: Lab, tmp_path: Path) -> None:
    sysfs = Sysfs(tmp_path / "machine", lab.topology.disk)
    with pytest.raises(TopologyError, match="on no partition"):
        sysfs.discover()


def test_a_root_on_another_partition_is_told(lab: Lab, tmp_path: Path) -> None:
    sysfs = Sysfs(tmp_path / "machine", lab.topology.disk)
    sysfs.mount_root_on(1)
    with pytest.raises(TopologyError, match="in neither slot"):
        sysfs.discover()


def test_a_disk_without_slots_is_told(lab: Lab, tmp_path: Path) -> None:
    sysfs = Sysfs(tmp_path / "machine", lab.topology.slots["a"].data)
    sysfs.mount_root_on(2, 3)
    with pytest.raises(AgentError, match="no usable GPT"):
        sysfs.discover()


def test_a_file_can_name_the_topology(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = lab.topology
    path = tmp_path / "topology.json"
    slots = {slot: {"data": str(item.data), "tree": str(item.tree)} for slot, item in top.slots.items()}
    path.write_text(
        json.dumps(
            {
                "disk": str(top.disk),
                "booted": "a",
                "slots": slots,
                "esp": str(top.esp),
                "efivars": str(top.efivars),
            }
        )
    )
    monkeypatch.setenv(topology.OVERRIDE, str(path))
    assert topology.discover() == top


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=100) | st.from_type(type(None)).map(lambda _: b'{"slots": [], "booted": "a"}'))
def test_no_file_makes_the_reader_fail_otherwise_than_with_its_own_error(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "topology.json"
    path.write_bytes(raw)
    with pytest.raises(AgentError):
        topology.load(path)


@pytest.mark.parametrize(("name", "expected"), [("a", "a"), ("b", "b"), ("booted", "a"), ("other", "b")])
def test_slots_can_be_named_by_what_they_are(lab: Lab, name: str, expected: str) -> None:
    assert topology.require_slot(name, lab.topology) == expected


@pytest.mark.parametrize("name", ["", "c", "A", "booted "])
def test_other_names_are_no_slots(lab: Lab, name: str) -> None:
    with pytest.raises(NoSuchSlot):
        topology.require_slot(name, lab.topology)
