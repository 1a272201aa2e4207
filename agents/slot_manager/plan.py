# SPDX-License-Identifier: Apache-2.0
"""Where each block of a new system comes from: the target slot, the running slot, nowhere (zeros) or the
source of the image.

The planner compares the first 8 bytes of hashes, chapter by chapter, and so only proposes. Whoever carries a
plan out hashes each block that it uses; a wrong tree, a half-written slot or a collision costs a fetch and
nothing else. All work on single blocks is done by C code of Python (sets, dicts, map), and what is in memory
is one chapter, however large the system is.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from itertools import compress, groupby
from typing import Final

from common.errors import AgentError
from common.image.hashtree import HASH_BYTES, Hashes
from common.image.verity import BLOCK_BYTES

CHAPTER_BLOCKS: Final = 1 << 16
"""At most so many blocks are planned at once: 256 MiB."""

ZERO_HASH: Final = sha256(bytes(BLOCK_BYTES)).digest()

_PREFIX_BYTES = 8
_PIECE_BLOCKS = 1 << 13
_MAX_OLD_BLOCKS = 1 << 24
"""64 GiB: what a tree says beyond that is not looked at, so that a damaged one costs no time."""

_FETCH, _SKIP, _ZERO = 0, 1, 2
_RUNNING, _TARGET = 1 << 50, 1 << 52  # plus the distance from a block to its source, which may be negative
_FAR = 1 << 48


class Action(StrEnum):
    """What to do for a run of blocks; all but the first write to the target."""

    SKIP = "skip"
    COPY_RUNNING = "copy-running"
    COPY_TARGET = "copy-target"
    ZERO = "zero"
    FETCH = "fetch"


_FIXED = {_FETCH: Action.FETCH, _SKIP: Action.SKIP, _ZERO: Action.ZERO}


@dataclass(frozen=True, slots=True)
class Step:
    """`count` blocks from number `block` on; `source` is the first block to copy, else 0."""

    action: Action
    block: int
    count: int
    source: int = 0


class Plan:
    """A source for each block of a chapter.

    To be carried out in ascending order: a copy within the target reads a block that a later step
    overwrites, or one that this chapter leaves as it is.
    """

    def __init__(self, first: int, keys: Iterable[int]) -> None:
        self._first, self._keys = first, array("q", keys)

    def steps(self) -> Iterator[Step]:
        """All blocks, ascending, as the longest runs that have one source."""
        block = self._first
        for key, group in groupby(self._keys):
            count = len(list(group))
            fixed = _FIXED.get(key)
            if fixed is not None:
                yield Step(fixed, block, count)
            elif key < _RUNNING + _FAR:
                yield Step(Action.COPY_RUNNING, block, count, key - _RUNNING + block)
            else:
                yield Step(Action.COPY_TARGET, block, count, key - _TARGET + block)
            block += count

    def fetch_ranges(self) -> Iterator[tuple[int, int]]:
        """(offset, length) in bytes of what is to be fetched, ascending and apart."""
        for step in self.steps():
            if step.action is Action.FETCH:
                yield step.block * BLOCK_BYTES, step.count * BLOCK_BYTES


def plan(
    expected: Hashes,
    first: int,
    count: int,
    *,
    running: Hashes | None = None,
    target: Hashes | None = None,
    in_place: bool = False,
) -> Plan:
    """A plan for `count` blocks (at most CHAPTER_BLOCKS) from number `first` on.

    running, target: what the trees of the two slots say that these hold; an unreadable one is worth nothing
    and no error. in_place: propose that the target holds all of it already. Blocks beyond those of
    `expected` are zeros.

    Raises what reading `expected` raises.
    """
    if in_place:
        return Plan(first, [_SKIP] * count)
    known = max(0, min(count, expected.blocks - first))
    keys = [_FETCH] * known
    if known and expected.width:
        new = _prefixes(expected.leaves(first, known), expected.width)
        keys = _in_place(new, first, running, target)
        for old, base in ((running, _RUNNING), (target, _TARGET)):
            if old is not None and old.width:
                _look_up(new, keys, first, old, base)
    return Plan(first, keys + [_ZERO] * (count - known))


def _in_place(new: array[int], first: int, running: Hashes | None, target: Hashes | None) -> list[int]:
    """What the target or else the running slot holds at the same place, and the zeros."""
    (zero,) = _prefixes(ZERO_HASH, HASH_BYTES)
    there, here = _same_place(target, first, len(new)), _same_place(running, first, len(new))
    return [
        _SKIP if prefix == kept else _ZERO if prefix == zero else _RUNNING if prefix == old else _FETCH
        for prefix, kept, old in zip(new, there, here, strict=True)
    ]


def _same_place(old: Hashes | None, first: int, count: int) -> Iterable[int]:
    """Prefixes of `count` blocks, -1 where there is none."""
    have: list[int] = []
    if old is not None and old.width:
        for _, part in _read(old, first, min(old.blocks, first + count)):
            have.extend(part)
    return have + [-1] * (count - len(have))


def _look_up(new: array[int], keys: list[int], first: int, old: Hashes, base: int) -> None:
    """Give what is to be fetched yet a source among `old`."""
    wanted = {prefix for prefix, key in zip(new, keys, strict=True) if key == _FETCH}
    if not wanted:
        return
    found: dict[int, int] = {}
    for start, part in _read(old, 0, min(old.blocks, _MAX_OLD_BLOCKS)):
        numbers = range(start, start + len(part))
        found.update(compress(zip(part, numbers, strict=True), map(wanted.__contains__, part)))
        # The last place of the target is the safest one; of the running slot, any will do.
        if base == _RUNNING and len(found) == len(wanted):
            break
    del wanted
    if found:
        stays: dict[int, int] = {}
        if base == _TARGET:
            stays = {new[at]: first + at for at, key in enumerate(keys) if key == _SKIP and new[at] in found}
        _propose(new, keys, first, old, base, found, stays)


def _propose(
    new: array[int],
    keys: list[int],
    first: int,
    old: Hashes,
    base: int,
    found: dict[int, int],
    stays: dict[int, int],
) -> None:
    """Blocks of one hash all get a source; where the one before goes on in the old system, it is followed.

    A block of the target is a source only if it still is what it was when it is read: no earlier step and no
    earlier chapter wrote there.
    """
    at_old, last = _reader(old), -2  # the source of the block before
    for at, prefix in enumerate(new):
        key, block = keys[at], first + at
        if key not in (_FETCH, base):
            last = key - base + block if -_FAR < key - base < _FAR else -2
            continue
        source = block if key == base else found.get(prefix, -1)
        if source < 0:
            last = -2
            continue
        if source != last + 1 and last >= (0 if base == _RUNNING else block) and at_old(last + 1) == prefix:
            source = last + 1
        if base == _TARGET and source <= block:
            source = stays.get(prefix, -1)
        last = source if source >= 0 else -2
        if source >= 0:
            keys[at] = base + source - block


def _reader(old: Hashes) -> Callable[[int], int]:
    """Random access to the prefixes; -1 where there is none."""
    window, begin = array("Q"), 0

    def at(number: int) -> int:
        nonlocal window, begin
        if not begin <= number < begin + len(window):
            begin = max(0, number)
            window = next((part for _, part in _read(old, begin, min(old.blocks, begin + 256))), array("Q"))
        return window[number - begin] if 0 <= number - begin < len(window) else -1

    return at


def _read(old: Hashes, first: int, end: int) -> Iterator[tuple[int, array[int]]]:
    """Pieces of an old tree, up to the first that cannot be read."""
    for start in range(first, end, _PIECE_BLOCKS):
        try:
            yield start, _prefixes(old.leaves(start, min(_PIECE_BLOCKS, end - start)), old.width)
        except AgentError:
            return


def _prefixes(leaves: bytes, width: int) -> array[int]:
    words = array("Q")
    words.frombytes(leaves)
    return words if width == _PREFIX_BYTES else words[:: width // _PREFIX_BYTES]
