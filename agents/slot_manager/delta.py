# SPDX-License-Identifier: Apache-2.0
"""Where each block of a new system comes from: the target slot, the running slot, nowhere (zeros) or the
source.

The planner compares leaf hashes of dm-verity trees by their first 8 bytes and so only proposes. Whoever
carries a plan out hashes each block against the new tree when it is used, and calls `Plan.reject` where a
proposal does not hold; a wrong tree, a half-written slot or a collision costs a fetch and nothing else.

Memory: 4 bytes a block for the plan, 8 bytes for each of INDEX_ENTRIES index entries; a larger image is
looked up in several passes. 25 GiB of blocks need 26 MB and 8 MB.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, islice
from typing import Final

from common.errors import AgentError
from common.image.verity import BLOCK_BYTES

HASH_BYTES: Final = 32
ZERO_HASH: Final = hashlib.sha256(bytes(BLOCK_BYTES)).digest()
"""Leaf hash of a block of zeros."""

MAX_BLOCKS: Final = 1 << 26
INDEX_ENTRIES: Final = 1 << 20

Leaves = Callable[[], Iterable[bytes]]
"""Starts over with the leaf hashes of a tree, in order: items of one or more whole hashes each, at most
4096 bytes. Called several times.
"""

_FETCH, _SKIP, _ZERO = 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD
_FROM_TARGET = 1 << 31  # else the number of a block in the running slot
_MAX_OLD_BLOCKS = _FROM_TARGET - 8
_BUCKETS = 1 << 12
_NUMBER = MAX_BLOCKS - 1  # the bits of an index entry that hold the block's number
_PREFIX = (1 << 64) - 1 - _NUMBER
_ITEMS_AT_ONCE = 64


class Action(StrEnum):
    """What to do for a run of blocks; all but the first write to the target."""

    SKIP = "skip"
    COPY_RUNNING = "copy-running"
    COPY_TARGET = "copy-target"
    ZERO = "zero"
    FETCH = "fetch"


@dataclass(frozen=True, slots=True)
class Step:
    """`count` blocks from number `block` on; `source` is the first block to copy, else 0."""

    action: Action
    block: int
    count: int
    source: int = 0


@dataclass(frozen=True, slots=True)
class Statistics:
    """Bytes of the new system by where they come from; the last four add up to `total`."""

    total: int
    copied: int
    skipped: int
    zero: int
    fetched: int


class Plan:
    """A source for each block of the new system.

    To be carried out in ascending order: a copy within the target slot reads a block that a later step
    overwrites, or one that no step overwrites.
    """

    def __init__(self, sources: array[int]) -> None:
        self._sources = sources
        self._blocks = dict.fromkeys(Action, 0)
        for step in self.steps():
            self._blocks[step.action] += step.count

    @property
    def statistics(self) -> Statistics:
        """The bytes, with what was rejected since the plan was made."""
        blocks = self._blocks
        return Statistics(
            total=len(self._sources) * BLOCK_BYTES,
            copied=(blocks[Action.COPY_RUNNING] + blocks[Action.COPY_TARGET]) * BLOCK_BYTES,
            skipped=blocks[Action.SKIP] * BLOCK_BYTES,
            zero=blocks[Action.ZERO] * BLOCK_BYTES,
            fetched=blocks[Action.FETCH] * BLOCK_BYTES,
        )

    def steps(self) -> Iterator[Step]:
        """All blocks in ascending order, as the longest runs that have one source."""
        first, count, head = 0, 0, _FETCH
        for number, source in enumerate(self._sources):
            if count and source == (head + count if head < _ZERO else head):
                count += 1
                continue
            if count:
                yield _step(head, first, count)
            first, count, head = number, 1, source
        if count:
            yield _step(head, first, count)

    def fetch_ranges(self, gap_bytes: int) -> Iterator[tuple[int, int]]:
        """(offset, length) in bytes of what to ask the source for, ascending.

        Ranges less than gap_bytes apart become one, with what lies between them: a request costs time, too.
        """
        start = end = -1
        for step in self.steps():
            if step.action is not Action.FETCH:
                continue
            offset, length = step.block * BLOCK_BYTES, step.count * BLOCK_BYTES
            if start >= 0 and offset - end >= gap_bytes:
                yield start, end - start
                start = -1
            start, end = start if start >= 0 else offset, offset + length
        if start >= 0:
            yield start, end - start

    def reject(self, block: int) -> None:
        """Have `block` fetched after all, for what was proposed turned out to have another hash."""
        self._blocks[_step(self._sources[block], block, 1).action] -= 1
        self._blocks[Action.FETCH] += 1
        self._sources[block] = _FETCH


def plan(
    new: Leaves, blocks: int, *, running: Leaves, target: Leaves, index_entries: int = INDEX_ENTRIES
) -> Plan:
    """A plan for `blocks` blocks whose leaf hashes are `new`, from what the two slots hold.

    running, target: the leaf hashes of the slots' trees, empty where there is no tree. index_entries bounds
    the memory of the index.

    Raises AgentError if there are more blocks than the planner can number, or not as many hashes as blocks.
    """
    if not 0 <= blocks <= MAX_BLOCKS:
        raise AgentError(f"A system of {blocks} blocks cannot be planned, at most {MAX_BLOCKS} are allowed.")
    sources = _in_place(new, blocks, target)
    for old, base in ((running, 0), (target, _FROM_TARGET)):
        # Each pass looks at one share of the buckets, so that its index stays small.
        passes = -(-sources.count(_FETCH) // index_entries)
        for part in range(passes):
            lowest, end = part * _BUCKETS // passes, (part + 1) * _BUCKETS // passes
            _look_up(old, base, _index(new, sources, lowest, end), sources)
    return Plan(sources)


def _in_place(new: Leaves, blocks: int, target: Leaves) -> array[int]:
    """What the target holds at its place already, and the zeros; all the rest is to be fetched."""
    sources = array("I", [_FETCH]) * blocks
    (zero,) = _prefixes([ZERO_HASH])
    there = _prefixes(target())
    number = -1
    # One more than there should be, to notice it.
    for number, prefix in enumerate(islice(_prefixes(new()), blocks + 1)):
        old = next(there, None)
        if number >= blocks:
            break
        if prefix == old:
            sources[number] = _SKIP
        elif prefix == zero:
            sources[number] = _ZERO
    if number + 1 != blocks:
        more = "more" if number >= blocks else f"{number + 1}"
        raise AgentError(f"The hash tree has {more} leaf hashes for {blocks} blocks; get the image again.")
    return sources


def _index(new: Leaves, sources: array[int], lowest: int, end: int) -> list[array[int]]:
    """The blocks without a source yet, sorted by hash: buckets by the low bits of the prefix, entries of its
    high bits and the block's number. Buckets outside of `lowest` up to `end` stay empty.
    """
    buckets = [array("Q") for _ in range(_BUCKETS)]
    for number, (prefix, source) in enumerate(zip(_prefixes(new()), sources, strict=False)):
        if source == _FETCH and lowest <= (bucket := prefix & (_BUCKETS - 1)) < end:
            buckets[bucket].append(prefix & _PREFIX | number)
    for bucket in range(lowest, end):
        buckets[bucket] = array("Q", sorted(buckets[bucket]))
    return buckets


def _look_up(old: Leaves, base: int, index: list[array[int]], sources: array[int]) -> None:
    """Give blocks of the index a source among `old`; prefer one that goes on where the last one was."""
    follow = 0
    for number, prefix in enumerate(islice(_prefixes(old()), _MAX_OLD_BLOCKS)):
        entries = index[prefix & (_BUCKETS - 1)]
        if not entries:
            continue
        key = prefix & _PREFIX
        place = bisect_left(entries, key)
        if place == len(entries) or entries[place] & _PREFIX != key:
            continue
        first = entries[place] & _NUMBER
        if sources[first] == _FETCH:
            # At most once for all blocks of this hash: with many alike, the time stays linear.
            for at in range(place, len(entries)):
                if entries[at] & _PREFIX != key:
                    break
                block = entries[at] & _NUMBER
                if sources[block] == _FETCH and _is_safe(base, number, block, sources):
                    sources[block] = base + number
        alone = place + 1 == len(entries) or entries[place + 1] & _PREFIX != key
        if first != follow and not alone:
            place = bisect_left(entries, key | follow, place)
        if place == len(entries) or entries[place] != key | follow:
            follow = first + 1
            continue
        if follow and sources[follow - 1] == base + number - 1 and _is_safe(base, number, follow, sources):
            sources[follow] = base + number
        follow += 1


def _is_safe(base: int, number: int, block: int, sources: array[int]) -> bool:
    """Whether the old block still is what it was when `block` is written."""
    if not base or number > block:
        return True
    return number < len(sources) and sources[number] == _SKIP


def _prefixes(leaves: Iterable[bytes]) -> Iterator[int]:
    """First 8 bytes of each hash."""
    return chain.from_iterable(_words(iter(leaves)))


def _words(leaves: Iterator[bytes]) -> Iterator[array[int]]:
    while piece := b"".join(islice(leaves, _ITEMS_AT_ONCE)):
        words = array("Q")
        words.frombytes(piece)
        yield words[:: HASH_BYTES // 8]


def _step(source: int, block: int, count: int) -> Step:
    fixed = {_FETCH: Action.FETCH, _SKIP: Action.SKIP, _ZERO: Action.ZERO}.get(source)
    if fixed is not None:
        return Step(fixed, block, count)
    if source >= _FROM_TARGET:
        return Step(Action.COPY_TARGET, block, count, source - _FROM_TARGET)
    return Step(Action.COPY_RUNNING, block, count, source)
