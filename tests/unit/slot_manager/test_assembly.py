# SPDX-License-Identifier: Apache-2.0
"""Partitions made from a source and two slots, on real loop devices and files: what arrives, and where it
came from.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.slot_manager import blocks as work
from agents.slot_manager.assembly import Statistics, assemble
from agents.slot_manager.errors import (
    ChecksumMismatch,
)
from agents.slot_manager.medium import Medium
from agents.slot_manager.plan import CHAPTER_BLOCKS, ZERO_HASH
from common import process
from common.image.hashtree import HashTree, TreeBuilder, Unknown
from common.image.origin import Fetcher
from tests.unit.slot_manager.media import GIB, MIB, loop_device, noise
from tests.unit.slot_manager.origins import BLOCK, NEW, OLD, Bytes, Leaves, Sink, make


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


@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize("width", [8, 32])
def test_each_block_comes_from_where_it_is_cheapest(
    target: Path, running: Path, sector: int, width: int
) -> None:
    target.write_bytes(bytes(7 * MIB) + OLD[: 5 * MIB] + NEW[-MIB - BLOCK :] + bytes(19 * MIB))
    held = target.read_bytes()[: 14 * MIB]
    origin, sink = Bytes(NEW), Sink()
    with loop_device(running) as old, loop_device(target, f"--sector-size={sector}") as device:
        found = make(
            NEW,
            device,
            origin=origin,
            expected=Leaves(NEW, width),
            running=old,
            said=OLD[4 * MIB :],  # a tree that speaks of other places
            held=held,
            leaf=sink,
        )
    assert target.read_bytes()[: len(NEW)] == NEW
    assert sink.joined == Leaves(NEW).whole
    assert found.total == len(NEW) == found.copied + found.skipped + found.zero + found.fetched
    assert found.fetched == origin.read_bytes


def test_nothing_is_fetched_but_what_is_new(target: Path, running: Path) -> None:
    origin = Bytes(NEW)
    found = make(NEW, target, origin=origin, running=running, said=OLD)
    assert found == Statistics(len(NEW), copied=5 * MIB, skipped=0, zero=2 * MIB, fetched=2 * MIB + BLOCK)
    assert origin.ranges == [(0, MIB), (8 * MIB, MIB + BLOCK)]
    assert target.read_bytes()[: len(NEW)] == NEW
    assert running.read_bytes() == OLD


def test_the_same_system_again_is_only_read(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target.write_bytes(NEW + bytes(BLOCK))
    before = target.stat().st_mtime_ns
    for call in ("pwritev", "fdatasync"):
        monkeypatch.setattr(os, call, None)
    monkeypatch.setattr(Medium, "punch", None)
    sink, counts, origin = Sink(), [0], Bytes(b"")
    found = make(
        NEW, target, origin=origin, size=len(NEW) + BLOCK, in_place=True, leaf=sink, advance=counts.append
    )
    assert found == Statistics(len(NEW) + BLOCK, 0, len(NEW) + BLOCK, 0, 0)
    assert sink.joined == Leaves(NEW).whole
    assert sum(counts) == len(NEW) + BLOCK
    assert (origin.ranges, target.stat().st_mtime_ns) == ([], before)


def test_an_interrupted_install_goes_on_with_what_is_there(target: Path, running: Path) -> None:
    with target.open("r+b") as file:
        file.write(NEW[: 3 * MIB])
        file.seek(9 * MIB)
        file.write(NEW[9 * MIB :])
    origin, sink = Bytes(NEW), Sink()
    counts: list[int] = []
    found = make(
        NEW,
        target,
        origin=origin,
        running=running,
        said=OLD,
        in_place=True,
        leaf=sink,
        advance=counts.append,
    )
    assert sum(counts) == len(NEW)
    assert found == Statistics(len(NEW), 3 * MIB, 3 * MIB + BLOCK, 2 * MIB, MIB)
    assert origin.ranges == [(8 * MIB, MIB)]
    assert target.read_bytes()[: len(NEW)] == NEW
    assert sink.joined == Leaves(NEW).whole


def test_slots_that_do_not_hold_what_their_trees_say_cost_a_fetch(target: Path, running: Path) -> None:
    running.write_bytes(noise(8 * MIB, 99))
    origin = Bytes(NEW)
    found = make(NEW, target, origin=origin, running=running, said=OLD, held=NEW[: 2 * MIB])
    assert found == Statistics(len(NEW), 0, 0, 2 * MIB, len(NEW) - 2 * MIB)
    assert target.read_bytes()[: len(NEW)] == NEW


def test_a_running_slot_that_cannot_be_read_costs_a_fetch(
    target: Path, running: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("agents.slot_manager.medium.Slot.read", unreadable)
    assert make(NEW, target, running=running, said=OLD).fetched == len(NEW) - 2 * MIB
    assert target.read_bytes()[: len(NEW)] == NEW


def test_scattered_blocks_that_do_not_hold_are_fetched_one_by_one(target: Path) -> None:
    data = noise(3 * MIB)
    there = bytearray(data)
    wrong = range(0, 3 * MIB, 7 * BLOCK)
    for at in wrong:
        there[at] ^= 1
    target.write_bytes(there)
    origin = Bytes(data)
    found = make(data, target, origin=origin, in_place=True)
    assert found == Statistics(3 * MIB, 0, 3 * MIB - len(wrong) * BLOCK, 0, len(wrong) * BLOCK)
    assert origin.ranges == [(at, BLOCK) for at in wrong]
    assert target.read_bytes() == data


@pytest.mark.parametrize("width", [8, 32])
def test_a_wrong_block_of_the_source_is_never_written(target: Path, width: int) -> None:
    wrong = 5 * MIB + BLOCK
    data = noise(9 * MIB)
    changed = data[:wrong] + bytes([data[wrong] ^ 1]) + data[wrong + 1 :]
    with pytest.raises(ChecksumMismatch, match=f"system.img differs from its hashes at byte {wrong};"):
        make(data, target, origin=Bytes(changed), expected=Leaves(data, width))
    assert target.read_bytes()[wrong : wrong + BLOCK] == b"\xff" * BLOCK


def test_a_wrong_block_of_the_source_ends_also_a_later_round(target: Path) -> None:
    data = noise(2 * MIB)
    with pytest.raises(ChecksumMismatch, match="differs from its hashes at byte 0;"):
        make(data, target, origin=Bytes(noise(2 * MIB, 2)), in_place=True)


def test_what_the_hashes_do_not_cover_becomes_zeros(target: Path) -> None:
    for tail in (512, BLOCK, MIB + 512, 3 * MIB):
        target.write_bytes(b"\xff" * (32 * MIB))
        sink = Sink()
        with loop_device(target) as device:
            found = make(NEW, device, origin=Bytes(NEW + bytes(tail)), size=len(NEW) + tail, leaf=sink)
            assert found.zero == 2 * MIB + tail
            again = make(NEW, device, size=len(NEW) + tail, in_place=True)
            assert again.skipped == len(NEW) + tail
        assert target.read_bytes() == NEW + bytes(tail) + b"\xff" * (32 * MIB - len(NEW) - tail)
        assert sink.joined == Leaves(NEW).whole


def test_dirty_padding_is_cleaned_in_place(target: Path) -> None:
    target.write_bytes(NEW + b"\1" * MIB)
    found = make(NEW, target, size=len(NEW) + MIB, in_place=True)
    assert found == Statistics(len(NEW) + MIB, 0, len(NEW), MIB, 0)
    assert target.read_bytes() == NEW + bytes(MIB)


def test_without_hashes_the_leaves_tell_what_was_written(target: Path) -> None:
    sink = Sink()
    make(NEW, target, expected=Unknown(len(NEW) // BLOCK), leaf=sink)
    assert sink.joined == Leaves(NEW).whole


def test_the_leaves_make_the_tree_that_veritysetup_makes(target: Path, tmp_path: Path) -> None:
    image, tree = tmp_path / "image", tmp_path / "tree"
    image.write_bytes(NEW)
    answer = process.run(["veritysetup", "format", "--salt=-", str(image), str(tree)], timeout_sec=60)
    lines = answer.stdout.decode().splitlines()
    root_hash = next(line.split()[-1] for line in lines if line.startswith("Root hash"))
    builder = TreeBuilder(tmp_path / "made", len(NEW) // BLOCK, tree.read_bytes()[:512])
    with tree.open("rb") as file:
        expected = HashTree(file.fileno(), 0, root_hash=root_hash, name="tree")
        assemble(
            target,
            len(NEW),
            expected,
            origin=Bytes(NEW),
            leaf=builder.put,
            cancel=threading.Event(),
        )
    assert builder.finish() == root_hash
    assert (tmp_path / "made").read_bytes() == tree.read_bytes()


def test_a_system_of_several_chapters_beyond_2_and_4_gib_arrives(tmp_path: Path) -> None:
    size = 4 * GIB + 512 * MIB
    slot, old = tmp_path / "slot", tmp_path / "running"
    places = [
        at // BLOCK for at in (0, CHAPTER_BLOCKS * BLOCK - BLOCK, 2 * GIB, 4 * GIB - BLOCK, size - BLOCK)
    ]
    parts = {place: noise(BLOCK, place) for place in places}

    class Sparse:
        width, blocks = 32, size // BLOCK

        def leaves(self, first: int, count: int) -> bytes:
            found = bytearray(ZERO_HASH * count)
            for place, part in parts.items():
                if first <= place < first + count:
                    found[(place - first) * 32 : (place - first + 1) * 32] = hashlib.sha256(part).digest()
            return bytes(found)

    class Parts(Bytes):
        def fetcher(self, ranges: Iterable[tuple[int, int]]) -> Fetcher:
            def fetch(view: memoryview, offset: int) -> int:
                view[:] = parts[offset // BLOCK]
                return BLOCK

            return fetch

    for path in (slot, old):
        path.touch()
        os.truncate(path, size)
    with old.open("r+b") as writable:
        os.pwrite(writable.fileno(), parts[places[3]], places[3] * BLOCK)
    with loop_device(slot) as device, loop_device(old) as other:
        found = assemble(
            device,
            size,
            Sparse(),
            origin=Parts(b""),
            running=other,
            running_tree=Sparse(),
            cancel=threading.Event(),
        )
    assert found == Statistics(size, BLOCK, 0, size - 5 * BLOCK, 4 * BLOCK)
    with slot.open("rb") as file:
        for place, part in parts.items():
            assert os.pread(file.fileno(), BLOCK, place * BLOCK) == part
    assert slot.stat().st_blocks * 512 < 16 * MIB


SEEDS = st.lists(st.integers(0, 5), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SEEDS, SEEDS, SEEDS, SEEDS, SEEDS, st.booleans(), st.integers(1, 9), st.integers(0, 3))
def test_any_slots_and_any_trees_lead_to_the_new_system(
    tmp_path: Path,
    new: list[int],
    old: list[int],
    there: list[int],
    said: list[int],
    held: list[int],
    in_place: bool,
    piece: int,
    more: int,
) -> None:
    data, old_data, there_data, said_data, held_data = (
        b"".join(bytes([seed]) * BLOCK for seed in seeds) for seeds in (new, old, there, said, held)
    )
    slot, running = tmp_path / "slot", tmp_path / "old"
    there_data += b"\xff" * (len(data) + 3 * BLOCK)
    slot.write_bytes(there_data)
    running.write_bytes(old_data)
    sink = Sink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "_PIECE_BLOCKS", piece)
        patch.setattr(work, "_ZERO_BLOCKS", 3)
        patch.setattr(work, "CHAPTER_BLOCKS", 16)
        found = make(
            data,
            slot,
            size=len(data) + more * BLOCK,
            running=running,
            said=said_data,
            held=held_data,
            in_place=in_place,
            leaf=sink,
        )
    result = slot.read_bytes()
    assert result[: len(data) + more * BLOCK] == data + bytes(more * BLOCK)
    assert result[len(data) + more * BLOCK :] == there_data[len(data) + more * BLOCK :]
    assert sink.joined == Leaves(data).whole
    assert found.total == found.copied + found.skipped + found.zero + found.fetched
