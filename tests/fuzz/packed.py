# SPDX-License-Identifier: Apache-2.0
"""The compressed form of a small system image, with its block index."""

from __future__ import annotations

import hashlib

import zstandard

from common.image import blockindex, frames, verity
from common.manifest import SKIPPABLE_HEAD_BYTES, Extent, Transport
from tests.fakes.slot_images import BuiltImage

FRAME_BYTES = 64 << 10
_BLOCK = verity.BLOCK_BYTES


def pack(image: BuiltImage) -> tuple[bytes, Transport]:
    """The bytes of IMG.zst, and what a manifest says of them."""
    raw = image.path.read_bytes()
    pieces = [raw[at : at + FRAME_BYTES] for at in range(0, len(raw), FRAME_BYTES)]
    packed = [zstandard.ZstdCompressor(3).compress(piece) for piece in pieces]
    leaves = (
        hashlib.sha256(image.root[at : at + _BLOCK]).digest() for at in range(0, len(image.root), _BLOCK)
    )
    index = b"".join(blockindex.render(image.tree[: verity.SUPERBLOCK_BYTES], leaves))
    table = frames.table_bytes(zip(map(len, packed), map(len, pieces), strict=True), index_bytes=len(index))
    body = b"".join(packed) + frames.skippable(len(index))
    assert len(frames.skippable(len(index))) == SKIPPABLE_HEAD_BYTES
    return body + index + table, Transport(
        name=image.path.name + ".zst",
        size_bytes=len(body) + len(index) + len(table),
        frames=_extent(len(body) + len(index), table),
        index=_extent(len(body), index),
    )


def _extent(offset: int, data: bytes) -> Extent:
    return Extent(offset, len(data), hashlib.sha256(data).hexdigest())
