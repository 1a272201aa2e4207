# SPDX-License-Identifier: Apache-2.0
"""Only the right, free partitions are claimed for an install, and by one install at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from agents.slot_manager import devices
from agents.slot_manager.errors import NoSpace, SlotBooted, TopologyError
from agents.slot_manager.topology import SlotDevices, Topology
from common import process
from common.errors import Busy
from tests.fakes.slot_lab import Lab

SMALL = (4096, 4096)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


def _with_b(topology: Topology, data: Path, tree: Path) -> Topology:
    return replace(topology, slots={**topology.slots, "b": SlotDevices("b", data, tree)})


@pytest.mark.parametrize("wrong", ["a-data", "a-tree", "disk", "twice"])
def test_a_device_of_the_running_slot_under_any_name_is_not_claimed(
    lab: Lab, stack: ExitStack, tmp_path: Path, wrong: str
) -> None:
    top = lab.topology
    same = {
        "a-data": top.slots["a"].data,
        "a-tree": top.slots["a"].tree,
        "disk": top.disk,
        "twice": top.slots["b"].tree,
    }[wrong]
    link = tmp_path / "other-name"
    link.symlink_to(same)
    with pytest.raises(SlotBooted, match="is not written"):
        devices.claim(_with_b(top, link, top.slots["b"].tree), SMALL, stack)


def test_a_device_that_is_too_small_is_not_claimed(lab: Lab, stack: ExitStack) -> None:
    with pytest.raises(NoSpace, match="smaller than"):
        devices.claim(lab.topology, (1 << 40, 4096), stack)


def test_a_second_install_does_not_get_the_same_devices(lab: Lab, stack: ExitStack) -> None:
    devices.claim(lab.topology, SMALL, stack)
    with ExitStack() as second, pytest.raises(Busy, match="has locked"):
        devices.claim(lab.topology, SMALL, second)
    stack.close()
    with ExitStack() as third:
        devices.claim(lab.topology, SMALL, third)


def test_a_lent_device_stays_locked(lab: Lab, stack: ExitStack) -> None:
    device, _ = devices.claim(lab.topology, SMALL, stack)
    with device.lent() as path, pytest.raises(Busy):
        devices.Device(path)
    assert device.size_bytes > 0


def test_nothing_stays_open_after_a_refusal(lab: Lab) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with ExitStack() as stack, pytest.raises(NoSpace):
        devices.claim(lab.topology, (4096, 1 << 40), stack)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def loop(lab: Lab, stack: ExitStack) -> Path:
    """A block device for slot b's system."""
    argv = ["losetup", "--find", "--show", str(lab.topology.slots["b"].data)]
    done = process.run(argv, timeout_sec=30, success=None)
    if done.returncode:
        pytest.skip(f"no loop device: {done.stderr.strip()}")
    device = done.stdout.decode().strip()
    stack.callback(process.run, ["losetup", "--detach", device], timeout_sec=30)
    return Path(device)


def _sysfs(folder: Path, loop: Path, **files: str) -> Path:
    number = os.stat(loop).st_rdev
    node = folder / "sys/dev/block" / f"{os.major(number)}:{os.minor(number)}"
    (node / "holders").mkdir(parents=True)
    for name, text in files.items():
        (node / name).write_text(text)
    return folder / "sys"


def test_a_device_with_something_mapped_onto_it_is_not_claimed(
    lab: Lab, stack: ExitStack, loop: Path, tmp_path: Path
) -> None:
    sysfs = _sysfs(tmp_path, loop)
    (next(sysfs.rglob("holders")) / "dm-3").mkdir()
    top = _with_b(lab.topology, loop, lab.topology.slots["b"].tree)
    with ExitStack() as inner, pytest.raises(SlotBooted, match="in use by dm-3"):
        devices.claim(top, SMALL, inner, sysfs=sysfs)


@pytest.mark.parametrize(
    ("number", "start", "size"),
    [("2", 0, 0), ("9", 0, 0), ("", 8, 0), ("", 0, -8)],
    ids=["right", "another number", "another start", "another size"],
)
def test_a_device_that_is_not_what_the_partition_table_says_is_not_claimed(
    lab: Lab, stack: ExitStack, loop: Path, tmp_path: Path, number: str, start: int, size: int
) -> None:
    part = lab.topology.partitions()["b"].data
    told = {
        "partition": f"{number if number == '9' else part.number}\n",
        "start": f"{part.offset_bytes // 512 + start}\n",
        "size": f"{part.size_bytes // 512 + size}\n",
    }
    sysfs = _sysfs(tmp_path, loop, **told)
    top = _with_b(lab.topology, loop, lab.topology.slots["b"].tree)
    with ExitStack() as inner:
        if number == "2":
            assert devices.claim(top, SMALL, inner, sysfs=sysfs)[0].path == loop
            return
        with pytest.raises(TopologyError, match="reboot once"):
            devices.claim(top, SMALL, inner, sysfs=sysfs)
