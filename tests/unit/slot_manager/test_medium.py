# SPDX-License-Identifier: Apache-2.0
"""Writing to, punching and reading back real loop devices and files."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import pytest

from agents.slot_manager import medium
from agents.slot_manager.errors import NoSpace, ReadBackMismatch, SlotBooted
from agents.slot_manager.medium import Buffer, Medium, Slot, buffers
from common import process
from common.errors import AgentError
from tests.unit.slot_manager.media import MIB, loop_device, mounted, noise


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file of 8 MiB that is full of ones."""
    path = tmp_path / "slot"
    path.write_bytes(b"\xff" * (8 * MIB))
    return path


def filled(data: bytes) -> tuple[Buffer, Buffer]:
    """A buffer of 2 MiB that begins with the data, and one to read back into."""
    first, second = buffers(2, 2 * MIB)
    first.view[: len(data)] = data
    return first, second


def send(path: Path, data: bytes, offset: int = 0) -> bool:
    """Write and read back; whether the page cache was kept out."""
    buffer, scratch = filled(data)
    with Medium(path) as opened:
        opened.write(buffer.view[: len(data)], offset)
        opened.flush()
        opened.compare(buffer, 0, len(data), offset, scratch)
        return opened.direct


@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize("size", [1, 511, 4095, 4097, MIB, MIB + 777])
def test_bytes_of_any_number_arrive_and_those_behind_stay(target: Path, size: int, sector: int) -> None:
    data = noise(size)
    with loop_device(target, f"--sector-size={sector}") as device:
        assert send(device, data, MIB)
    assert target.read_bytes() == b"\xff" * MIB + data + b"\xff" * (7 * MIB - size)


def test_a_device_whose_size_is_no_multiple_of_4096_can_be_filled(target: Path) -> None:
    data = noise(MIB + 512)
    with loop_device(target, f"--sizelimit={len(data)}") as device:
        send(device, data)
    assert target.read_bytes()[: len(data)] == data


def test_a_file_system_without_direct_io_is_written_through_the_cache(tmp_path: Path) -> None:
    data = noise(MIB + 5)
    with mounted("ramfs", tmp_path / "ram") as folder:
        (folder / "slot").touch()
        assert not send(folder / "slot", data)
        assert (folder / "slot").read_bytes() == data


def test_direct_io_that_fails_at_the_first_write_is_given_up(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwritev

    def picky(fd: int, views: list[memoryview], offset: int) -> int:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(fd, views, offset)

    monkeypatch.setattr(os, "pwritev", picky)
    data = noise(MIB)
    assert not send(target, data)
    assert target.read_bytes()[:MIB] == data


def test_a_target_that_is_too_small_has_no_space(target: Path) -> None:
    with loop_device(target, f"--sizelimit={MIB}") as device, pytest.raises(NoSpace, match=str(device)):
        send(device, noise(2 * MIB))


def test_a_full_file_system_below_the_target_has_no_space(tmp_path: Path) -> None:
    with mounted("tmpfs", tmp_path / "small", "-o", "size=1m") as folder:
        (folder / "slot").touch()
        with pytest.raises(NoSpace, match="there is no space left"):
            send(folder / "slot", noise(2 * MIB))


def test_punched_bytes_are_zeros_and_take_no_room(target: Path) -> None:
    with loop_device(target) as device, Medium(device) as opened:
        assert opened.punch(2 * MIB, 4 * MIB)
    assert target.read_bytes() == b"\xff" * (2 * MIB) + bytes(4 * MIB) + b"\xff" * (2 * MIB)
    assert target.stat().st_blocks * 512 <= 5 * MIB


def test_a_target_that_cannot_punch_says_so(tmp_path: Path) -> None:
    with mounted("ramfs", tmp_path / "ram") as folder:
        (folder / "slot").write_bytes(b"\xff" * MIB)
        with Medium(folder / "slot") as opened:
            assert not opened.punch(0, MIB)
            assert not opened.punch(0, MIB)
        assert (folder / "slot").read_bytes() == b"\xff" * MIB


@pytest.mark.parametrize("call", ["pwritev", "fdatasync", "preadv"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENODEV, errno.ENXIO])
def test_a_device_that_vanishes_is_a_clear_error(
    target: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    def gone(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, gone)
    with pytest.raises(AgentError, match=r"the device failed or is gone .* check the disk and its cabling"):
        send(target, noise(MIB))


def test_a_bit_that_flips_on_the_medium_is_noticed(target: Path) -> None:
    buffer, scratch = filled(noise(MIB))
    with Medium(target) as opened:
        opened.write(buffer.view[:MIB], 0)
        opened.flush()
        with target.open("r+b") as file:
            file.seek(MIB - 1)
            file.write(bytes([buffer.view[MIB - 1] ^ 1]))
        opened.compare(buffer, 0, MIB - 4096, 0, scratch)
        with pytest.raises(ReadBackMismatch, match=rf"gave back other bytes .* between 4096 and {MIB}"):
            opened.compare(buffer, 4096, MIB, 0, scratch)


def test_a_target_that_lost_its_end_is_noticed(target: Path) -> None:
    buffer, scratch = filled(noise(MIB))
    with Medium(target) as opened:
        os.truncate(target, MIB // 2 + 100)
        with pytest.raises(ReadBackMismatch, match=f"ends at byte {MIB // 2 + 100}, before everything"):
            opened.compare(buffer, 0, MIB, 0, scratch)


def test_a_device_that_is_mounted_is_not_written(target: Path, tmp_path: Path) -> None:
    process.run(["mkfs.ext4", "-q", "-F", str(target)], timeout_sec=60)
    before = sha256(target.read_bytes()).digest()
    (tmp_path / "mnt").mkdir()
    with loop_device(target) as device:
        process.run(["mount", "-o", "ro", str(device), str(tmp_path / "mnt")], timeout_sec=30)
        try:
            with pytest.raises(SlotBooted, match="is in use"):
                send(device, noise(MIB))
        finally:
            process.run(["umount", str(tmp_path / "mnt")], timeout_sec=30)
    assert sha256(target.read_bytes()).digest() == before


def test_a_target_that_does_not_exist_is_an_error_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="cannot be opened for writing"):
        Medium(tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("changed", "begin", "end", "is_zero"),
    [
        (None, 0, MIB, True),
        (0, 0, 9, False),
        (8, 0, 9, False),
        (5, 0, 9, False),
        (9, 0, 9, True),
        (3, 4, 9, True),
    ],
)
def test_zeros_are_told_from_anything_else(changed: int | None, begin: int, end: int, is_zero: bool) -> None:
    (buffer,) = buffers(1, MIB)
    if changed is not None:
        buffer.view[changed] = 1
    assert buffer.is_zero(begin, end) is is_zero


@pytest.mark.parametrize("size", [4096, MIB])
def test_the_running_slot_is_read_at_any_block_and_up_to_its_end(target: Path, size: int) -> None:
    data = noise(8 * MIB)
    target.write_bytes(data)
    (buffer,) = buffers(1, MIB)
    with ExitStack() as stack:
        slot = stack.enter_context(Slot(stack.enter_context(loop_device(target))))
        for offset in (0, 4096, 8 * MIB - size):
            assert slot.read(buffer.view[:size], offset) == size
            assert buffer.view[:size] == data[offset : offset + size]
        assert slot.read(buffer.view[:size], 8 * MIB - 4096 + 4096 * (size == 4096)) == 4096 * (size > 4096)


def test_the_running_slot_cannot_be_written_through_its_descriptors(target: Path) -> None:
    with Slot(target) as slot:
        for fd in (slot.fd, slot._direct):
            assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY


def test_buffers_are_aligned_for_direct_io() -> None:
    for buffer in buffers(3, 8192):
        assert buffer._address % medium.ALIGNMENT == 0
        assert len(buffer.view) == 8192
