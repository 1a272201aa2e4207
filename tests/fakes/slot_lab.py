# SPDX-License-Identifier: Apache-2.0
"""A machine made of files: a real partition table, slots, an ESP folder, EFI variables, a record, keys."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

from agents.slot_manager.machine import Machine
from agents.slot_manager.record import Record, Store
from agents.slot_manager.systemd_boot import SystemdBoot
from agents.slot_manager.topology import SlotDevices, Topology
from common import gpt
from tests.fakes.slot_images import MIB, BuiltImage, Key, run, trust

SLOT_MIB, SLOT_TREE_MIB = 3, 1


@dataclass
class Lab:
    """A machine made of files: a disk, an ESP folder, EFI variables, a record, trusted keys."""

    folder: Path
    machine: Machine

    @property
    def topology(self) -> Topology:
        return self.machine.topology

    @property
    def linux(self) -> Path:
        return self.topology.esp / "EFI" / "Linux"

    def names(self) -> list[str]:
        return sorted(path.name for path in self.linux.iterdir())

    def boot(
        self, slot: str, *, selected: str = "", counted: str = "", loader: str = "systemd-boot 252"
    ) -> None:
        """As if the machine had been booted: running slot and the loader's variables."""
        old = self.topology
        now = Topology(old.disk, old.slots, slot, old.esp, old.efivars)
        self.machine = replace(self.machine, topology=now, loader=SystemdBoot(now.esp, now.efivars))
        path = f"\\EFI\\Linux\\{counted}" if counted else ""
        for name, value in (
            ("LoaderInfo", loader),
            ("LoaderEntrySelected", selected),
            ("LoaderBootCountPath", path),
        ):
            self.set_variable(name, value)

    def try_once(self, name: str, slot: str) -> str:
        """What the loader does to a counted entry: take a try, then start it. Returns the new name."""
        stem, _, counter = name.removesuffix(".efi").partition("+")
        left, _, done = counter.partition("-")
        new = f"{stem}+{max(int(left) - 1, 0)}-{int(done or 0) + 1}.efi"
        (self.linux / name).rename(self.linux / new)
        self.boot(slot, selected=name, counted=new)
        return new

    def set_variable(self, name: str, value: str) -> None:
        path = self.topology.efivars / f"{name}-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
        if value:
            path.write_bytes(b"\x06\0\0\0" + (value + "\0").encode("utf-16-le"))
        else:
            path.unlink(missing_ok=True)

    def snapshot(self) -> dict[str, str]:
        """SHA-256 of disk, slots, ESP, record and EFI variables."""
        files = self._files(self.topology.esp, self.topology.efivars, self.machine.store.folder)
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def condition(self) -> tuple[dict[str, str], Record]:
        """The same, but of the record only what it says, and not which releases were refused."""
        files = self._files(self.topology.esp, self.topology.efivars)
        digests = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
        return digests, replace(self.machine.store.load(), refused=())

    def _files(self, *folders: Path) -> list[Path]:
        files = [self.topology.disk]
        for devices in self.topology.slots.values():
            files += [devices.data, devices.tree]
        for folder in folders:
            files += sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
        return files

    def configure(self, text: str) -> None:
        """Write the machine's updates.yaml."""
        self.machine.config.mkdir(parents=True, exist_ok=True)
        (self.machine.config / "updates.yaml").write_text(text)

    def data(self, slot: str) -> bytes:
        return self.topology.slots[slot].data.read_bytes()

    def tree(self, slot: str) -> bytes:
        return self.topology.slots[slot].tree.read_bytes()

    def root_hash(self, slot: str) -> str:
        return self.topology.partitions()[slot].root_hash


def make_lab(folder: Path, running: BuiltImage, *trusted: Key) -> Lab:
    """A machine that runs `running` in slot a; slot b is empty. Slots are plain files."""
    disk, esp, variables = folder / "disk.img", folder / "efi", folder / "efivars"
    (esp / "EFI" / "Linux").mkdir(parents=True)
    variables.mkdir()
    with open(disk, "wb") as file:
        file.truncate((2 + 1 + 2 * (SLOT_MIB + SLOT_TREE_MIB)) * MIB)
    script = "label: gpt\nsize=1MiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=esp\n"
    halves = uuid.UUID(running.root_hash[:32]), uuid.UUID(running.root_hash[32:])
    for slot in "ab":
        data, tree = halves if slot == "a" else (uuid.uuid4(), uuid.uuid4())
        script += f"size={SLOT_MIB}MiB, type={gpt.ROOT_X86_64}, name=system_{slot}, uuid={data}\n"
        script += f"size={SLOT_TREE_MIB}MiB, name=system_{slot}_verity, "
        script += f"type={gpt.ROOT_X86_64_VERITY}, uuid={tree}\n"
    run("sfdisk", "--quiet", str(disk), stdin=script.encode())
    slots = {}
    for slot in "ab":
        slots[slot] = SlotDevices(slot, folder / f"slot-{slot}", folder / f"slot-{slot}-tree")
        for path, size in ((slots[slot].data, SLOT_MIB), (slots[slot].tree, SLOT_TREE_MIB)):
            path.write_bytes(bytes(size * MIB))
    with open(slots["a"].data, "r+b") as file:
        file.write(running.root)
    with open(slots["a"].tree, "r+b") as file:
        file.write(running.tree)
    (esp / "EFI" / "Linux" / f"hypernet_{running.version}.efi").write_bytes(running.uki)
    trust(folder / "trusted-keys", *trusted)
    topology = Topology(disk, slots, "a", esp, variables)
    machine = Machine(
        topology,
        SystemdBoot(esp, variables),
        Store(folder / "state"),
        folder / "trusted-keys",
        folder / "cache",
        vendor_keys=folder / "vendor-keys",
        config=folder / "config" / "hypernet",
        built=folder / "os-release",
    )
    lab = Lab(folder, machine)
    lab.boot("a", selected=f"hypernet_{running.version}.efi")
    return lab
