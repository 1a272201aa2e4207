# SPDX-License-Identifier: Apache-2.0
"""The planner: any plan, carried out on any content, gives exactly the new content, and fetches little."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.slot_manager import plan as planner
from agents.slot_manager.plan import CHAPTER_BLOCKS, ZERO_HASH, Action, Step, plan
from common.errors import AgentError
from common.image.hashtree import Unknown
from common.image.verity import BLOCK_BYTES


def block(seed: int) -> bytes:
    return bytes([seed]) * BLOCK_BYTES


HASHES = {seed: hashlib.sha256(block(seed)).digest() for seed in range(256)}


class Tree:
    """The hashes of blocks that are told by their seeds; those from `broken` on cannot be read."""

    def __init__(self, seeds: Iterable[int], width: int = 32, broken: int = 1 << 40) -> None:
        hashes = [HASHES[seed][:width] for seed in seeds]
        self.width, self.blocks = width, len(hashes)
        self._joined, self._broken = b"".join(hashes), broken

    def leaves(self, first: int, count: int) -> bytes:
        if first < 0 or first + count > min(self.blocks, self._broken):
            raise AgentError("There is no such block.")
        return self._joined[first * self.width : (first + count) * self.width]


def steps_of(
    new: list[int],
    running: Iterable[int] = (),
    target: Iterable[int] = (),
    *,
    size: int = 1 << 16,
    more: int = 0,
    width: int = 32,
) -> list[Step]:
    """The steps of all chapters of `size` blocks; `more` blocks are padding."""
    trees = Tree(running, width), Tree(target, width)
    expected, end = Tree(new, width), len(new) + more
    found: list[Step] = []
    for first in range(0, end, size):
        made = plan(expected, first, min(size, end - first), running=trees[0], target=trees[1])
        found += made.steps()
    return found


def carry_out(
    steps: list[Step], new: list[int], running: list[int], target: list[int]
) -> tuple[list[int], int]:
    """Blocks of the target afterwards, and how many proposals did not hold."""
    slot = (target + [0] * len(new))[: max(len(new), len(target))]
    wrong = 0
    for step in steps:
        for at in range(step.count):
            place, source = step.block + at, step.source + at
            match step.action:
                case Action.SKIP:
                    seed = slot[place]
                case Action.COPY_RUNNING:
                    seed = running[source] if source < len(running) else -1
                case Action.COPY_TARGET:
                    seed = slot[source]
                case Action.ZERO:
                    seed = 0
                case Action.FETCH:
                    seed = new[place]
            if seed != new[place]:
                assert step.action is not Action.FETCH
                wrong += 1
            slot[place] = new[place]
    return slot[: len(new)], wrong


def blocks_of(steps: list[Step], action: Action) -> int:
    return sum(step.count for step in steps if step.action is action)


SEEDS = st.lists(st.integers(0, 6), max_size=24)
SIZES = st.integers(1, 30)


@given(SEEDS, SEEDS, SEEDS, SIZES, st.sampled_from([8, 32]))
def test_every_proposal_of_a_plan_holds_when_it_is_carried_out(
    new: list[int], running: list[int], target: list[int], size: int, width: int
) -> None:
    steps = steps_of(new, running, target, size=size, width=width)

    assert carry_out(steps, new, running, target) == (new, 0)


@given(SEEDS, SEEDS, SEEDS, SIZES, st.integers(0, 5))
def test_the_steps_are_for_each_block_once_and_ascending(
    new: list[int], running: list[int], target: list[int], size: int, more: int
) -> None:
    steps = steps_of(new, running, target, size=size, more=more)

    assert [step.block + at for step in steps for at in range(step.count)] == list(range(len(new) + more))


@given(SEEDS, SEEDS, SEEDS, SIZES)
def test_nothing_is_fetched_that_the_running_slot_holds(
    new: list[int], running: list[int], target: list[int], size: int
) -> None:
    fetched = blocks_of(steps_of(new, running, target, size=size), Action.FETCH)

    assert fetched <= len([seed for seed in new if seed not in running and seed != 0])


@given(SEEDS, SEEDS, SEEDS)
def test_nothing_is_fetched_that_stays_in_the_target_or_comes_later_there(
    new: list[int], running: list[int], target: list[int]
) -> None:
    for step in steps_of(new, running, target):
        if step.action is Action.FETCH:
            for place in range(step.block, step.block + step.count):
                stays = {seed for seed, kept in zip(target, new, strict=False) if seed == kept}
                assert new[place] not in stays.union(target[place:])


def test_each_kind_of_block_gets_its_step() -> None:
    assert steps_of([1, 2, 3, 0, 9, 8], [7, 2, 3], [1, 5, 5, 5, 5, 5, 8], more=2) == [
        Step(Action.SKIP, 0, 1),
        Step(Action.COPY_RUNNING, 1, 2, 1),
        Step(Action.ZERO, 3, 1),
        Step(Action.FETCH, 4, 1),
        Step(Action.COPY_TARGET, 5, 1, 6),
        Step(Action.ZERO, 6, 2),
    ]


def test_a_block_of_the_target_that_is_overwritten_before_is_not_copied() -> None:
    assert steps_of([1, 2], [], [2, 3]) == [Step(Action.FETCH, 0, 2)]


def test_a_block_of_the_target_that_stays_is_copied_to_a_later_place() -> None:
    assert steps_of([2, 2], [], [2, 3]) == [Step(Action.SKIP, 0, 1), Step(Action.COPY_TARGET, 1, 1, 0)]


def test_a_block_of_the_target_in_an_earlier_chapter_is_not_copied() -> None:
    assert steps_of([2, 2], [], [2, 3], size=1) == [Step(Action.SKIP, 0, 1), Step(Action.FETCH, 1, 1)]


def test_a_block_of_the_target_in_a_later_chapter_is_copied() -> None:
    assert steps_of([2, 9], [], [3, 3, 2], size=1)[0] == Step(Action.COPY_TARGET, 0, 1, 2)


def test_all_blocks_of_one_hash_get_the_source_of_the_first() -> None:
    assert steps_of([5, 1, 5, 2, 5], [9, 5]) == [
        Step(Action.COPY_RUNNING, 0, 1, 1),
        Step(Action.FETCH, 1, 1),
        Step(Action.COPY_RUNNING, 2, 1, 1),
        Step(Action.FETCH, 3, 1),
        Step(Action.COPY_RUNNING, 4, 1, 1),
    ]


def test_a_moved_file_is_copied_in_one_run_although_it_holds_repeated_blocks() -> None:
    file = [5, 2, 1, 1, 3, 1, 2, 4]

    assert steps_of([9, *file], [1, 3, *file, 2]) == [
        Step(Action.FETCH, 0, 1),
        Step(Action.COPY_RUNNING, 1, 8, 2),
    ]


def test_the_same_system_again_writes_nothing() -> None:
    seeds = [random.Random(0).randrange(256) for _ in range(500)]

    assert steps_of(seeds, seeds, seeds) == [Step(Action.SKIP, 0, 500)]


def test_in_place_everything_is_proposed_with_its_padding() -> None:
    assert list(plan(Tree([1, 0, 2]), 1, 4, in_place=True).steps()) == [Step(Action.SKIP, 1, 4)]


def test_without_hashes_everything_is_fetched() -> None:
    made = plan(Unknown(3), 0, 4, running=Tree([1, 2, 3]), target=Tree([0, 0, 0]))

    assert list(made.steps()) == [Step(Action.FETCH, 0, 3), Step(Action.ZERO, 3, 1)]


def test_a_tree_of_a_slot_that_cannot_be_read_counts_up_to_the_damage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(planner, "_PIECE_BLOCKS", 2)
    made = plan(Tree([3, 9, 7, 5]), 0, 4, running=Tree([9, 3, 5, 7], broken=3))

    assert list(made.steps()) == [
        Step(Action.COPY_RUNNING, 0, 1, 1),
        Step(Action.COPY_RUNNING, 1, 1, 0),
        Step(Action.FETCH, 2, 2),
    ]


def test_a_tree_of_the_new_system_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(AgentError, match="There is no such block"):
        plan(Tree([1, 2, 3], broken=2), 0, 3)


def test_what_is_fetched_is_told_in_ranges_of_bytes() -> None:
    made = plan(Tree([1, 2, 0, 0, 3, 4]), 0, 6, running=Tree([2]))

    assert list(made.fetch_ranges()) == [(0, BLOCK_BYTES), (4 * BLOCK_BYTES, 2 * BLOCK_BYTES)]


def test_the_zero_hash_is_that_of_a_block_of_zeros() -> None:
    assert HASHES[0] == ZERO_HASH


@pytest.mark.parametrize("kind", ["alike", "random"])
def test_a_chapter_of_a_25_gib_system_takes_little_memory(kind: str) -> None:
    """Measured in a process of its own: what the planner adds at most."""
    script = """
import random, sys
from array import array
from agents.slot_manager.plan import CHAPTER_BLOCKS, plan
blocks = 25 * (1 << 18)
class Tree:
    width, blocks = 8, blocks
    def __init__(self, seed):
        self.seed = seed
    def leaves(self, first, count):
        if self.seed < 0:
            return b"12345678" * count
        return random.Random(self.seed + first).randbytes(8 * count)
def peak():
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
seeds = (-1, -1, -1) if sys.argv[1] == "alike" else (1, 2, 8193)
new, running, target = map(Tree, seeds)
before = peak()
made = plan(new, 3 * CHAPTER_BLOCKS, CHAPTER_BLOCKS, running=running, target=target)
assert sum(step.count for step in made.steps()) == CHAPTER_BLOCKS
print(peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, kind],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 24 * 1024


def test_a_chapter_is_256_mib() -> None:
    assert CHAPTER_BLOCKS * BLOCK_BYTES == 256 << 20
