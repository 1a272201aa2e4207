# SPDX-License-Identifier: Apache-2.0
"""Would this machine boot a whole system? What a power cut left is judged as the firmware, the boot loader
and slot-manager would find it.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agents.slot_manager.loader import in_loader_order
from agents.slot_manager.machine import Machine, View
from agents.slot_manager.record import Store
from agents.slot_manager.state import State
from agents.slot_manager.systemd_boot import SystemdBoot
from agents.slot_manager.topology import SLOTS, SlotDevices, Topology
from tests.fakes.cuts import Cut, Recording
from tests.fakes.slot_images import BuiltImage, run

BLOCK_BYTES = 4096


@dataclass(frozen=True)
class Found:
    """A machine after a power cut. from_backup: the partition table at the start of the disk is torn."""

    view: View
    from_backup: bool

    @property
    def other(self) -> State:
        """The target's state."""
        return self.view.other.state


class Judge:
    """Looks at one cut after the other; `folder` is for its files, images are the systems that there are."""

    def __init__(self, folder: Path, recording: Recording, images: Sequence[BuiltImage]) -> None:
        folder.mkdir()
        self._folder, self._regions = folder, recording.regions
        self._images = {image.root_hash: image for image in images}
        self._views: dict[tuple[int, int, int], tuple[View, bool]] = {}
        self._records: dict[int, Path] = {}
        self._holds: dict[tuple[str, int], str] = {}
        self._before = recording.view
        self._esp: Mapping[str, bytes] = {}
        (folder / "efi" / "EFI" / "Linux").mkdir(parents=True)
        disk = folder / "disk.img"
        with open(disk, "wb") as file:
            file.truncate(recording.regions["table"][-1][1])
        slots = {slot: SlotDevices(slot, folder / slot, folder / f"{slot}-tree") for slot in SLOTS}
        parts, variables = recording.parts, recording.parts.topology.efivars
        topology = Topology(disk, slots, parts.topology.booted, folder / "efi", variables)
        self._machine = replace(parts, topology=topology, loader=SystemdBoot(topology.esp, variables))

    def machine(self, cut: Cut) -> Machine:
        """The whole machine as the cut left it, on plain files: good for another install."""
        self._lay_out(cut)
        top = self._machine.topology
        esp = self._folder / "efi-of-machine"
        shutil.rmtree(esp, ignore_errors=True)
        shutil.copytree(top.esp, esp)
        for slot in SLOTS:
            devices = self._machine.topology.slots[slot]
            data, tree = cut.read(slot)
            devices.data.write_bytes(data)
            devices.tree.write_bytes(tree)
        state = self._folder / "state"
        shutil.rmtree(state, ignore_errors=True)
        shutil.copytree(self._record(cut), state)
        topology = Topology(top.disk, top.slots, top.booted, esp, top.efivars)
        loader = SystemdBoot(esp, top.efivars)
        return replace(self._machine, topology=topology, loader=loader, store=Store(state))

    def held_bytes(self, cut: Cut, slot: str, image: BuiltImage) -> int:
        """How much of the system in `image` is in a slot already; zeros do not count."""
        data = cut.read(slot)[0]
        places = range(0, len(image.root), BLOCK_BYTES)
        blocks = [(image.root[at : at + BLOCK_BYTES], data[at : at + BLOCK_BYTES]) for at in places]
        return sum(BLOCK_BYTES for wanted, found in blocks if wanted == found and any(wanted))

    def judge(self, cut: Cut) -> Found:
        """Raises AssertionError if no boot, or a boot into something that is not whole, is possible."""
        view, from_backup = self._view(cut)
        booted, before = view.booted, self._before.booted
        assert booted.root_hash == before.root_hash, "the running slot lost its identity"
        assert booted.state is State.GOOD, f"the running slot is {booted.state}: {booted.reason}"
        assert self._content(cut, booted.name) == before.root_hash, "the running slot was written"
        assert before.root_hash in view.record.proven, "the record is gone"
        for slot, parts in view.partitions.items():
            if parts.root_hash in self._images:
                content = self._content(cut, slot)
                assert content == parts.root_hash, f"slot {slot} has a name without its content"
        visible = in_loader_order(view.entries)
        assert visible, "there is nothing to boot"
        for entry in view.entries:
            if not entry.staged or view.other.entry == entry:
                where = [slot for slot in SLOTS if view.partitions[slot].root_hash == entry.root_hash]
                assert where, f"{entry.name} starts what is in no slot"
                uki = cut.files[f"EFI/Linux/{entry.name}"]
                assert uki == self._images[entry.root_hash].uki, f"{entry.name} is torn"
        return Found(view, from_backup)

    def _view(self, cut: Cut) -> tuple[View, bool]:
        key = cut.version("table"), _digest(cut.files), cut.version("config")
        if key not in self._views:
            record = self._record(cut)
            self._lay_out(cut)
            machine = replace(self._machine, store=Store(record))
            self._views[key] = machine.view(), machine.topology.table().from_backup
        return self._views[key]

    def _lay_out(self, cut: Cut) -> None:
        """Partition table and ESP."""
        with open(self._machine.topology.disk, "r+b") as file:
            for (start, _), data in zip(self._regions["table"], cut.read("table"), strict=True):
                file.seek(start)
                file.write(data)
        esp = self._machine.topology.esp
        for name in self._esp.keys() - cut.files.keys():
            (esp / name).unlink()
        for name, data in cut.files.items():
            if self._esp.get(name) != data:
                (esp / name).write_bytes(data)
        self._esp = cut.files

    def _record(self, cut: Cut) -> Path:
        """The record's folder, out of a file system that had to replay its journal."""
        version = cut.version("config")
        if version not in self._records:
            image, mounted = self._folder / "config.img", self._folder / "config"
            image.write_bytes(cut.read("config")[0])
            mounted.mkdir(exist_ok=True)
            run("mount", "-t", "ext4", "-o", "loop", str(image), str(mounted))
            try:
                folder = self._folder / f"record-{len(self._records)}"
                shutil.copytree(mounted / "state", folder)
            finally:
                run("umount", str(mounted))
            self._records[version] = folder
        return self._records[version]

    def _content(self, cut: Cut, slot: str) -> str:
        key = slot, cut.version(slot)
        if key not in self._holds:
            data, tree = cut.read(slot)
            self._holds[key] = next(
                (
                    root_hash
                    for root_hash, image in self._images.items()
                    if data.startswith(image.root) and tree.startswith(image.tree)
                ),
                "",
            )
        return self._holds[key]


def _digest(files: Mapping[str, bytes]) -> int:
    return hash(tuple(sorted((name, hashlib.sha256(data).digest()) for name, data in files.items())))
