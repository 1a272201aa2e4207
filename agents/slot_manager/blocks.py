# SPDX-License-Identifier: Apache-2.0
"""Work of the pipeline, block by block: each from where a plan says, each proven by its hash.

A proposal that does not hold (a slot with other content, a slot that cannot be read) is no error: the block
is not written, and remembered for the next round. A block of the source that does not hold is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import chain
from typing import Protocol

from agents.slot_manager.errors import ChecksumMismatch
from agents.slot_manager.medium import Buffer, Medium, Slot
from agents.slot_manager.pipeline import BUFFER_BYTES, Lend, Piece, extend
from agents.slot_manager.plan import CHAPTER_BLOCKS, ZERO_HASH, Action, Plan, Step, plan
from common.image.errors import misbuilt
from common.image.hashtree import HASH_BYTES, Hashes
from common.image.origin import Fetcher, Origin, fill
from common.image.stream import Advance
from common.image.verity import BLOCK_BYTES

Leaf = Callable[[int, bytes], None]
"""Gets the first block and the SHA-256s (32 bytes each) of blocks that are proven, in any order."""

Rejected = dict[int, bytearray]
"""By the first block of a chapter: a 1 for each of its blocks that was not what was proposed."""

Chapter = tuple[Iterable[Step], Fetcher]
Round = Callable[[Rejected | None], Iterator[Chapter]]
"""Chapters for all blocks, or for those that the round before rejected."""

_PIECE_BLOCKS = BUFFER_BYTES // BLOCK_BYTES
_ZERO_BLOCKS = _PIECE_BLOCKS // 4
"""Zeros of this length are punched; shorter ones are written with what is around them."""

_EMPTY_BLOCKS = 64 * _PIECE_BLOCKS


class RecipeStep(Protocol):
    """As plan.Step; action is one of "copy-running", "zero" and "data"."""

    @property
    def action(self) -> str: ...
    @property
    def block(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def source(self) -> int: ...


class Recipe(Protocol):
    """A static delta, see common.image.staticdelta."""

    def chapters(self) -> Iterable[Iterable[RecipeStep]]:
        """Steps for each block, ascending."""

    def fetcher(self, running_fd: int) -> Fetcher:
        """For the blocks of the "data" steps, ascending. running_fd: the old system."""


@dataclass(slots=True, eq=False)
class _Piece(Piece):
    """A piece with the steps that fill it, the first blocks of those that could not be read, the hashes that
    it has to have, and those that it has.
    """

    steps: list[Step] = field(default_factory=list)
    unread: set[int] = field(default_factory=set)
    expected: bytes = b""
    found: list[tuple[Step, bytes]] = field(default_factory=list)


class Blocks:
    """`size_bytes` of a system with the hashes `expected`; what these do not cover is zeros.

    bytes: what was proven so far, by action. rejected: what the next round has to look for elsewhere.
    """

    def __init__(
        self,
        medium: Medium,
        size_bytes: int,
        expected: Hashes,
        *,
        origin: Origin,
        running: Slot | None,
        leaf: Leaf | None,
        advance: Advance,
    ) -> None:
        self.bytes = dict.fromkeys(Action, 0)
        self.rejected: Rejected | None = None
        self._medium, self._size, self._expected, self._origin = medium, size_bytes, expected, origin
        self._running, self._leaf, self._advance = running, leaf, advance
        self._blocks = -(-size_bytes // BLOCK_BYTES)
        self._chapters: Iterator[Chapter] = iter(())
        self._is_recipe = False

    def begin(self, chapters: Round) -> None:
        self._chapters = chapters(self.rejected)
        self.rejected = {}

    def planned(
        self,
        only: Rejected | None,
        *,
        running: Hashes | None = None,
        target: Hashes | None = None,
        in_place: bool = False,
    ) -> Iterator[Chapter]:
        """Chapters by plan.plan, each with a fetcher of its own, so that only one is in memory."""
        self._is_recipe = False
        for first in range(0, self._blocks, CHAPTER_BLOCKS) if only is None else sorted(only):
            count = min(CHAPTER_BLOCKS, self._blocks - first)
            made = plan(self._expected, first, count, running=running, target=target, in_place=in_place)
            mask = None if only is None else only[first]
            yield (
                _limited(made, mask, first),
                self._origin.fetcher(self._ranges(_limited(made, mask, first))),
            )

    def followed(self, recipe: Recipe, only: Rejected | None) -> Iterator[Chapter]:
        """The chapters of a static delta, and the zeros behind it. Raises NotAnImage if it leaves gaps."""
        assert self._running is not None
        self._is_recipe = True
        fetch = recipe.fetcher(self._running.fd)
        end = min(self._expected.blocks, self._blocks)
        yield _required(chain.from_iterable(recipe.chapters()), end), fetch
        if end < self._blocks:
            yield [Step(Action.ZERO, end, self._blocks - end)], fetch

    def pieces(self, lend: Lend) -> Iterator[_Piece]:
        for steps, fetch in self._chapters:
            for group in _grouped(steps):
                yield self._filled(group, fetch, lend)
        self._origin.finish()

    def check(self, piece: _Piece) -> None:
        width, first = self._expected.width, piece.offset // BLOCK_BYTES
        for step in piece.steps:
            begin = step.block - first
            if piece.buffer is None:
                found = ZERO_HASH * step.count
            else:
                found = _hashes(piece.buffer, begin, step.count)
            expected = piece.expected[begin * width : (begin + step.count) * width]
            is_read = step.block not in piece.unread
            if is_read and _narrow(found, width) == expected:
                self._accept(piece, step, found)
                continue
            for at in range(step.count):
                block, leaf = step.block + at, found[at * HASH_BYTES : (at + 1) * HASH_BYTES]
                if is_read and leaf[:width] == expected[at * width : (at + 1) * width]:
                    self._accept(piece, Step(step.action, block, 1), leaf)
                else:
                    self._reject(step.action, block)

    def proven(self, piece: _Piece) -> None:
        done = 0
        for step, found in piece.found:
            offset = step.block * BLOCK_BYTES
            size = min(step.count * BLOCK_BYTES, self._size - offset)
            self.bytes[step.action] += size
            done += size
            covered = self._expected.blocks - step.block
            if self._leaf is not None and covered > 0:
                self._leaf(step.block, found[: covered * HASH_BYTES])
        self._advance(done)

    def _filled(self, steps: list[Step], fetch: Fetcher, lend: Lend) -> _Piece:
        first, end = steps[0].block, steps[-1].block + steps[-1].count
        offset = first * BLOCK_BYTES
        piece = _Piece(offset, min((end - first) * BLOCK_BYTES, self._size - offset), steps=steps)
        piece.expected = self._leaves(first, end - first)
        if steps[0].action is Action.ZERO and len(steps) == 1 and steps[0].count >= _ZERO_BLOCKS:
            return piece
        piece.buffer = lend()
        view = piece.buffer.view
        kept = [step for step in steps if step.action is Action.SKIP]
        if kept:  # one read for all of them; what is between is filled below
            begin, stop = kept[0].block, kept[-1].block + kept[-1].count
            part = view[(begin - first) * BLOCK_BYTES : (stop - first) * BLOCK_BYTES]
            if _copy(self._medium, part, begin) < min(len(part), self._size - begin * BLOCK_BYTES):
                piece.unread.update(step.block for step in kept)
        for step in steps:
            if step.action is Action.SKIP:
                continue
            begin, stop = step.block - first, step.block + step.count - first
            part = view[begin * BLOCK_BYTES : stop * BLOCK_BYTES]
            if step.action is Action.FETCH:
                fill(fetch, part[: piece.size - begin * BLOCK_BYTES], step.block * BLOCK_BYTES)
            elif step.action is Action.ZERO:
                part[:] = bytes(len(part))
            else:
                is_running = step.action is Action.COPY_RUNNING
                if _copy(self._running if is_running else self._medium, part, step.source) < len(part):
                    piece.unread.add(step.block)
        rounded = -(-piece.size // BLOCK_BYTES) * BLOCK_BYTES
        view[piece.size : rounded] = bytes(rounded - piece.size)
        return piece

    def _leaves(self, first: int, count: int) -> bytes:
        if not self._expected.width:
            return b""
        covered = max(0, min(count, self._expected.blocks - first))
        padding = ZERO_HASH[: self._expected.width] * (count - covered)
        return self._expected.leaves(first, covered) + padding if covered else padding

    def _ranges(self, steps: Iterable[Step]) -> Iterator[tuple[int, int]]:
        for step in steps:
            if step.action is Action.FETCH:
                offset = step.block * BLOCK_BYTES
                yield offset, min(step.count * BLOCK_BYTES, self._size - offset)

    def _accept(self, piece: _Piece, step: Step, found: bytes) -> None:
        piece.found.append((step, found))
        if step.action is Action.SKIP:
            return
        begin = step.block * BLOCK_BYTES - piece.offset
        end = min(begin + step.count * BLOCK_BYTES, piece.size)
        extend(piece.write if piece.buffer is not None else piece.zero, begin, end)

    def _reject(self, action: Action, block: int) -> None:
        if action is Action.FETCH and not self._is_recipe:
            raise ChecksumMismatch(
                f"{self._origin.name} differs from its hashes at byte {block * BLOCK_BYTES}; copy or "
                "download it again."
            )
        assert self.rejected is not None
        first = block - block % CHAPTER_BLOCKS
        self.rejected.setdefault(first, bytearray(CHAPTER_BLOCKS))[block - first] = 1


def _copy(slot: Slot | Medium | None, view: memoryview, block: int) -> int:
    """How many bytes of a proposal could be read."""
    try:
        return slot.read(view, block * BLOCK_BYTES) if slot is not None else 0
    except OSError:
        return 0


def _hashes(buffer: Buffer, begin: int, count: int) -> bytes:
    return b"".join([sha256(block).digest() for block in buffer.blocks[begin : begin + count]])


def _narrow(hashes: bytes, width: int) -> bytes:
    """The first `width` bytes of each hash."""
    if width in (0, HASH_BYTES):
        return hashes[: len(hashes) * width]
    return b"".join([hashes[at : at + width] for at in range(0, len(hashes), HASH_BYTES)])


def _grouped(steps: Iterable[Step]) -> Iterator[list[Step]]:
    """Steps for one piece each; long zeros are a piece of their own."""
    group: list[Step] = []
    for step in steps:
        is_empty = step.action is Action.ZERO and step.count >= _ZERO_BLOCKS
        block, end = step.block, step.block + step.count
        while block < end:
            if group and (is_empty or block >= group[0].block + _PIECE_BLOCKS):
                yield group
                group = []
            first = group[0].block if group else block
            stop = min(end, first + (_EMPTY_BLOCKS if is_empty else _PIECE_BLOCKS))
            group.append(Step(step.action, block, stop - block, step.source + block - step.block))
            block = stop
        if is_empty:
            yield group
            group = []
    if group:
        yield group


def _limited(made: Plan, only: bytearray | None, first: int) -> Iterator[Step]:
    """The steps of a chapter, or their parts whose blocks are marked."""
    for step in made.steps():
        if only is None:
            yield step
            continue
        end = step.block + step.count - first
        begin = only.find(1, step.block - first, end)
        while begin >= 0:
            stop = only.find(0, begin, end)
            stop = end if stop < 0 else stop
            yield Step(step.action, first + begin, stop - begin, step.source + first + begin - step.block)
            begin = only.find(1, stop, end)


def _required(steps: Iterable[RecipeStep], blocks: int) -> Iterator[Step]:
    """The steps of a static delta as our own. Raises NotAnImage if they are not for exactly these blocks."""
    actions = {"copy-running": Action.COPY_RUNNING, "zero": Action.ZERO, "data": Action.FETCH}
    following = 0
    for step in steps:
        if step.block != following or not 0 < step.count <= blocks - following or step.source < 0:
            break
        following += step.count
        yield Step(actions[step.action], step.block, step.count, step.source)
    if following != blocks:
        raise misbuilt("The static delta", f"it does not say what block {following} is")
