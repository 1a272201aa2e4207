# SPDX-License-Identifier: Apache-2.0
"""The threads of the write path: pieces pass through all of them, and any fault ends all of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agents.slot_manager.errors import ReadBackMismatch
from agents.slot_manager.medium import Medium
from agents.slot_manager.pipeline import BUFFER_BYTES, RING_BUFFERS, Lend, Piece, extend, transfer
from common.errors import AgentError, Cancelled, Internal
from tests.unit.slot_manager.media import MIB, loop_device, mounted, noise

DATA = noise(32 * MIB)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file of 40 MiB that is full of ones."""
    path = tmp_path / "slot"
    path.write_bytes(b"\xff" * (40 * MIB))
    return path


class Copy:
    """The data, piece by piece; steps can be replaced to make them fail."""

    def __init__(self, data: bytes = DATA) -> None:
        self.data = data
        self.checked: list[int] = []
        self.proved: list[Piece] = []
        self.judge: Callable[[Piece], None] = lambda piece: None
        self.book: Callable[[Piece], None] = lambda piece: None

    def pieces(self, lend: Lend) -> Iterator[Piece]:
        for offset in range(0, len(self.data), BUFFER_BYTES):
            part, buffer = self.data[offset : offset + BUFFER_BYTES], lend()
            buffer.view[: len(part)] = part
            yield Piece(offset, len(part), buffer, [(0, len(part))])

    def check(self, piece: Piece) -> None:
        self.checked.append(piece.offset)
        self.judge(piece)

    def proven(self, piece: Piece) -> None:
        self.proved.append(piece)
        self.book(piece)


class Listed(Copy):
    """Pieces as they are told, with buffers full of the data."""

    def __init__(self, *pieces: Piece) -> None:
        super().__init__()
        self.listed = pieces

    def pieces(self, lend: Lend) -> Iterator[Piece]:
        for piece in self.listed:
            if piece.write:
                piece.buffer = lend()
                piece.buffer.view[:] = self.data[:BUFFER_BYTES]
            yield piece


def send(work: Copy, target: Path, cancel: threading.Event | None = None) -> None:
    with Medium(target) as medium:
        transfer(work, medium, cancel or threading.Event())


def threads_of_ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("install-")]


def test_more_pieces_than_buffers_arrive_in_order_and_are_each_proven_once(target: Path) -> None:
    work = Copy()
    assert len(DATA) > RING_BUFFERS * BUFFER_BYTES
    with loop_device(target) as device:
        send(work, device)
    assert target.read_bytes() == DATA + b"\xff" * (8 * MIB)
    assert work.checked == [piece.offset for piece in work.proved] == list(range(0, len(DATA), BUFFER_BYTES))


def test_no_pieces_change_nothing(target: Path) -> None:
    work = Copy(b"")
    send(work, target)
    assert work.proved == []
    assert target.read_bytes() == b"\xff" * (40 * MIB)


def test_only_the_named_parts_of_a_piece_are_written(target: Path) -> None:
    send(Listed(Piece(MIB, BUFFER_BYTES, None, [(4096, 8192), (20480, 24576)])), target)
    expected = bytearray(b"\xff" * (40 * MIB))
    for begin, end in ((4096, 8192), (20480, 24576)):
        expected[MIB + begin : MIB + end] = DATA[begin:end]
    assert target.read_bytes() == expected


def test_a_piece_without_anything_to_write_is_proven_without_a_write(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> int:
        raise AssertionError

    for call in ("pwritev", "fdatasync"):
        monkeypatch.setattr(os, call, never)
    work = Listed(Piece(0, BUFFER_BYTES), Piece(BUFFER_BYTES, BUFFER_BYTES))
    send(work, target)
    assert len(work.proved) == 2


@pytest.mark.parametrize("can_punch", [True, False])
def test_a_piece_of_zeros_needs_no_buffer(tmp_path: Path, can_punch: bool) -> None:
    with mounted("tmpfs" if can_punch else "ramfs", tmp_path / "ram") as folder:
        slot = folder / "slot"
        slot.write_bytes(b"\xff" * (40 * MIB))
        piece = Piece(MIB, 20 * MIB + 4096, zero=[(0, 20 * MIB + 4096)])
        send(Listed(piece), slot)
        assert slot.read_bytes() == b"\xff" * MIB + bytes(20 * MIB + 4096) + b"\xff" * (19 * MIB - 4096)
        assert piece.punched_bytes == (piece.size if can_punch else 0)


def test_a_punched_range_that_does_not_read_back_as_zeros_is_noticed(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Medium, "punch", lambda *_: True)
    with pytest.raises(ReadBackMismatch, match="gave back other bytes"):
        send(Listed(Piece(0, MIB, zero=[(0, MIB)])), target)


def test_a_medium_that_gives_other_bytes_back_is_noticed(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fdatasync

    def rotten(fd: int) -> None:
        real(fd)
        with target.open("r+b") as file:
            file.seek(MIB)
            file.write(b"\0rot")

    monkeypatch.setattr(os, "fdatasync", rotten)
    with pytest.raises(ReadBackMismatch, match="gave back other bytes"):
        send(Copy(), target)
    assert threads_of_ours() == []


@pytest.mark.parametrize("step", ["pieces", "check", "proven"])
def test_an_error_of_any_thread_ends_all(target: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    work, real = Copy(), Copy.pieces

    def fail(piece: Piece) -> None:
        if piece.offset >= 20 * MIB:
            raise AgentError("The step failed.")

    def pieces(self: Copy, lend: Lend) -> Iterator[Piece]:
        for piece in real(self, lend):
            fail(piece)
            yield piece

    if step == "pieces":
        monkeypatch.setattr(Copy, "pieces", pieces)
    elif step == "check":
        work.judge = fail
    else:
        work.book = fail
    with pytest.raises(AgentError, match="The step failed"):
        send(work, target)
    assert threads_of_ours() == []


def test_an_unforeseen_error_of_a_thread_is_an_internal_one(target: Path) -> None:
    def broken(piece: Piece) -> None:
        raise ZeroDivisionError

    work = Copy()
    work.judge = broken
    with pytest.raises(Internal) as caught:
        send(work, target)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_cancelling_ends_all_threads_within_a_second(target: Path) -> None:
    cancel, work = threading.Event(), Copy()
    work.book = lambda piece: cancel.set()
    begin = time.monotonic()
    with pytest.raises(Cancelled):
        send(work, target, cancel)
    assert time.monotonic() - begin < 1
    assert threads_of_ours() == []
    assert target.read_bytes()[len(DATA) :] == b"\xff" * (8 * MIB)


def test_extents_that_touch_become_one() -> None:
    extents: list[tuple[int, int]] = []
    for begin, end in ((0, 4096), (4096, 8192), (12288, 16384)):
        extend(extents, begin, end)
    assert extents == [(0, 8192), (12288, 16384)]


def test_the_service_stays_below_64_mib_while_it_installs(tmp_path: Path) -> None:
    (tmp_path / "slot").touch()
    script = """
import hashlib, sys, threading
from pathlib import Path
import agents.slot_manager.service
from agents.slot_manager.assembly import assemble, stream
from common.image.hashtree import Unknown
size = 300 << 20
class Pattern:
    name, size_bytes, fetched_bytes = "pattern", size, 0
    def fetcher(self, ranges):
        def fetch(view, offset):
            view[:] = b"\\x5a" * len(view)
            return len(view)
        return fetch
    def finish(self):
        pass
class Hashes:
    width, blocks = 32, size // 4096
    def leaves(self, first, count):
        return hashlib.sha256(b"\\x5a" * 4096).digest() * count
target, digest = Path(sys.argv[1]), hashlib.sha256()
for _ in range(size >> 20):
    digest.update(b"\\x5a" * (1 << 20))
stream(target, size, Pattern(), sha256=digest.hexdigest(), cancel=threading.Event())
for _ in range(2):
    assemble(target, size, Hashes(), origin=Pattern(), in_place=True, target_tree=Hashes(), running=target,
        running_tree=Hashes(), cancel=threading.Event())
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
