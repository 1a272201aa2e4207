# SPDX-License-Identifier: Apache-2.0
"""Partitions made by a static delta, and how each fault of an assembly ends."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agents.slot_manager import blocks as work
from agents.slot_manager.assembly import Statistics
from agents.slot_manager.errors import (
    NotAnImage,
    ReadBackMismatch,
    SlotBooted,
)
from agents.slot_manager.medium import Medium
from agents.slot_manager.plan import Action, Step
from common import process
from common.errors import AgentError, Cancelled
from common.image.hashtree import Unknown
from common.image.origin import Fetcher
from common.image.staticdelta import Step as DeltaStep
from tests.unit.slot_manager.media import MIB, loop_device, noise
from tests.unit.slot_manager.origins import BLOCK, NEW, OLD, Bytes, Leaves, Sink, make, send


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file of 32 MiB that is full of ones."""
    path = tmp_path / "slot"
    path.write_bytes(b"\xff" * (32 * MIB))
    return path


@pytest.fixture
def running(tmp_path: Path) -> Path:
    path = tmp_path / "running"
    path.write_bytes(OLD)
    return path


@dataclass
class Delta:
    """A recipe of given chapters, whose new data is that of a system."""

    steps: list[list[DeltaStep]]
    data: bytes
    fetched: list[int] = field(default_factory=list)

    def chapters(self) -> Iterator[list[DeltaStep]]:
        yield from self.steps

    def fetcher(self, running_fd: int) -> Fetcher:
        assert os.pread(running_fd, 1, 0)

        def fetch(view: memoryview, offset: int) -> int:
            view[:] = self.data[offset : offset + len(view)]
            self.fetched.append(offset)
            return len(view)

        return fetch


def steps(*rows: tuple[str, int, int, int]) -> list[DeltaStep]:
    return [DeltaStep(*row) for row in rows]


def test_a_recipe_is_followed_to_the_letter(target: Path, running: Path) -> None:
    delta = Delta(
        [
            steps(("data", 0, 256, 0), ("copy-running", 256, 768, 256)),
            steps(("zero", 1024, 512, 0), ("copy-running", 1536, 512, 1280), ("data", 2048, 257, 0)),
        ],
        NEW,
    )
    sink, origin = Sink(), Bytes(NEW)
    found = make(
        NEW,
        target,
        origin=origin,
        expected=Unknown(len(NEW) // BLOCK),
        size=len(NEW) + MIB,
        running=running,
        recipe=delta,
        leaf=sink,
    )
    assert found == Statistics(len(NEW) + MIB, 5 * MIB, 0, 3 * MIB, 2 * MIB + BLOCK)
    assert target.read_bytes()[: len(NEW) + MIB] == NEW + bytes(MIB)
    assert sink.joined == Leaves(NEW).whole
    assert origin.ranges == []


def test_a_recipe_that_makes_another_block_is_noticed_by_its_leaves(target: Path, running: Path) -> None:
    delta = Delta([steps(("copy-running", 0, 256, 256), ("data", 256, 1, 0))], NEW)
    sink = Sink()
    make(OLD[: MIB + BLOCK], target, expected=Unknown(257), running=running, recipe=delta, leaf=sink)
    assert sink.joined == Leaves(OLD[MIB : 2 * MIB]).whole + Leaves(NEW[MIB : MIB + BLOCK]).whole


def test_what_a_recipe_cannot_read_is_fetched(target: Path, running: Path) -> None:
    delta = Delta([steps(("copy-running", 0, 256, 0), ("copy-running", 256, 1, 1 << 30))], b"")
    origin = Bytes(OLD)
    make(OLD[: MIB + BLOCK], target, origin=origin, expected=Unknown(257), running=running, recipe=delta)
    assert target.read_bytes()[: MIB + BLOCK] == OLD[: MIB + BLOCK]
    assert origin.ranges == [(MIB, BLOCK)]


def test_a_recipe_that_breaks_its_word_is_put_right_by_the_hashes(target: Path, running: Path) -> None:
    delta = Delta([steps(("data", 0, len(NEW) // BLOCK, 0))], noise(len(NEW), 5))
    found = make(NEW, target, running=running, said=OLD, recipe=delta)
    assert found == Statistics(len(NEW), 5 * MIB, 0, 2 * MIB, 2 * MIB + BLOCK)
    assert target.read_bytes()[: len(NEW)] == NEW


@pytest.mark.parametrize(
    "rows",
    [
        [("data", 0, 3, 0)],
        [("data", 0, 5, 0)],
        [("data", 1, 3, 0)],
        [("data", 0, 2, 0), ("data", 3, 1, 0)],
        [("data", 0, 2, 0), ("data", 1, 3, 0)],
        [("data", 0, 0, 0), ("data", 0, 4, 0)],
        [("copy-running", 0, 4, -1)],
        [],
    ],
)
def test_a_recipe_with_gaps_or_too_much_is_refused(
    target: Path, running: Path, rows: list[tuple[str, int, int, int]]
) -> None:
    with pytest.raises(NotAnImage, match="static delta"):
        make(
            OLD[: 4 * BLOCK], target, expected=Unknown(4), running=running, recipe=Delta([steps(*rows)], OLD)
        )


def test_a_device_that_is_mounted_is_not_written(target: Path, tmp_path: Path) -> None:
    process.run(["mkfs.ext4", "-q", "-F", str(target)], timeout_sec=60)
    (tmp_path / "mnt").mkdir()
    with loop_device(target) as device:
        process.run(["mount", "-o", "ro", str(device), str(tmp_path / "mnt")], timeout_sec=30)
        try:
            with pytest.raises(SlotBooted, match="is in use"):
                make(NEW, device)
        finally:
            process.run(["umount", str(tmp_path / "mnt")], timeout_sec=30)


@pytest.mark.parametrize("call", ["pwritev", "fdatasync"])
def test_a_target_that_vanishes_amid_the_install_is_a_clear_error(
    target: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    calls, real = [0], getattr(os, call)

    def gone(*arguments: object) -> object:
        calls[0] += 1
        if calls[0] > 1:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        return real(*arguments)

    monkeypatch.setattr(os, call, gone)
    with pytest.raises(AgentError, match=r"the device failed or is gone .* check the disk and its cabling"):
        make(NEW + noise(8 * MIB, 9), target, in_place=True)


def test_a_bit_that_flips_on_the_medium_is_noticed(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fdatasync

    def rotten(fd: int) -> None:
        real(fd)
        with target.open("r+b") as file:
            file.seek(2 * MIB)
            file.write(b"\0rot")

    monkeypatch.setattr(os, "fdatasync", rotten)
    for transfer in (send, make):
        with pytest.raises(ReadBackMismatch, match="gave back other bytes"):
            transfer(NEW, target)


def test_blocks_that_cannot_be_read_are_never_taken_for_the_zeros_that_they_should_be(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    real = Medium.punch

    def punched(self: Medium, offset: int, size: int) -> bool:
        monkeypatch.setattr(Medium, "read", readable)
        return real(self, offset, size)

    readable = Medium.read
    monkeypatch.setattr(Medium, "read", unreadable)
    monkeypatch.setattr(Medium, "punch", punched)
    found = make(bytes(2 * MIB), target, in_place=True)
    assert found == Statistics(2 * MIB, 0, 0, 2 * MIB, 0)
    assert target.read_bytes()[: 2 * MIB] == bytes(2 * MIB)


def test_a_target_that_is_too_short_does_not_hold_the_zeros_behind_its_end(tmp_path: Path) -> None:
    (tmp_path / "slot").write_bytes(bytes(MIB))
    with pytest.raises(ReadBackMismatch, match=f"ends at byte {MIB}"):
        make(bytes(2 * MIB), tmp_path / "slot", in_place=True)


@pytest.mark.parametrize("in_place", [True, False])
def test_cancelling_ends_it_within_a_second(target: Path, in_place: bool) -> None:
    data, cancel = noise(32 * MIB), threading.Event()
    target.write_bytes(data)
    begin = time.monotonic()
    with pytest.raises(Cancelled):
        make(data, target, in_place=in_place, cancel=cancel, advance=lambda count: cancel.set())
    assert time.monotonic() - begin < 1.5


def test_nothing_but_the_target_is_opened_for_writing(
    target: Path, running: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str, int]] = []
    real = os.open

    def watched(path: str, flags: int, *rest: int) -> int:
        opened.append((str(path), flags & os.O_ACCMODE))
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", watched)
    make(NEW, target, running=running, said=OLD, held=OLD)
    assert {path for path, mode in opened if mode != os.O_RDONLY} == {str(target)}
    assert str(running) in {path for path, _ in opened}


def test_long_steps_are_cut_into_pieces_and_short_ones_share_them() -> None:
    big = work._PIECE_BLOCKS
    made = [
        Step(Action.FETCH, 0, 3),
        Step(Action.ZERO, 3, 2),
        Step(Action.COPY_RUNNING, 5, 2 * big, 100),
        Step(Action.ZERO, 2 * big + 5, big),
        Step(Action.SKIP, 4 * big, 1),
    ]
    assert list(work._grouped(made)) == [
        [*made[:2], Step(Action.COPY_RUNNING, 5, big - 5, 100)],
        [Step(Action.COPY_RUNNING, big, big, 100 + big - 5)],
        [Step(Action.COPY_RUNNING, 2 * big, 5, 100 + 2 * big - 5)],
        [made[3]],
        [made[4]],
    ]
