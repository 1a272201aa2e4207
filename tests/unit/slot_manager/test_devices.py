# SPDX-License-Identifier: Apache-2.0
"""The same install on real block devices: loop devices over the partitions of one disk file."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from agents.slot_manager import blockio, install
from agents.slot_manager.errors import SlotBooted
from agents.slot_manager.state import State
from agents.slot_manager.topology import SLOTS, SlotDevices, Topology
from common import process
from tests.fakes.slot_images import BuiltImage
from tests.fakes.slot_lab import Lab

LOOP_CONTROL = Path("/dev/loop-control")


def _attach(stack: ExitStack, disk: Path, offset: int, size: int) -> Path:
    argv = ["losetup", "--find", "--show", "--offset", str(offset), "--sizelimit", str(size), str(disk)]
    done = process.run(argv, timeout_sec=30, success=None)
    if done.returncode:
        pytest.skip(f"no loop device: {done.stderr.strip()}")
    device = done.stdout.decode().strip()
    stack.callback(process.run, ["losetup", "--detach", device], timeout_sec=30)
    return Path(device)


@pytest.fixture
def on_devices(lab: Lab) -> Iterator[Lab]:
    """The lab with slots on loop devices."""
    if os.geteuid() or not LOOP_CONTROL.exists():
        pytest.skip("loop devices need root")
    top = lab.topology
    with ExitStack() as stack:
        slots = {}
        for slot, parts in top.partitions().items():
            pair = [
                _attach(stack, top.disk, part.offset_bytes, part.size_bytes)
                for part in (parts.data, parts.tree)
            ]
            slots[slot] = SlotDevices(slot, *pair)
        moved = Topology(top.disk, slots, top.booted, top.esp, top.efivars)
        lab.machine = replace(lab.machine, topology=moved)
        yield lab


def test_an_image_is_installed_into_the_partitions_of_a_disk(
    on_devices: Lab, images: dict[str, BuiltImage]
) -> None:
    image = images["2.0.0"]
    install.install(on_devices.machine, str(image.path))
    parts = on_devices.topology.partitions()["b"]
    raw = on_devices.topology.disk.read_bytes()
    assert raw[parts.data.offset_bytes :].startswith(image.root)
    assert raw[parts.tree.offset_bytes :].startswith(image.tree)
    assert parts.root_hash == image.root_hash
    assert on_devices.machine.view().slots["b"].state is State.ARMED


def test_the_installed_hash_tree_verifies_the_installed_system(
    on_devices: Lab, images: dict[str, BuiltImage]
) -> None:
    install.install(on_devices.machine, str(images["2.0.0"].path))
    devices = on_devices.topology.slots["b"]
    root_hash = on_devices.machine.view().slots["b"].root_hash
    process.run(["veritysetup", "verify", str(devices.data), str(devices.tree), root_hash], timeout_sec=60)


@pytest.mark.parametrize("part", ["data", "tree"])
def test_a_device_that_is_in_use_is_not_written(
    on_devices: Lab, images: dict[str, BuiltImage], part: str
) -> None:
    device = getattr(on_devices.topology.slots["b"], part)
    before = on_devices.topology.disk.read_bytes(), on_devices.names()
    holder = os.open(device, os.O_RDONLY | os.O_EXCL)
    try:
        with pytest.raises(SlotBooted, match="is in use"):
            install.install(on_devices.machine, str(images["2.0.0"].path))
    finally:
        os.close(holder)
    assert (on_devices.topology.disk.read_bytes(), on_devices.names()) == before
    assert not (on_devices.machine.store.folder / "record-0.json").exists()


def test_both_slots_have_devices_of_their_own(on_devices: Lab) -> None:
    top = on_devices.topology
    assert len({path for slot in SLOTS for path in (top.slots[slot].data, top.slots[slot].tree)}) == 4


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, (4 << 20) + 4096, (4 << 20) + 5])
def test_reading_back_hashes_exactly_the_bytes_asked_for(tmp_path: Path, size: int) -> None:

    data = os.urandom(size)
    path = tmp_path / "file"
    path.write_bytes(data + b"what follows")
    seen: list[int] = []
    found = blockio.digest_from_medium(path, size, cancel=threading.Event(), advance=seen.append)
    assert found == hashlib.sha256(data).hexdigest()
    assert sum(seen) == size
