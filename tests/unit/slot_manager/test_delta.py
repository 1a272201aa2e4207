# SPDX-License-Identifier: Apache-2.0
"""The planner of delta installs: any plan, carried out on any content, gives exactly the new content."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.slot_manager.delta import (
    MAX_BLOCKS,
    ZERO_HASH,
    Action,
    Leaves,
    Plan,
    Statistics,
    Step,
    plan,
)
from common.errors import AgentError
from common.image.verity import BLOCK_BYTES


def block(seed: int) -> bytes:
    return bytes([seed]) * BLOCK_BYTES


HASHES = {seed: hashlib.sha256(block(seed)).digest() for seed in range(256)}


def leaves(seeds: Iterable[int]) -> Leaves:
    hashes = [HASHES[seed] for seed in seeds]
    return lambda: iter(hashes)


def planned(
    new: list[int], running: Iterable[int] = (), target: Iterable[int] = (), *, entries: int = 1 << 20
) -> Plan:
    return plan(leaves(new), len(new), running=leaves(running), target=leaves(target), index_entries=entries)


def carry_out(
    made: Plan, new: list[int], running: list[int], target: list[int], run_blocks: int
) -> list[int]:
    """Blocks of the target afterwards; each proposal is checked as it has to be. run_blocks: the size of
    the buffer of a copy.
    """
    slot = (target + [0] * len(new))[: max(len(new), len(target))]
    for step in list(made.steps()):
        for start in range(0, step.count, run_blocks):
            places = range(step.block + start, step.block + min(start + run_blocks, step.count))
            source = slice(step.source + start, step.source + start + len(places))
            have = {
                Action.SKIP: slot[places.start : places.stop],
                Action.COPY_RUNNING: running[source],
                Action.COPY_TARGET: slot[source],
                Action.ZERO: [0] * len(places),
                Action.FETCH: [new[place] for place in places],
            }[step.action]
            have += [256] * (len(places) - len(have))
            for place, seed in zip(places, have, strict=True):
                if seed != new[place]:
                    assert step.action is not Action.FETCH
                    made.reject(place)
                    seed = new[place]
                slot[place] = seed
    return slot[: len(new)]


SEEDS = st.lists(st.integers(0, 6), max_size=24)


@given(SEEDS, SEEDS, SEEDS, st.integers(1, 9), st.integers(1, 5))
def test_any_plan_carried_out_gives_the_new_content_without_a_rejected_proposal(
    new: list[int], running: list[int], target: list[int], entries: int, run_blocks: int
) -> None:
    made = planned(new, running, target, entries=entries)
    before = made.statistics

    assert carry_out(made, new, running, target, run_blocks) == new
    assert made.statistics == before


@given(SEEDS, SEEDS, SEEDS, SEEDS, SEEDS)
def test_trees_that_lie_about_their_slots_still_lead_to_the_new_content(
    new: list[int], running: list[int], target: list[int], said_running: list[int], said_target: list[int]
) -> None:
    made = planned(new, said_running, said_target)

    assert carry_out(made, new, running, target, 3) == new
    parts = made.statistics
    assert parts.total == parts.copied + parts.skipped + parts.zero + parts.fetched


@given(SEEDS, SEEDS)
def test_nothing_is_fetched_that_the_running_slot_holds(new: list[int], running: list[int]) -> None:
    made = planned(new, running)

    fetched = [seed for seed in new if seed not in running and seed != 0]
    assert made.statistics.fetched == len(fetched) * BLOCK_BYTES


@given(SEEDS, SEEDS, SEEDS)
def test_the_number_of_passes_changes_nothing_about_what_is_fetched(
    new: list[int], running: list[int], target: list[int]
) -> None:
    one = planned(new, running)
    many = planned(new, running, entries=1)

    assert one.statistics == many.statistics


@settings(max_examples=50)
@given(SEEDS, SEEDS, SEEDS, st.integers(1, 7))
def test_hashes_may_come_one_by_one_or_many_at_once(
    new: list[int], running: list[int], target: list[int], size: int
) -> None:
    def grouped(seeds: list[int]) -> Leaves:
        joined = b"".join(HASHES[seed] for seed in seeds)
        return lambda: (joined[at : at + 32 * size] for at in range(0, len(joined), 32 * size))

    other = plan(grouped(new), len(new), running=grouped(running), target=grouped(target))

    assert list(other.steps()) == list(planned(new, running, target).steps())


def test_each_kind_of_block_gets_its_step_and_is_counted() -> None:
    made = planned([1, 2, 3, 0, 9, 8], [7, 2, 3], [1, 5, 5, 5, 5, 5, 8])

    assert list(made.steps()) == [
        Step(Action.SKIP, 0, 1),
        Step(Action.COPY_RUNNING, 1, 2, 1),
        Step(Action.ZERO, 3, 1),
        Step(Action.FETCH, 4, 1),
        Step(Action.COPY_TARGET, 5, 1, 6),
    ]
    assert made.statistics == Statistics(
        total=6 * BLOCK_BYTES,
        copied=3 * BLOCK_BYTES,
        skipped=BLOCK_BYTES,
        zero=BLOCK_BYTES,
        fetched=BLOCK_BYTES,
    )


def test_a_block_of_the_target_that_is_overwritten_before_is_not_copied() -> None:
    assert list(planned([1, 2], [], [2, 3]).steps()) == [Step(Action.FETCH, 0, 2)]


def test_a_block_of_the_target_that_stays_is_copied_to_a_later_place() -> None:
    assert list(planned([2, 2], [], [2, 3]).steps()) == [
        Step(Action.SKIP, 0, 1),
        Step(Action.COPY_TARGET, 1, 1, 0),
    ]


def test_the_same_system_again_writes_nothing() -> None:
    seeds = [random.Random(0).randrange(256) for _ in range(500)]

    assert list(planned(seeds, seeds, seeds).steps()) == [Step(Action.SKIP, 0, 500)]


def test_a_moved_file_is_copied_in_one_run_although_it_holds_repeated_blocks() -> None:
    file = [5, 2, 1, 1, 3, 1, 2, 4]

    assert list(planned([9, *file], [1, 3, *file, 2]).steps()) == [
        Step(Action.FETCH, 0, 1),
        Step(Action.COPY_RUNNING, 1, 8, 2),
    ]


@pytest.mark.parametrize(
    ("gap_blocks", "expected"),
    [(0, [(0, 1), (2, 1), (6, 2)]), (2, [(0, 3), (6, 2)]), (4, [(0, 8)])],
)
def test_ranges_less_than_the_gap_apart_become_one_request(
    gap_blocks: int, expected: list[tuple[int, int]]
) -> None:
    made = planned([1, 0, 2, 0, 0, 0, 3, 4])

    wanted = [(first * BLOCK_BYTES, count * BLOCK_BYTES) for first, count in expected]
    assert list(made.fetch_ranges(gap_blocks * BLOCK_BYTES)) == wanted


@pytest.mark.parametrize("blocks", [2, 4, -1, MAX_BLOCKS + 1])
def test_a_tree_with_another_number_of_hashes_is_refused(blocks: int) -> None:
    with pytest.raises(AgentError, match=r"\.$"):
        plan(leaves([1, 2, 3]), blocks, running=leaves([]), target=leaves([]))


def test_many_blocks_alike_in_both_systems_take_linear_time() -> None:
    made = planned([1] * 100_000, [1] * 100_000, [2] * 100_000)

    assert made.statistics.copied == 100_000 * BLOCK_BYTES


def test_the_zero_hash_is_that_of_a_block_of_zeros() -> None:
    assert HASHES[0] == ZERO_HASH
