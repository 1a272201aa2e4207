# SPDX-License-Identifier: Apache-2.0
"""Damaged GUID partition tables, with sectors of 512 and 4096 bytes, checksums mended or not."""

from __future__ import annotations

import binascii
import os
import struct
import uuid
from pathlib import Path

from common import gpt
from common.image import source
from tests.fuzz.hostile import Sample, damaged, explore, survives

SECTORS = 160
ENTRIES = 16
_HEADER = [(8, 4), (12, 4), (16, 4), (24, 8), (32, 8), (40, 8), (48, 8), (72, 8), (80, 4), (84, 4), (88, 4)]


def _table(sector: int) -> bytes:
    """A disk of SECTORS sectors with three partitions and both copies of the table."""
    disk = bytearray(SECTORS * sector)
    entries = bytearray(ENTRIES * 128)
    for number, kind in enumerate((gpt.ESP, gpt.ROOT_X86_64, gpt.ROOT_X86_64_VERITY)):
        first, last = 34 + 30 * number, 34 + 30 * number + 29
        label = f"part{number}".encode("utf-16-le")
        struct.pack_into(
            "<16s16sQQQ72s",
            entries,
            number * 128,
            kind.bytes_le,
            uuid.UUID(int=number + 1).bytes_le,
            first,
            last,
            0,
            label,
        )
    end = SECTORS - 1
    table_sectors = -(-len(entries) // sector)
    for own, other, at in ((1, end, 2), (end, 1, end - table_sectors)):
        head = (b"EFI PART", b"\0\0\1\0", 92, 0, 0, own, other, 34, end - 33, bytes(16), at, ENTRIES, 128, 0)
        struct.pack_into("<8s4sIIIQQQQ16sQIII", disk, own * sector, *head)
        disk[at * sector : at * sector + len(entries)] = entries
    _mend(disk, sector)
    return bytes(disk)


def _mend(disk: bytearray, sector: int) -> None:
    """Make the checksums of both copies right, as far as they can be found."""
    for lba in (1, len(disk) // sector - 1):
        at = lba * sector
        if at + 92 > len(disk):
            continue
        table, count, size = struct.unpack_from("<QII", disk, at + 72)
        length = min(count * size, len(disk))
        if table * sector + length <= len(disk):
            crc = binascii.crc32(disk[table * sector : table * sector + length])
            struct.pack_into("<I", disk, at + 88, crc)
        disk[at + 16 : at + 20] = bytes(4)
        struct.pack_into("<I", disk, at + 16, binascii.crc32(disk[at : at + 92]))


def _sample(sector: int) -> Sample:
    end = SECTORS - 1
    table_sectors = -(-ENTRIES * 128 // sector)
    places = [(sector + offset, width) for offset, width in _HEADER]
    places += [(end * sector + offset, width) for offset, width in _HEADER]
    for at in (2, end - table_sectors):
        for number in range(4):
            entry = at * sector + number * 128
            places += [(entry + 32, 8), (entry + 40, 8), (entry, 8), (entry + 16, 8)]
    hot = [(sector, sector + 92), (2 * sector, 2 * sector + 512)]
    hot += [((end - table_sectors) * sector, (end - table_sectors) * sector + 512)]
    hot += [(end * sector, end * sector + 92)]
    return Sample(_table(sector), places, hot, lambda disk: _mend(disk, sector))


def test_a_damaged_partition_table_is_read_or_refused(scratch_fd: int) -> None:
    def judge(case: bytes) -> None:
        os.ftruncate(scratch_fd, 0)
        os.pwrite(scratch_fd, case, 0)
        found: list[gpt.Table] = []
        survives(lambda: found.append(gpt.read(scratch_fd, name="disk.img")))
        for table in found:
            _check(table)
        image = source.Image(Path("/x/disk.img"), scratch_fd, max(len(case), 1))
        layouts: list[source.Layout] = []
        survives(lambda: layouts.append(source.layout(image)))
        for layout in layouts:
            for part in layout.by_role().values():
                assert 0 < part.offset_bytes < part.end_bytes <= len(case)

    explore("gpt", damaged([_sample(512), _sample(4096)]), judge)


def _check(table: gpt.Table) -> None:
    """What everybody who uses a table relies on."""
    end = 0
    for part in sorted(table.partitions, key=lambda part: part.offset_bytes):
        assert part.offset_bytes >= max(end, table.sector_size)
        assert part.size_bytes > 0
        end = part.end_bytes
