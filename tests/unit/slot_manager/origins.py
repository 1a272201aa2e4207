# SPDX-License-Identifier: Apache-2.0
"""Origins, hashes and installs for the tests of the write path."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from agents.slot_manager.assembly import Recipe, Statistics, assemble, stream
from agents.slot_manager.errors import (
    Truncated,
)
from common.image.hashtree import Hashes
from common.image.origin import Fetcher, LocalOrigin
from tests.unit.slot_manager.media import MIB, noise

BLOCK = 4096
OLD = noise(8 * MIB, 7)
NEW = noise(MIB) + OLD[MIB : 4 * MIB] + bytes(2 * MIB) + OLD[5 * MIB : 7 * MIB] + noise(MIB + BLOCK, 3)


class Bytes:
    """An origin in memory that remembers what was asked of it."""

    name = "system.img"
    fetched_bytes = 0

    def __init__(self, data: bytes, most: int = 1 << 30) -> None:
        self.data, self.size_bytes, self.most = data, len(data), most
        self.ranges: list[tuple[int, int]] = []
        self.read_bytes = 0

    def fetcher(self, ranges: Iterable[tuple[int, int]]) -> Fetcher:
        allowed = list(ranges)
        assert all(offset + length < after for (offset, length), (after, _) in pairwise(allowed))
        self.ranges += allowed
        position = 0

        def fetch(view: memoryview, offset: int) -> int:
            nonlocal position
            assert offset >= position, "not ascending"
            assert any(begin <= offset < begin + length for begin, length in allowed), "not asked for"
            part = self.data[offset : offset + min(self.most, len(view))]
            if not part:
                raise Truncated(f"{self.name} ends at byte {offset}.")
            view[: len(part)] = part
            position = offset + len(part)
            self.read_bytes += len(part)
            return len(part)

        return fetch

    def read(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]

    def cost(self, ranges: Iterable[tuple[int, int]]) -> int:
        return 0

    def finish(self) -> None:
        pass


class Leaves:
    """The hashes of some bytes, or their beginnings."""

    def __init__(self, data: bytes, width: int = 32) -> None:
        parts = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
        self.width, self.blocks = width, len(parts)
        self.whole = b"".join([hashlib.sha256(part).digest() for part in parts])
        self._joined = b"".join(self.whole[at : at + width] for at in range(0, len(self.whole), 32))

    def leaves(self, first: int, count: int) -> bytes:
        assert 0 <= first <= first + count <= self.blocks
        return self._joined[first * self.width : (first + count) * self.width]


@dataclass
class Sink:
    """Collects the hashes of proven blocks; each may come once only."""

    found: dict[int, bytes] = field(default_factory=dict)

    def __call__(self, first: int, leaves: bytes) -> None:
        for at in range(len(leaves) // 32):
            assert first + at not in self.found
            self.found[first + at] = leaves[at * 32 : at * 32 + 32]

    @property
    def joined(self) -> bytes:
        assert sorted(self.found) == list(range(len(self.found)))
        return b"".join(self.found[block] for block in sorted(self.found))


def send(
    data: bytes | Bytes | LocalOrigin,
    target: Path,
    size: int = -1,
    *,
    digest: str | None = None,
    cancel: threading.Event | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> Statistics:
    origin = Bytes(data) if isinstance(data, bytes) else data
    if digest is None:
        digest = hashlib.sha256(origin.data if isinstance(origin, Bytes) else b"").hexdigest()
    size = origin.size_bytes if size < 0 else size
    return stream(target, size, origin, sha256=digest, cancel=cancel or threading.Event(), advance=advance)


def make(
    data: bytes,
    target: Path,
    *,
    origin: Bytes | None = None,
    expected: Hashes | None = None,
    size: int = -1,
    running: Path | None = None,
    said: bytes | None = None,
    held: bytes | None = None,
    in_place: bool = False,
    leaf: Sink | None = None,
    recipe: Recipe | None = None,
    cancel: threading.Event | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> Statistics:
    """said, held: what the trees of the running slot and of the target speak of."""
    return assemble(
        target,
        len(data) if size < 0 else size,
        expected or Leaves(data),
        origin=origin or Bytes(data),
        running=running,
        running_tree=None if said is None else Leaves(said),
        target_tree=None if held is None else Leaves(held),
        in_place=in_place,
        leaf=leaf,
        recipe=recipe,
        cancel=cancel or threading.Event(),
        advance=advance,
    )
