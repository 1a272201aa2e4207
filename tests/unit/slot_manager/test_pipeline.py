# SPDX-License-Identifier: Apache-2.0
"""The write path on real loop devices and files: what arrives, what is proven, and how each fault ends."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from agents.slot_manager import pipeline
from agents.slot_manager.errors import ChecksumMismatch, NoSpace, ReadBackMismatch, SlotBooted, Truncated
from agents.slot_manager.pipeline import BUFFER_BYTES, FileSource, LeafCheck, Report, StreamCheck, transfer
from common import process
from common.errors import AgentError, Cancelled, Internal
from common.image.hashtree import HashTree

MIB = 1 << 20
GIB = 1 << 30
LOOP_CONTROL = Path("/dev/loop-control")


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


class Bytes:
    """A source in memory."""

    name = "system.img"

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, view: memoryview, offset: int) -> int:
        piece = self.data[offset : offset + len(view)]
        view[: len(piece)] = piece
        return len(piece)

    def finish(self) -> None:
        pass


def send(
    data: bytes | pipeline.Source,
    target: Path,
    size: int = -1,
    *,
    check_piece: pipeline.Check | None = None,
    cancel: threading.Event | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> Report:
    source = Bytes(data) if isinstance(data, bytes) else data
    return transfer(
        source,
        target,
        len(data) if isinstance(data, bytes) else size,
        check_piece=check_piece or StreamCheck(),
        cancel=cancel or threading.Event(),
        advance=advance,
    )


@contextmanager
def loop_device(backing: Path, *options: str) -> Iterator[Path]:
    if os.geteuid() or not LOOP_CONTROL.exists():
        pytest.skip("loop devices need root")
    done = process.run(["losetup", "--find", "--show", *options, str(backing)], timeout_sec=30, success=None)
    if done.returncode:
        pytest.skip(f"no loop device: {done.stderr.strip()}")
    device = done.stdout.decode().strip()
    try:
        yield Path(device)
    finally:
        process.run(["losetup", "--detach", device], timeout_sec=30)


@contextmanager
def mounted(kind: str, folder: Path, *options: str) -> Iterator[Path]:
    if os.geteuid():
        pytest.skip("mounting needs root")
    folder.mkdir()
    process.run(["mount", "-t", kind, *options, "none", str(folder)], timeout_sec=30)
    try:
        yield folder
    finally:
        process.run(["umount", str(folder)], timeout_sec=30)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file of 32 MiB that is full of ones."""
    path = tmp_path / "slot"
    path.write_bytes(b"\xff" * (32 * MIB))
    return path


@pytest.mark.parametrize("sector", [512, 4096])
def test_a_payload_arrives_on_a_device_of_either_sector_size(target: Path, sector: int) -> None:
    data = noise(9 * MIB + 3 * 4096)
    with loop_device(target, f"--sector-size={sector}") as device:
        report = send(data, device)
        assert report == Report(len(data), 0, direct=True)
    assert target.read_bytes() == data + b"\xff" * (32 * MIB - len(data))


@pytest.mark.parametrize(
    "size", [1, 511, 4095, 4097, BUFFER_BYTES - 1, BUFFER_BYTES, 2 * BUFFER_BYTES + 777]
)
@pytest.mark.parametrize("device", [True, False])
def test_a_last_block_of_any_length_leaves_the_bytes_behind_it(
    target: Path, size: int, device: bool
) -> None:
    data = noise(size)
    with ExitStack() as stack:
        path = stack.enter_context(loop_device(target, "--sector-size=4096")) if device else target
        send(data, path)
    assert target.read_bytes() == data + b"\xff" * (32 * MIB - size)


def test_a_device_whose_size_is_no_multiple_of_4096_can_be_filled(target: Path) -> None:
    data = noise(5 * MIB + 512)
    with loop_device(target, f"--sizelimit={len(data)}") as device:
        send(data, device)
    assert target.read_bytes()[: len(data)] == data


def test_an_empty_payload_changes_nothing(target: Path) -> None:
    assert send(b"", target) == Report(0, 0, direct=True)


def test_zero_runs_are_punched_on_a_device(target: Path) -> None:
    data = noise(MIB) + bytes(6 * MIB) + noise(MIB) + bytes(MIB // 2) + noise(MIB // 2)
    with loop_device(target) as device:
        report = send(data, device)
    assert report.zero_bytes == 6 * MIB
    assert report.written_bytes == 3 * MIB
    assert target.read_bytes()[: len(data)] == data
    assert target.stat().st_blocks * 512 <= 27 * MIB


def test_zeros_at_the_odd_end_are_written(target: Path) -> None:
    data = bytes(2 * MIB + 100)
    assert send(data, target).zero_bytes == 2 * MIB
    assert target.read_bytes()[: len(data)] == data


def test_zeros_are_written_where_the_target_cannot_punch(tmp_path: Path) -> None:
    data = bytes(5 * MIB)
    with mounted("ramfs", tmp_path / "ram") as folder:
        (folder / "slot").write_bytes(b"\xff" * (6 * MIB))
        report = send(data, folder / "slot")
        assert report == Report(5 * MIB, 0, direct=False)
        assert (folder / "slot").read_bytes() == data + b"\xff" * MIB


def test_a_file_system_without_direct_io_gets_the_payload_through_the_cache(tmp_path: Path) -> None:
    data = noise(9 * MIB + 5)
    with mounted("ramfs", tmp_path / "ram") as folder:
        (folder / "slot").touch()
        assert send(data, folder / "slot") == Report(len(data), 0, direct=False)
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
    data = noise(5 * MIB)
    assert not send(data, target).direct
    assert target.read_bytes()[: len(data)] == data


def test_the_stream_hash_is_that_of_the_payload(target: Path) -> None:
    data = noise(9 * MIB + 5)
    found = StreamCheck()
    send(data, target, check_piece=found)
    assert found.hexdigest() == sha256(data).hexdigest()


def test_advance_counts_every_byte_once(target: Path) -> None:
    counts: list[int] = []
    send(noise(9 * MIB + 5), target, advance=counts.append)
    assert sum(counts) == 9 * MIB + 5


def test_a_payload_beyond_4_gib_arrives_at_its_place(tmp_path: Path) -> None:
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
        source = FileSource(file.fileno(), 0, size, name="image")
        report = send(source, device, size, check_piece=lambda view, offset: None)
    assert report.written_bytes + report.zero_bytes == size
    with slot.open("rb") as file:
        for at, mark in marks.items():
            assert os.pread(file.fileno(), len(mark), at) == mark


@pytest.fixture
def vouched(tmp_path: Path) -> tuple[bytes, Path, str]:
    """A payload, the file of its hash tree and its root hash."""
    data, payload, tree = noise(9 * MIB), tmp_path / "payload", tmp_path / "tree"
    payload.write_bytes(data)
    answer = process.run(["veritysetup", "format", "--salt=-", str(payload), str(tree)], timeout_sec=60)
    lines = answer.stdout.decode().splitlines()
    return data, tree, next(line.split()[-1] for line in lines if line.startswith("Root hash"))


def test_a_payload_that_fits_its_hash_tree_is_written(
    target: Path, vouched: tuple[bytes, Path, str]
) -> None:
    data, path, root_hash = vouched
    with path.open("rb") as file:
        tree = HashTree(file.fileno(), 0, root_hash=root_hash, name="tree")
        send(data, target, check_piece=LeafCheck(tree, name="system.img"))
    assert target.read_bytes()[: len(data)] == data


def test_a_block_that_its_hash_tree_does_not_know_is_never_written(
    target: Path, vouched: tuple[bytes, Path, str]
) -> None:
    data, path, root_hash = vouched
    wrong = 8 * MIB + 4096
    changed = data[:wrong] + b"\0" * 4096 + data[wrong + 4096 :]
    with path.open("rb") as file:
        tree = HashTree(file.fileno(), 0, root_hash=root_hash, name="tree")
        with pytest.raises(
            ChecksumMismatch, match=f"system.img differs from its hash tree at byte {wrong};"
        ):
            send(changed, target, check_piece=LeafCheck(tree, name="system.img"))
    assert target.read_bytes()[8 * MIB :] == b"\xff" * (24 * MIB)


def test_a_source_that_ends_early_is_truncated(target: Path) -> None:
    with pytest.raises(Truncated, match=f"system.img ends at byte {5 * MIB}, {MIB} bytes early"):
        send(Bytes(noise(5 * MIB)), target, 6 * MIB)


def test_a_source_that_gives_little_at_a_time_is_read_to_its_end(target: Path) -> None:
    class Slow(Bytes):
        def read(self, view: memoryview, offset: int) -> int:
            return super().read(view[:70_001], offset)

    data = noise(5 * MIB)
    send(Slow(data), target, len(data))
    assert target.read_bytes()[: len(data)] == data


def test_a_source_file_that_is_changed_meanwhile_is_refused(target: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(noise(9 * MIB))
    with image.open("rb") as file:
        source = FileSource(file.fileno(), 0, 9 * MIB, name="image")
        with image.open("r+b") as other:
            other.write(b"changed")
        os.utime(image, ns=(1, 1))
        with pytest.raises(ChecksumMismatch, match="image was changed while it was read"):
            send(source, target, 9 * MIB)


def test_a_source_that_cannot_be_read_is_a_clear_error(target: Path, tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(AgentError, match=r"^image cannot be read at byte 0: Is a directory\.$"):
            send(FileSource(fd, 0, MIB, name="image"), target, MIB)
    finally:
        os.close(fd)


def test_a_target_that_is_too_small_has_no_space(target: Path) -> None:
    with loop_device(target, f"--sizelimit={8 * MIB}") as device, pytest.raises(NoSpace, match=str(device)):
        send(noise(9 * MIB), device)


def test_a_full_file_system_below_the_target_has_no_space(tmp_path: Path) -> None:
    with mounted("tmpfs", tmp_path / "small", "-o", "size=6m") as folder:
        (folder / "slot").touch()
        with pytest.raises(NoSpace, match="there is no space left"):
            send(noise(9 * MIB), folder / "slot")


@pytest.mark.parametrize("call", ["pwritev", "fdatasync", "preadv"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENODEV, errno.ENXIO])
def test_a_device_that_vanishes_is_a_clear_error(
    target: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    def gone(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, gone)
    with pytest.raises(AgentError, match=r"the device failed or is gone .* check the disk and its cabling"):
        send(noise(9 * MIB), target)


def test_a_bit_that_flips_on_the_medium_is_noticed(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fdatasync

    def rotten(fd: int) -> None:
        real(fd)
        with target.open("r+b") as file:
            file.seek(MIB)
            file.write(b"\0rot")

    monkeypatch.setattr(os, "fdatasync", rotten)
    with pytest.raises(ReadBackMismatch, match=rf"gave back other bytes .* between 0 and {BUFFER_BYTES}"):
        send(noise(9 * MIB), target)


def test_a_target_that_loses_its_end_is_noticed(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fdatasync

    def shrinking(fd: int) -> None:
        real(fd)
        os.truncate(target, MIB + 100)

    monkeypatch.setattr(os, "fdatasync", shrinking)
    with pytest.raises(ReadBackMismatch, match="before everything was read back"):
        send(noise(9 * MIB), target)


def test_a_device_that_is_mounted_is_not_written(target: Path, tmp_path: Path) -> None:
    process.run(["mkfs.ext4", "-q", "-F", str(target)], timeout_sec=60)
    before = sha256(target.read_bytes()).digest()
    (tmp_path / "mnt").mkdir()
    with loop_device(target) as device:
        process.run(["mount", "-o", "ro", str(device), str(tmp_path / "mnt")], timeout_sec=30)
        try:
            with pytest.raises(SlotBooted, match="is in use"):
                send(noise(MIB), device)
        finally:
            process.run(["umount", str(tmp_path / "mnt")], timeout_sec=30)
    assert sha256(target.read_bytes()).digest() == before


def test_cancelling_ends_all_threads(target: Path) -> None:
    cancel = threading.Event()
    with pytest.raises(Cancelled):
        send(noise(32 * MIB), target, cancel=cancel, advance=lambda count: cancel.set())
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("install-")] == []
    assert target.read_bytes()[28 * MIB :] == b"\xff" * (4 * MIB)


def test_an_unforeseen_error_of_a_thread_is_an_internal_one(target: Path) -> None:
    def broken(view: memoryview, offset: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(Internal) as caught:
        send(noise(9 * MIB), target, check_piece=broken)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_peak_memory_stays_below_64_mib(tmp_path: Path) -> None:
    (tmp_path / "slot").touch()
    script = """
import sys, threading
from pathlib import Path
from agents.slot_manager.pipeline import StreamCheck, transfer
class Source:
    name = "pattern"
    def read(self, view, offset):
        view[:] = b"\\x5a" * len(view)
        return len(view)
    def finish(self):
        pass
transfer(Source(), Path(sys.argv[1]), 256 << 20, check_piece=StreamCheck(), cancel=threading.Event())
print(open("/proc/self/status").read())
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "slot")],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    peak = re.search(r"VmHWM:\s+(\d+) kB", done.stdout)
    assert peak is not None
    assert int(peak[1]) < 64 * 1024
