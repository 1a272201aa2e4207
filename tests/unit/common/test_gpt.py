# SPDX-License-Identifier: Apache-2.0
"""The GPT reader, on tables that sfdisk wrote and on damaged ones."""

from __future__ import annotations

import binascii
import contextlib
import os
import struct
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common import gpt, process

MIB = 1 << 20
SIZE = 16 * MIB
SCRIPT = """label: gpt
label-id: 11111111-2222-3333-4444-555555555555
size=2MiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=esp
size=3MiB, name=system_a, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709,uuid=AAAAAAAA-0000-4000-8000-000000000001
"""


def make(path: Path) -> Path:
    with open(path, "wb") as file:
        file.truncate(SIZE)
    process.run(["sfdisk", "--quiet", str(path)], timeout_sec=30, stdin=SCRIPT.encode())
    return path


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return make(tmp_path / "disk.img")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def read(path: Path) -> gpt.Table:
    with opened(path) as fd:
        return gpt.read(fd, name=path.name)


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def test_partitions_are_read_as_sfdisk_wrote_them(disk: Path) -> None:
    table = read(disk)
    assert table.disk_uuid == uuid.UUID("11111111-2222-3333-4444-555555555555")
    assert (table.sector_size, table.end_bytes, table.from_backup) == (512, SIZE, False)
    (system,) = table.by_label("system_a")
    assert system == gpt.Partition(
        2,
        gpt.ROOT_X86_64,
        uuid.UUID("aaaaaaaa-0000-4000-8000-000000000001"),
        "system_a",
        3 * MIB,
        3 * MIB,
    )
    assert [partition.label for partition in table.by_type(gpt.ESP)] == ["esp"]


def with_4096_byte_sectors(path: Path) -> Path:
    """sfdisk writes such tables only to devices that have such sectors, so this one is made by hand."""
    identity = uuid.UUID(int=7).bytes_le
    entry = struct.pack(
        "<16s16sQQQ72s", gpt.ROOT_X86_64.bytes_le, identity, 6, 9, 0, "root".encode("utf-16-le")
    )
    entries = entry.ljust(128 * 128, b"\0")
    fields = [b"EFI PART", b"\0\0\1\0", 92, 0, 0, 1, SIZE // 4096 - 1, 6, 100, identity, 2, 128, 128]
    layout = "<8s4sIIIQQQQ16sQIII"
    header = struct.pack(layout, *fields, binascii.crc32(entries))
    header = struct.pack(layout, *fields[:3], binascii.crc32(header), *fields[4:], binascii.crc32(entries))
    with open(path, "wb") as file:
        file.truncate(SIZE)
        file.seek(4096)
        file.write(header.ljust(4096, b"\0") + entries)
    return path


def test_sectors_of_4096_bytes_are_found(tmp_path: Path) -> None:
    table = read(with_4096_byte_sectors(tmp_path / "disk.img"))
    assert (table.sector_size, table.end_bytes) == (4096, SIZE)
    assert [(part.label, part.offset_bytes, part.size_bytes) for part in table.partitions] == [
        ("root", 6 * 4096, 4 * 4096)
    ]


@pytest.mark.parametrize("offset", [512 + 20, 2 * 512 + 60])
def test_the_backup_serves_when_the_primary_is_damaged(disk: Path, offset: int) -> None:
    before = read(disk)
    overwrite(disk, offset, b"\xff\xff")
    after = read(disk)
    assert after.from_backup
    assert after.partitions == before.partitions
    assert after.end_bytes == before.end_bytes


def test_a_damaged_backup_does_not_matter(disk: Path) -> None:
    overwrite(disk, SIZE - 512, bytes(512))
    assert not read(disk).from_backup


def test_a_table_with_both_copies_damaged_is_refused(disk: Path) -> None:
    overwrite(disk, 512 + 20, b"\xff\xff")
    overwrite(disk, SIZE - 512 + 20, b"\xff\xff")
    with pytest.raises(gpt.NoPartitionTable, match="checksum"):
        read(disk)


def test_a_file_that_was_cut_short_still_tells_its_size(disk: Path) -> None:
    os.truncate(disk, 5 * MIB)
    assert read(disk).end_bytes == SIZE


@pytest.mark.parametrize("content", [b"", b"x", bytes(MIB), b"EFI PART" * 200])
def test_other_files_are_refused_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(gpt.NoPartitionTable) as caught:
        read(path)
    assert "file holds no usable GPT" in str(caught.value)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 34 * 512), st.binary(min_size=1, max_size=16)), min_size=1, max_size=4
    ),
    resealed=st.booleans(),
)
def test_no_damage_makes_the_reader_fail_otherwise_than_with_its_own_error(
    tmp_path: Path, changes: list[tuple[int, bytes]], resealed: bool
) -> None:
    path = tmp_path / "damaged.img"
    if not (tmp_path / "whole.img").exists():
        make(tmp_path / "whole.img")
    raw = bytearray((tmp_path / "whole.img").read_bytes()[: 40 * 512])
    for offset, data in changes:
        raw[offset : offset + len(data)] = data
    if resealed:  # wrong values behind a right checksum
        raw[512 + 88 : 512 + 92] = binascii.crc32(raw[1024 : 1024 + 128 * 128]).to_bytes(4, "little")
        raw[512 + 16 : 512 + 20] = bytes(4)
        raw[512 + 16 : 512 + 20] = binascii.crc32(raw[512 : 512 + 92]).to_bytes(4, "little")
    path.write_bytes(raw)
    with contextlib.suppress(gpt.NoPartitionTable):
        read(path)
