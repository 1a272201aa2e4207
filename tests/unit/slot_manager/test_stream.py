# SPDX-License-Identifier: Apache-2.0
"""Partitions written as one stream, on real loop devices and files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from agents.slot_manager.assembly import Statistics
from agents.slot_manager.errors import (
    ChecksumMismatch,
    Truncated,
)
from agents.slot_manager.pipeline import BUFFER_BYTES
from common.image.origin import LocalOrigin
from tests.unit.slot_manager.media import GIB, MIB, loop_device, mounted, noise
from tests.unit.slot_manager.origins import NEW, Bytes, send


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file of 32 MiB that is full of ones."""
    path = tmp_path / "slot"
    path.write_bytes(b"\xff" * (32 * MIB))
    return path


@pytest.mark.parametrize("sector", [512, 4096])
def test_a_stream_arrives_on_a_device_of_either_sector_size(target: Path, sector: int) -> None:
    data = noise(9 * MIB + 3 * 4096)
    with loop_device(target, f"--sector-size={sector}") as device:
        assert send(data, device) == Statistics(len(data), 0, 0, 0, len(data))
    assert target.read_bytes() == data + b"\xff" * (32 * MIB - len(data))


@pytest.mark.parametrize("size", [0, 1, 511, 4095, 4097, BUFFER_BYTES - 1, 2 * BUFFER_BYTES + 777])
def test_a_stream_with_any_end_leaves_the_bytes_behind_it(target: Path, size: int) -> None:
    data = noise(size)
    with loop_device(target, "--sector-size=4096") as device:
        send(data, device)
    assert target.read_bytes() == data + b"\xff" * (32 * MIB - size)


def test_zeros_of_a_stream_are_punched_on_a_device(target: Path) -> None:
    data = noise(MIB) + bytes(6 * MIB) + noise(MIB) + bytes(MIB // 2) + noise(MIB // 2) + bytes(100)
    with loop_device(target) as device:
        found = send(data, device)
    assert found == Statistics(len(data), 0, 0, 6 * MIB + MIB // 2, 2 * MIB + MIB // 2 + 100)
    assert target.read_bytes()[: len(data)] == data
    assert target.stat().st_blocks * 512 <= 26 * MIB


def test_zeros_of_a_stream_are_written_where_the_target_cannot_punch(tmp_path: Path) -> None:
    data = bytes(5 * MIB)
    with mounted("ramfs", tmp_path / "ram") as folder:
        (folder / "slot").write_bytes(b"\xff" * (6 * MIB))
        assert send(data, folder / "slot") == Statistics(5 * MIB, 0, 0, 0, 5 * MIB)
        assert (folder / "slot").read_bytes() == data + b"\xff" * MIB


def test_a_stream_with_another_hash_is_refused(target: Path) -> None:
    with pytest.raises(ChecksumMismatch, match=r"system.img does not have the SHA-256 that was signed"):
        send(noise(3 * MIB), target, digest="0" * 64)


def test_a_stream_that_ends_early_is_truncated(target: Path) -> None:
    with pytest.raises(Truncated, match=f"system.img ends at byte {5 * MIB}"):
        send(Bytes(noise(5 * MIB)), target, 6 * MIB)


def test_a_stream_that_gives_little_at_a_time_is_read_to_its_end(target: Path) -> None:
    data = noise(5 * MIB)
    send(Bytes(data, most=70_001), target)
    assert target.read_bytes()[: len(data)] == data


def test_a_file_that_is_changed_meanwhile_is_refused(target: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(noise(30 * MIB))

    def change(count: int) -> None:
        os.utime(image, ns=(1, 1))

    with image.open("rb") as file:
        origin = LocalOrigin(file.fileno(), 30 * MIB, "image")
        with pytest.raises(ChecksumMismatch, match="image was changed while it was read"):
            send(origin, target, digest="", advance=change)


class NoHash:
    """Takes the time of hashing 4 GiB out of a test that is about places."""

    def update(self, data: memoryview) -> None:
        pass

    def hexdigest(self) -> str:
        return ""


def test_a_stream_beyond_4_gib_arrives_at_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashlib, "sha256", NoHash)
    size = 4 * GIB + 3 * MIB
    image, slot = tmp_path / "image", tmp_path / "slot"
    marks = {0: b"first", 2 * GIB - 3: b"around", 4 * GIB - 3: b"beyond", size - 4: b"last"}
    with image.open("wb") as file:
        file.truncate(size)
        for at, mark in marks.items():
            file.seek(at)
            file.write(mark)
    slot.touch()
    os.truncate(slot, size + MIB)
    with image.open("rb") as file, loop_device(slot) as device:
        send(LocalOrigin(file.fileno(), size, "image"), device, digest="")
    with slot.open("rb") as file:
        for at, mark in marks.items():
            assert os.pread(file.fileno(), len(mark), at) == mark
    assert slot.stat().st_blocks * 512 < 16 * MIB


def test_progress_counts_every_byte_of_a_stream_once(target: Path) -> None:
    counts: list[int] = []
    send(NEW, target, advance=counts.append)
    assert sum(counts) == len(NEW)
