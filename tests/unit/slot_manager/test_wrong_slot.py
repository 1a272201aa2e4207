# SPDX-License-Identifier: Apache-2.0
"""Targets that are not the one slot that may be written: refused before the first change."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from agents.slot_manager import devices, install
from agents.slot_manager.errors import SlotBooted, TopologyError
from agents.slot_manager.topology import SlotDevices, Topology
from common.errors import AgentError, InvalidArgument
from tests.fakes.faulty_machine import make_full
from tests.fakes.slot_images import MIB, BuiltImage, Key, run
from tests.fakes.slot_lab import Lab

NEW = "3.0.0"


@pytest.fixture
def full(tmp_path: Path, images: dict[str, BuiltImage], key: Key) -> Lab:
    """2.0.0 runs in slot a and is good; slot b, which holds the good 1.0.0, is the target."""
    return make_full(tmp_path / "lab", images["2.0.0"], images["1.0.0"], key)


def _refuse(lab: Lab, path: Path, error: type[AgentError], match: str) -> None:
    """Nothing at all may change."""
    before = lab.condition()
    with pytest.raises(error, match=match) as caught:
        install.install(lab.machine, str(path))
    assert len(str(caught.value).splitlines()) == 1
    assert lab.condition() == before


def _aim(lab: Lab, data: Path, tree: Path) -> None:
    """Let the target slot ae these devices."""
    old = lab.topology
    slots = {**old.slots, "b": SlotDevices("b", data, tree)}
    topology = Topology(old.disk, slots, old.booted, old.esp, old.efivars)
    lab.machine = replace(lab.machine, topology=topology)


def test_a_mounted_target_is_not_written(full: Lab, images: dict[str, BuiltImage]) -> None:
    with ExitStack() as stack:
        target = full.topology.slots["b"]
        mounted = full.folder / "mounted"
        mounted.mkdir()
        loop = run("losetup", "--find", "--show", str(target.data)).decode().strip()
        stack.callback(run, "losetup", "--detach", loop)
        run("mount", "-t", "erofs", "-o", "ro", loop, str(mounted))
        stack.callback(run, "umount", str(mounted))
        _aim(full, Path(loop), target.tree)

        _refuse(full, images[NEW].path, SlotBooted, "is in use")


def test_the_running_slot_is_not_written_under_another_name(
    full: Lab, images: dict[str, BuiltImage]
) -> None:
    running, target = full.topology.slots["a"], full.topology.slots["b"]
    alias = full.folder / "alias"
    alias.symlink_to(running.data)
    _aim(full, alias, target.tree)

    _refuse(full, images[NEW].path, SlotBooted, "belongs to the running slot a")


def test_a_hard_link_to_the_running_slot_is_not_written(full: Lab, images: dict[str, BuiltImage]) -> None:
    running, target = full.topology.slots["a"], full.topology.slots["b"]
    alias = full.folder / "alias"
    alias.hardlink_to(running.tree)
    _aim(full, target.data, alias)

    _refuse(full, images[NEW].path, SlotBooted, "belongs to the running slot a")


def test_a_second_node_of_a_running_device_is_not_written(full: Lab, images: dict[str, BuiltImage]) -> None:
    running, target = full.topology.slots["a"], full.topology.slots["b"]
    loop = run("losetup", "--find", "--show", str(running.data)).decode().strip()
    try:
        alias = full.folder / "node"
        os.mknod(alias, os.stat(loop).st_mode, os.stat(loop).st_rdev)
        old = full.topology
        slots = {"b": SlotDevices("b", alias, target.tree), "a": SlotDevices("a", Path(loop), running.tree)}
        topology = Topology(old.disk, slots, old.booted, old.esp, old.efivars)
        full.machine = replace(full.machine, topology=topology)

        _refuse(full, images[NEW].path, SlotBooted, "belongs to the running slot a")
    finally:
        run("losetup", "--detach", loop)


def test_one_device_is_not_both_parts_of_the_target(full: Lab, images: dict[str, BuiltImage]) -> None:
    target = full.topology.slots["b"]
    _aim(full, target.data, target.data)

    _refuse(full, images[NEW].path, SlotBooted, str(target.data))


@pytest.mark.parametrize("slot", ["a", "c", "config"])
def test_an_install_goes_into_no_other_slot(full: Lab, images: dict[str, BuiltImage], slot: str) -> None:
    before = full.snapshot()

    with pytest.raises(InvalidArgument, match="goes into slot b"):
        install.install(full.machine, str(images[NEW].path), slot=slot)

    assert full.snapshot() == before


class _Kernel:
    """What sysfs tells of a machine whose target slot is on two loop devices, which pass for partitions."""

    def __init__(self, lab: Lab, stack: ExitStack) -> None:
        self.sysfs = lab.folder / "sys"
        self.partitions = lab.topology.partitions()["b"]
        target = lab.topology.slots["b"]
        self.data, self.tree = (self._attach(path, stack) for path in (target.data, target.tree))
        for device, partition in ((self.data, self.partitions.data), (self.tree, self.partitions.tree)):
            node = self.node(device)
            (node / "holders").mkdir(parents=True)
            self.tell(device, partition.number, partition.offset_bytes // 512, partition.size_bytes // 512)
        _aim(lab, self.data, self.tree)

    def node(self, device: Path) -> Path:
        number = os.stat(device).st_rdev
        return self.sysfs / "dev" / "block" / f"{os.major(number)}:{os.minor(number)}"

    def tell(self, device: Path, number: int, start: int, size: int) -> None:
        for name, value in (("partition", number), ("start", start), ("size", size)):
            (self.node(device) / name).write_text(f"{value}\n")

    def claim(self, lab: Lab) -> None:
        with ExitStack() as stack:
            devices.claim(lab.topology, (MIB, MIB), stack, sysfs=self.sysfs)

    def _attach(self, path: Path, stack: ExitStack) -> Path:
        loop = run("losetup", "--find", "--show", str(path)).decode().strip()
        stack.callback(run, "losetup", "--detach", loop)
        return Path(loop)


@pytest.fixture
def kernel(full: Lab) -> Iterator[_Kernel]:
    with ExitStack() as stack:
        yield _Kernel(full, stack)


def test_the_devices_of_the_target_are_its_partitions(full: Lab, kernel: _Kernel) -> None:
    kernel.claim(full)


@pytest.mark.parametrize("part", ["data", "tree"])
def test_a_target_below_the_running_root_is_not_written(full: Lab, kernel: _Kernel, part: str) -> None:
    (kernel.node(getattr(kernel, part)) / "holders" / "dm-0").symlink_to("../../dm-0")

    with pytest.raises(SlotBooted, match="in use by dm-0"):
        kernel.claim(full)


def test_partitions_that_changed_their_labels_are_not_written(full: Lab, kernel: _Kernel) -> None:
    """Else a system relabelled while it runs would lose its own identity to the install."""
    parts = full.topology.partitions()
    disk = str(full.topology.disk)
    for number, label in (
        (parts["b"].data.number, "system_a"),
        (parts["b"].tree.number, "system_a_verity"),
        (parts["a"].data.number, "system_b"),
        (parts["a"].tree.number, "system_b_verity"),
    ):
        run("sfdisk", "--quiet", "--part-label", disk, str(number), label)

    with pytest.raises(TopologyError, match="is not the partition"):
        kernel.claim(full)


@pytest.mark.parametrize("what", ["number", "start", "size"])
def test_a_device_that_is_another_partition_is_not_written(full: Lab, kernel: _Kernel, what: str) -> None:
    parts = kernel.partitions
    told = {
        "number": parts.data.number,
        "start": parts.data.offset_bytes // 512,
        "size": parts.data.size_bytes // 512,
    }
    kernel.tell(kernel.data, **(told | {what: told[what] + 1}))

    with pytest.raises(TopologyError, match="is not the partition"):
        kernel.claim(full)
