# SPDX-License-Identifier: Apache-2.0
"""Bounded reader of GUID partition tables, in files and on block devices.

Reads both headers and checks every checksum, for logical sectors of 512 and 4096 bytes. Offsets and sizes
are in bytes. Only reading is done here: sfdisk owns the writing. Layout: UEFI specification 2.10, chapter
5.3.
"""

from __future__ import annotations

import binascii
import errno
import itertools
import os
import struct
import uuid
from dataclasses import dataclass

from common import files
from common.errors import AgentError

ESP = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
ROOT_X86_64 = uuid.UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")
ROOT_X86_64_VERITY = uuid.UUID("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5")

SECTOR_SIZES = (512, 4096)
MAX_ENTRIES = 1024
MAX_ENTRY_SIZE = 4096

_HEADER = struct.Struct("<8s4sIIIQQQQ16sQIII")
_ENTRY = struct.Struct("<16s16sQQQ72s")


class NoPartitionTable(AgentError):
    """Neither copy of a partition table can be read: not a disk image, or damaged beyond use."""


@dataclass(frozen=True, slots=True)
class Partition:
    """One entry in use; `number` counts from 1 as sfdisk and the kernel do."""

    number: int
    type_uuid: uuid.UUID
    unique_uuid: uuid.UUID
    label: str
    offset_bytes: int
    size_bytes: int

    @property
    def end_bytes(self) -> int:
        return self.offset_bytes + self.size_bytes


@dataclass(frozen=True, slots=True)
class Table:
    """A partition table; `end_bytes` is where the disk ends that it was made for."""

    disk_uuid: uuid.UUID
    sector_size: int
    end_bytes: int
    from_backup: bool
    partitions: tuple[Partition, ...]

    def by_label(self, label: str) -> tuple[Partition, ...]:
        return tuple(partition for partition in self.partitions if partition.label == label)

    def by_type(self, type_uuid: uuid.UUID) -> tuple[Partition, ...]:
        return tuple(partition for partition in self.partitions if partition.type_uuid == type_uuid)


@dataclass(frozen=True, slots=True)
class _Header:
    own_lba: int
    other_lba: int
    disk_uuid: uuid.UUID
    entries_lba: int
    entry_count: int
    entry_size: int
    entries_crc: int


def read(fd: int, *, name: str, size_bytes: int | None = None) -> Table:
    """Partition table of the file or block device behind `fd`; `name` is used in errors.

    The primary copy is preferred; the backup (at the very end) serves when the primary is damaged. An image
    that was cut short still has its primary: compare `Table.end_bytes` with the real size to notice. Raises
    NoPartitionTable.
    """
    size = os.lseek(fd, 0, os.SEEK_END) if size_bytes is None else size_bytes
    why = "there is no GPT header at its start or end"
    for sector in SECTOR_SIZES:
        for lba in (1, size // sector - 1):
            if lba < 1:
                continue
            found = _header(_pread(fd, _HEADER.size, lba * sector, name), lba)
            if found is None:
                continue
            if isinstance(found, str):
                why = found
                continue
            entries = _entries(fd, found, sector, name)
            if isinstance(entries, str):
                why = entries
                continue
            last_lba = max(found.own_lba, found.other_lba)
            return Table(found.disk_uuid, sector, (last_lba + 1) * sector, lba != 1, entries)
    raise NoPartitionTable(
        f"{name} holds no usable GPT partition table ({why}); is it a disk image or a disk?"
    )


def _pread(fd: int, size: int, offset: int, name: str) -> bytes:
    try:
        return files.read_at(fd, size, offset)
    except (OSError, OverflowError) as error:
        number = error.errno if isinstance(error, OSError) else errno.EOVERFLOW
        raise NoPartitionTable(
            f"{name} cannot be read at byte {offset}: {os.strerror(number or 0)}."
        ) from error


def _header(raw: bytes, lba: int) -> _Header | str | None:
    """The header, a clause that says why it is damaged, or None where there is no header at all."""
    if len(raw) < _HEADER.size or raw[:8] != b"EFI PART":
        return None
    (_, revision, size, crc, _, own, other, _, _, disk, table_lba, count, entry_size, table_crc) = (
        _HEADER.unpack(raw)
    )
    if revision != b"\x00\x00\x01\x00" or size != _HEADER.size:
        return "its GPT header has an unknown revision or size"
    if binascii.crc32(raw[:16] + bytes(4) + raw[20 : _HEADER.size]) != crc:
        return "the checksum of its GPT header is wrong"
    if own != lba:
        return "its GPT header stands at the wrong place"
    if not 0 < count <= MAX_ENTRIES or not 128 <= entry_size <= MAX_ENTRY_SIZE or entry_size % 128:
        return "its GPT header names an absurd number or size of entries"
    return _Header(own, other, uuid.UUID(bytes_le=disk), table_lba, count, entry_size, table_crc)


def _entries(fd: int, header: _Header, sector: int, name: str) -> tuple[Partition, ...] | str:
    length = header.entry_count * header.entry_size
    if header.entries_lba < 2 or header.entries_lba >= 1 << 48 or header.other_lba >= 1 << 48:
        return "its GPT header points to an impossible place"
    raw = _pread(fd, length, header.entries_lba * sector, name)
    if len(raw) != length or binascii.crc32(raw) != header.entries_crc:
        return "the checksum of its GPT entries is wrong"
    partitions: list[Partition] = []
    for index in range(header.entry_count):
        entry = raw[index * header.entry_size :][: _ENTRY.size]
        type_raw, unique_raw, first, last, _, label_raw = _ENTRY.unpack(entry)
        if type_raw == bytes(16):
            continue
        if not 0 < first <= last < 1 << 48:
            return f"partition {index + 1} has impossible limits"
        label = label_raw.decode("utf-16-le", errors="replace").split("\0", 1)[0]
        partitions.append(
            Partition(
                index + 1,
                uuid.UUID(bytes_le=type_raw),
                uuid.UUID(bytes_le=unique_raw),
                label,
                first * sector,
                (last - first + 1) * sector,
            )
        )
    used = sorted(partitions, key=lambda partition: partition.offset_bytes)
    for before, after in itertools.pairwise(used):
        if before.end_bytes > after.offset_bytes:
            return f"partitions {before.number} and {after.number} overlap"
    return tuple(partitions)
