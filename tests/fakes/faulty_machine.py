# SPDX-License-Identifier: Apache-2.0
"""A machine with a system in either slot, and one whose disk, slots, ESP and record lie on files that fail
when asked to.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from agents.slot_manager import partuuid
from agents.slot_manager.record import Record, Store
from agents.slot_manager.systemd_boot import SystemdBoot
from agents.slot_manager.topology import SLOTS, SlotDevices, Topology
from tests.fakes.faulty_disk import FaultyDisk
from tests.fakes.slot_images import BuiltImage, Key
from tests.fakes.slot_lab import Lab, make_lab

DISK = "disk.img"


def make_full(folder: Path, running: BuiltImage, other: BuiltImage, *trusted: Key) -> Lab:
    """A machine that runs `running` in slot a; the good `other` in slot b is what an install overwrites."""
    lab = make_lab(folder, running, *trusted)
    top = lab.topology
    for path, data in ((top.slots["b"].data, other.root), (top.slots["b"].tree, other.tree)):
        with open(path, "r+b") as file:
            file.write(data)
    partuuid.set_root_hash(top, "b", other.root_hash)
    name = f"hypernet_{running.version}"
    (lab.linux / f"{name}.efi").rename(lab.linux / f"{name}+5.efi")
    (lab.linux / f"hypernet_{other.version}.efi").write_bytes(other.uki)
    lab.boot("a", selected=f"{name}+5.efi")
    lab.machine.store.save(Record(proven={running.root_hash: 1, other.root_hash: 2}))
    return lab


@contextmanager
def faulty(lab: Lab, *, room_bytes: int = 1 << 30) -> Iterator[FaultyDisk]:
    """Move a lab onto faulty files: disk.img, slot-a, slot-a-tree, slot-b, slot-b-tree, efi/EFI/Linux/* and
    state/*. room_bytes: what the folders may hold together, as statvfs(3) tells.
    """
    top, store = lab.topology, lab.machine.store.folder
    store.mkdir(exist_ok=True)
    files = {DISK: top.disk.read_bytes(), "state/lock": b""}
    for slot in SLOTS:
        files[f"slot-{slot}"], files[f"slot-{slot}-tree"] = lab.data(slot), lab.tree(slot)
    for name, folder in (("efi", top.esp), ("state", store)):
        for path in (path for path in folder.rglob("*") if path.is_file()):
            files[f"{name}/{path.relative_to(folder)}"] = path.read_bytes()
    with FaultyDisk(lab.folder / "faulty", files, room_bytes=room_bytes) as disk:
        place = disk.folder
        slots = {
            slot: SlotDevices(slot, place / f"slot-{slot}", place / f"slot-{slot}-tree") for slot in SLOTS
        }
        topology = Topology(place / DISK, slots, top.booted, place / "efi", top.efivars)
        loader = SystemdBoot(topology.esp, topology.efivars)
        whole = lab.machine
        lab.machine = replace(whole, topology=topology, loader=loader, store=Store(place / "state"))
        try:
            yield disk
        finally:
            lab.machine = whole


def content(disk: FaultyDisk, slot: str) -> tuple[bytes, bytes]:
    """What the two partitions of a slot really hold."""
    return disk.content(f"slot-{slot}"), disk.content(f"slot-{slot}-tree")
