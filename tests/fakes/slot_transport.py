# SPDX-License-Identifier: Apache-2.0
"""The compressed form of a small system image, with the block index that a machine plans by."""

from __future__ import annotations

import hashlib

import zstandard

from common.image import blockindex, frames
from common.image.verity import BLOCK_BYTES, SUPERBLOCK_BYTES, covered_blocks
from common.manifest import SKIPPABLE_HEAD_BYTES, Extent, Transport
from tests.fakes.slot_images import BuiltImage

FRAME_BYTES = 64 << 10


def compress(
    image: BuiltImage, suffix: str = ".img.zst", frame_bytes: int = FRAME_BYTES, level: int = 3
) -> Transport:
    """Write a compressed form beside the image; returns what the manifest has to say of it."""
    raw = image.path.read_bytes()
    compressor = zstandard.ZstdCompressor(level=level)
    contents = [raw[at : at + frame_bytes] for at in range(0, len(raw), frame_bytes)]
    packed = [compressor.compress(content) for content in contents]
    index = _index(image)
    table = frames.table_bytes(
        ((len(frame), len(content)) for frame, content in zip(packed, contents, strict=True)),
        index_bytes=len(index),
    )
    body = b"".join(packed)
    path = image.beside(suffix)
    path.write_bytes(body + frames.skippable(len(index)) + index + table)
    at = len(body) + SKIPPABLE_HEAD_BYTES
    return Transport(
        name=path.name,
        size_bytes=path.stat().st_size,
        frames=Extent(at + len(index), len(table), hashlib.sha256(table).hexdigest()),
        index=Extent(at, len(index), hashlib.sha256(index).hexdigest()),
    )


def _index(image: BuiltImage) -> bytes:
    superblock, blocks = bytes(SUPERBLOCK_BYTES), len(image.root) // BLOCK_BYTES
    if image.tree:
        superblock = image.tree[:SUPERBLOCK_BYTES]
        blocks = covered_blocks(superblock, name=image.path.name)
    leaves = (
        hashlib.sha256(image.root[at : at + BLOCK_BYTES]).digest()
        for at in range(0, blocks * BLOCK_BYTES, BLOCK_BYTES)
    )
    return b"".join(blockindex.render(superblock, leaves))
