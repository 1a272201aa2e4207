# SPDX-License-Identifier: Apache-2.0
"""Which disk, which partitions, which slot is running.

Found in sysfs: the device of / is a dm-verity device, its slaves are the two partitions of the running slot,
their parent is the disk. The kernel command line is not needed. `HYPERNET_TOPOLOGY=/path.json` replaces all
of this where there is no such disk (tests, containers):

    {"disk": "/disk.img", "booted": "a", "esp": "/efi", "efivars": "/sys/firmware/efi/efivars",
     "slots": {"a": {"data": "/dev/loop1", "tree": "/dev/loop2"}, "b": {"data": ..., "tree": ...}}}
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agents.slot_manager.errors import NoSuchSlot, TopologyError
from common import files, gpt, paths

SLOTS = ("a", "b")
EFIVARS = Path("/sys/firmware/efi/efivars")
OVERRIDE = "HYPERNET_TOPOLOGY"


@dataclass(frozen=True, slots=True)
class SlotDevices:
    """Device nodes of one slot: `data` holds the system, `tree` its dm-verity hash tree."""

    name: str
    data: Path
    tree: Path


@dataclass(frozen=True, slots=True)
class SlotPartitions:
    """The GPT's view of one slot."""

    data: gpt.Partition
    tree: gpt.Partition

    @property
    def root_hash(self) -> str:
        """64 hex digits that both partition UUIDs make together (Discoverable Partitions Specification,
        UAPI.2).
        """
        return self.data.unique_uuid.hex + self.tree.unique_uuid.hex


@dataclass(frozen=True, slots=True)
class Topology:
    """Disk and slots of this machine; `booted` is "a" or "b"."""

    disk: Path
    slots: Mapping[str, SlotDevices]
    booted: str
    esp: Path
    efivars: Path

    @property
    def other(self) -> str:
        """The slot that is not running: the target of every install."""
        return other_slot(self.booted)

    def table(self) -> gpt.Table:
        """The partition table as it is on the disk now. Raises TopologyError."""
        return _read_table(self.disk)

    def partitions(self) -> dict[str, SlotPartitions]:
        """Partitions of both slots as they are on the disk now. Raises TopologyError."""
        table = self.table()
        return {
            slot: SlotPartitions(
                _one(table, f"system_{slot}", self.disk), _one(table, f"system_{slot}_verity", self.disk)
            )
            for slot in SLOTS
        }


def other_slot(slot: str) -> str:
    return "b" if slot == "a" else "a"


def discover(root: Path = Path("/"), sysfs: Path = Path("/sys"), dev: Path = Path("/dev")) -> Topology:
    """The topology of the running system. Raises TopologyError."""
    override = os.environ.get(OVERRIDE)
    if override:
        return load(Path(override))
    device = os.lstat(root).st_dev
    node = sysfs / "dev" / "block" / f"{os.major(device)}:{os.minor(device)}"
    parts = sorted(_members(node))
    if not parts:
        raise TopologyError(
            f"The root file system is on no partition of a disk that {sysfs} knows; nothing to manage."
        )
    disks = {part.parent for part in parts}
    if len(disks) != 1:
        raise TopologyError("The root file system lies on more than one disk; slots must share one disk.")
    disk_dir = disks.pop()
    disk = dev / disk_dir.name.replace("!", "/")
    table = _read_table(disk)
    numbers = {_number(part) for part in parts}
    by_number = {_number(entry): dev / entry.name.replace("!", "/") for entry in _partition_dirs(disk_dir)}
    booted = ""
    slots: dict[str, SlotDevices] = {}
    for slot in SLOTS:
        data, tree = _one(table, f"system_{slot}", disk), _one(table, f"system_{slot}_verity", disk)
        try:
            slots[slot] = SlotDevices(slot, by_number[data.number], by_number[tree.number])
        except KeyError as error:
            raise TopologyError(
                f"The kernel has no device for partition {error} of {disk}; reboot once."
            ) from error
        if data.number in numbers:
            booted = slot
    if not booted:
        raise TopologyError(f"The running system is in neither slot of {disk}; boot from slot a or b first.")
    return Topology(disk, slots, booted, paths.ESP, EFIVARS)


def load(path: Path) -> Topology:
    """The topology described in a JSON file. Raises TopologyError, or a file error."""
    raw = files.read_bounded(path, 16 << 10)
    try:
        data = json.loads(raw)
        slots = {
            slot: SlotDevices(slot, Path(data["slots"][slot]["data"]), Path(data["slots"][slot]["tree"]))
            for slot in SLOTS
        }
        booted = data["booted"]
        esp, efivars = Path(data.get("esp", paths.ESP)), Path(data.get("efivars", EFIVARS))
        disk = Path(data["disk"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TopologyError(
            f"{path} is not a topology: {error!r} is missing or of the wrong type."
        ) from error
    if booted not in SLOTS:
        raise TopologyError(f"{path}: booted must be 'a' or 'b'.")
    return Topology(disk, slots, booted, esp, efivars)


def require_slot(name: str, topology: Topology) -> str:
    """The slot meant by "a", "b", "booted" or "other". Raises NoSuchSlot."""
    meant = {"booted": topology.booted, "other": topology.other}.get(name, name)
    if meant not in SLOTS:
        raise NoSuchSlot(f"There is no slot '{name}'; use a, b, booted or other.")
    return meant


def _members(node: Path) -> list[Path]:
    """sysfs folders of the partitions below a device: itself, or the slaves of a device-mapper device."""
    try:
        real = node.resolve(strict=True)
        if (real / "partition").exists():
            return [real]
        return [part for slave in (real / "slaves").iterdir() for part in _members(slave)]
    except (OSError, RuntimeError):
        return []


def _partition_dirs(disk_dir: Path) -> list[Path]:
    try:
        return [entry for entry in disk_dir.iterdir() if (entry / "partition").exists()]
    except OSError as error:
        raise TopologyError(f"{disk_dir} cannot be read: {error.strerror}.") from error


def _number(part: Path) -> int:
    raw = files.read_bounded(part / "partition", 64)
    try:
        return int(raw)
    except ValueError as error:
        raise TopologyError(f"{part}/partition holds no number.") from error


def _read_table(disk: Path) -> gpt.Table:
    try:
        fd = os.open(disk, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise TopologyError(f"{disk} cannot be opened: {error.strerror}.") from error
    try:
        return gpt.read(fd, name=str(disk))
    finally:
        os.close(fd)


def _one(table: gpt.Table, label: str, disk: Path) -> gpt.Partition:
    found = table.by_label(label)
    if len(found) != 1:
        raise TopologyError(
            f"{disk} has {len(found)} partitions labelled '{label}' where exactly one is needed."
        )
    return found[0]
