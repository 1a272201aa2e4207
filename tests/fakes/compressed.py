# SPDX-License-Identifier: Apache-2.0
"""The compressed form of any bytes, as the builder lays it out, and files that are only in memory."""

from __future__ import annotations

import os
import random
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

import zstandard

from common.image import frames
from common.image.origin import LocalOrigin
from common.manifest import SKIPPABLE_HEAD_BYTES, Extent, Transport

CONTENT_BYTES = 16 << 10


def sample(size_bytes: int, seed: int = 4) -> bytes:
    """Bytes that can be compressed to about a half."""
    return random.Random(seed).randbytes(size_bytes // 2).hex().encode().ljust(size_bytes, b".")


def memory_file(data: bytes) -> int:
    """Descriptor of a file with these bytes, to be closed by the caller."""
    fd = os.memfd_create("sample")
    os.write(fd, data)
    return fd


def memory_origin(data: bytes, name: str = "x.img.zst") -> LocalOrigin:
    """A file with these bytes, gone with the object."""
    fd = memory_file(data)
    origin = LocalOrigin(fd, len(data), name)
    weakref.finalize(origin, os.close, fd)
    return origin


@dataclass(frozen=True)
class Compressed:
    """raw: the file; index: the content that stands in for its block index."""

    image: bytes
    raw: bytes
    index: bytes
    transport: Transport

    @property
    def table(self) -> bytes:
        return self.raw[self.transport.frames.offset_bytes :]

    def parsed(self, raw: bytes = b"") -> frames.FrameTable:
        return frames.parse_table(
            raw or self.table, image_bytes=len(self.image), transport=self.transport, name="x.img.zst"
        )


def compress(image: bytes, sizes: Iterable[int] | None = None) -> Compressed:
    """sizes: of the content of each frame."""
    pieces, entries, at = [], [], 0
    for size in sizes or [CONTENT_BYTES] * -(-len(image) // CONTENT_BYTES):
        content = image[at : at + size]
        at += size
        pieces.append(zstandard.ZstdCompressor(level=3).compress(content))
        entries.append((len(pieces[-1]), len(content)))
    index = b"index of blocks" * 3
    body = b"".join(pieces)
    table = frames.table_bytes(entries, index_bytes=len(index))
    raw = body + frames.skippable(len(index)) + index + table
    index_at = len(body) + SKIPPABLE_HEAD_BYTES
    return Compressed(
        image,
        raw,
        index,
        Transport(
            name="hypernet-1.2.3.img.zst",
            size_bytes=len(raw),
            frames=Extent(index_at + len(index), len(table), sha256(table).hexdigest()),
            index=Extent(index_at, len(index), sha256(index).hexdigest()),
        ),
    )
