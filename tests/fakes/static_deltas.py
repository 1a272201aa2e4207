# SPDX-License-Identifier: Apache-2.0
"""Static deltas made by hand, right and wrong, and the simplest loop that applies them."""

from __future__ import annotations

import os
import random
import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain

import zstandard

from common.image import staticdelta
from common.image.origin import LocalOrigin, fill
from common.image.staticdelta import COPY_RUNNING, DATA, NEW_DATA, ZERO, ZEROS, StaticDelta
from common.image.verity import BLOCK_BYTES

OLD_HASH, NEW_HASH = b"\x01" * 32, b"\x02" * 32
OLD_BLOCKS = 8


def blocks(count: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(count * BLOCK_BYTES)


@dataclass
class Recipe:
    """A delta to be; a frame is (blocks, bytes or what to compress, dictionary ranges)."""

    steps: list[tuple[int, int]] = field(default_factory=list)
    frames: list[tuple[int, bytes, list[tuple[int, int]]]] = field(default_factory=list)
    old: bytes = blocks(OLD_BLOCKS)
    superblock: bytes = bytes(512)
    changes: dict[str, int | bytes] = field(default_factory=dict)

    def add(self, content: bytes, ranges: Sequence[tuple[int, int]] = ()) -> None:
        """A frame with this content."""
        raw = b"".join(self.old[a * BLOCK_BYTES : (a + n) * BLOCK_BYTES] for a, n in ranges)
        dictionary = zstandard.ZstdCompressionDict(raw, zstandard.DICT_TYPE_RAWCONTENT) if raw else None
        packed = zstandard.ZstdCompressor(dict_data=dictionary).compress(content)
        self.frames.append((len(content) // BLOCK_BYTES, packed, list(ranges)))

    def table(self) -> bytes:
        ranges = [one for _, _, some in self.frames for one in some]
        counts = [len(self.steps), len(self.frames), len(ranges)]
        numbers = counts + list(chain.from_iterable(self.steps))
        for count, packed, some in self.frames:
            numbers += [count, len(packed), len(some)]
        numbers += chain.from_iterable(ranges)
        return struct.pack(f"<{len(numbers)}I", *numbers)

    def render(self, table: bytes | None = None) -> bytes:
        table = self.table() if table is None else table
        packed = zstandard.ZstdCompressor().compress(table)
        head = {
            "magic": staticdelta.MAGIC,
            "blocks": sum(count for count, _ in self.steps),
            "old_blocks": len(self.old) // BLOCK_BYTES,
            "frame_bytes": len(packed),
            "table_bytes": len(table),
            "old_hash": OLD_HASH,
            "new_hash": NEW_HASH,
            "superblock": self.superblock,
        }
        head.update(self.changes)
        frames = b"".join(raw for _, raw, _ in self.frames)
        return staticdelta.HEAD.pack(*head.values()) + packed + frames


def sample() -> Recipe:
    """Three blocks copied, one zero, three new in two runs of two frames."""
    recipe = Recipe()
    new = blocks(3, seed=1)
    recipe.steps = [(2, 3), (1, NEW_DATA), (1, ZEROS), (1, 0), (2, NEW_DATA)]
    recipe.add(new[: 2 * BLOCK_BYTES], [(1, 2), (5, 1)])
    recipe.add(new[2 * BLOCK_BYTES :])
    return recipe


@contextmanager
def opened(raw: bytes, old: bytes = b"") -> Iterator[tuple[StaticDelta, int]]:
    """The delta in `raw`, and a descriptor of the old system."""
    with tempfile.TemporaryFile() as stream, tempfile.TemporaryFile() as running:
        stream.write(raw)
        stream.flush()
        running.write(old)
        running.flush()
        yield StaticDelta(LocalOrigin(stream.fileno(), len(raw), "D"), name="D"), running.fileno()


def applied(raw: bytes, old: bytes) -> bytes:
    """The new system, by the simplest loop that there is."""
    with opened(raw, old) as (delta, running):
        fetch = delta.fetcher(running)
        made = bytearray()
        for step in chain.from_iterable(delta.chapters()):
            assert step.block * BLOCK_BYTES == len(made)
            piece = bytearray(step.count * BLOCK_BYTES)
            if step.action == COPY_RUNNING:
                os.preadv(running, [piece], step.source * BLOCK_BYTES)
            elif step.action == DATA:
                fill(fetch, memoryview(piece), len(made))
            else:
                assert step.action == ZERO
            made += piece
        assert len(made) == delta.blocks * BLOCK_BYTES
        return bytes(made)


def part(data: bytes, first: int, count: int) -> bytes:
    return data[first * BLOCK_BYTES : (first + count) * BLOCK_BYTES]


def superblock(data_blocks: int) -> bytes:
    head = struct.pack(
        "<8sII16s32sIIQH", b"verity\0\0", 1, 1, bytes(16), b"sha256", 4096, 4096, data_blocks, 0
    )
    return head.ljust(512, b"\0")
