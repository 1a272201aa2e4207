# SPDX-License-Identifier: Apache-2.0
"""A partition of a new system, made on the target from whatever holds parts of it, and proven.

`assemble` takes each block from where it is cheapest (see plan.py) and proves it by its hash; what a slot
holds is only ever proposed, and a block that turns out to be another one is sought elsewhere in a next
round. `stream` takes all from the source and proves it by one hash of the whole.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from agents.slot_manager.blocks import Blocks, Leaf, Recipe, Round
from agents.slot_manager.errors import ChecksumMismatch
from agents.slot_manager.medium import Medium, Slot
from agents.slot_manager.pipeline import BUFFER_BYTES, Lend, Piece, extend, transfer
from agents.slot_manager.plan import Action
from common.image.hashtree import Hashes
from common.image.origin import Origin, fill
from common.image.stream import Advance

__all__ = ["Leaf", "Recipe", "Statistics", "assemble", "stream"]

_ZERO_BYTES = 256 << 10
"""Zeros of this length and alignment are punched; shorter ones are written with what is around them."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Bytes of the partition by where they come from; the last four add up to `total`."""

    total: int
    copied: int
    skipped: int
    zero: int
    fetched: int


def stream(
    target: Path,
    size_bytes: int,
    origin: Origin,
    *,
    sha256: str,
    cancel: threading.Event,
    advance: Advance = lambda count: None,
) -> Statistics:
    """Write the first `size_bytes` of an origin to the target; sha256: 64 hex digits.

    advance is called with bytes that are proven to be on the medium.

    Raises ChecksumMismatch (then all of it is on the target), Truncated, NoSpace, ReadBackMismatch,
    SlotBooted, Cancelled, AgentError.
    """
    work = _Stream(origin, size_bytes, advance)
    with Medium(target) as medium:
        transfer(work, medium, cancel)
    if work.digest.hexdigest() != sha256.lower():
        raise ChecksumMismatch(
            f"{origin.name} does not have the SHA-256 that was signed; copy or download it again."
        )
    return Statistics(size_bytes, 0, 0, work.zero_bytes, size_bytes - work.zero_bytes)


def assemble(
    target: Path,
    size_bytes: int,
    expected: Hashes,
    *,
    origin: Origin,
    running: Path | None = None,
    running_tree: Hashes | None = None,
    target_tree: Hashes | None = None,
    in_place: bool = False,
    leaf: Leaf | None = None,
    recipe: Recipe | None = None,
    cancel: threading.Event,
    advance: Advance = lambda count: None,
) -> Statistics:
    """Bring `size_bytes` of a system to the target, by the hashes of its blocks; what they do not cover is
    zeros. With hashes of width 0 nothing is compared, and only `leaf` can tell whether it is right.

    in_place: propose first that the target holds all of it. recipe: says where each block comes from, in
    place of a plan; it needs `running`. For the rest see plan.plan and `stream`.

    Raises ChecksumMismatch for a wrong block of the origin, which is not written; else as `stream`.
    """
    with Medium(target) as medium, ExitStack() as stack:
        slot = stack.enter_context(Slot(running)) if running is not None else None
        work = Blocks(medium, size_bytes, expected, origin=origin, running=slot, leaf=leaf, advance=advance)
        rounds: list[Round] = [
            partial(work.planned, running=running_tree if slot else None, target=target_tree),
            work.planned,
        ]
        if recipe is not None:
            rounds.insert(0, partial(work.followed, recipe))
        elif in_place and expected.width:
            rounds.insert(0, partial(work.planned, in_place=True))
        for chapters in rounds:
            work.begin(chapters)
            transfer(work, medium, cancel)
            if not work.rejected:
                break
        else:
            raise ChecksumMismatch(f"{origin.name} contradicts its hashes; copy or download it again.")
    found = work.bytes
    return Statistics(
        total=size_bytes,
        copied=found[Action.COPY_RUNNING] + found[Action.COPY_TARGET],
        skipped=found[Action.SKIP],
        zero=found[Action.ZERO],
        fetched=found[Action.FETCH],
    )


class _Stream:
    """Work of the pipeline: everything from the source, one hash."""

    def __init__(self, origin: Origin, size_bytes: int, advance: Advance) -> None:
        self.digest = hashlib.sha256()
        self.zero_bytes = 0
        self._origin, self._size, self._advance = origin, size_bytes, advance

    def pieces(self, lend: Lend) -> Iterator[Piece]:
        fetch = self._origin.fetcher([(0, self._size)] if self._size else [])
        for offset in range(0, self._size, BUFFER_BYTES):
            buffer = lend()
            piece = Piece(offset, min(BUFFER_BYTES, self._size - offset), buffer)
            fill(fetch, buffer.view[: piece.size], offset)
            for begin in range(0, piece.size, _ZERO_BYTES):
                end = min(begin + _ZERO_BYTES, piece.size)
                is_zero = end - begin == _ZERO_BYTES and buffer.is_zero(begin, end)
                extend(piece.zero if is_zero else piece.write, begin, end)
            yield piece
        self._origin.finish()

    def check(self, piece: Piece) -> None:
        assert piece.buffer is not None
        self.digest.update(piece.buffer.view[: piece.size])

    def proven(self, piece: Piece) -> None:
        self.zero_bytes += piece.punched_bytes
        self._advance(piece.size)
