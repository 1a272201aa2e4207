# SPDX-License-Identifier: Apache-2.0
"""Damaged hash trees, block indexes, frame tables and frames: what gets through is what was signed."""

from __future__ import annotations

import hashlib
import os
import struct
from array import array
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
import zstandard

from common import process
from common.image import blockindex, frames, verity
from common.image.hashtree import HashTree, TreeBuilder, open_raw
from common.image.origin import LocalOrigin
from common.manifest import SKIPPABLE_HEAD_BYTES, Extent, Transport
from tests.fuzz.hostile import Sample, damaged, explore, survives

BLOCK = 4096
BLOCKS = 300  # two levels
_SUPERBLOCK = [(8, 4), (12, 4), (64, 4), (68, 4), (72, 8), (80, 2)]
FRAME_BYTES = 16 << 10


@pytest.fixture(scope="module")
def data() -> bytes:
    """Data of BLOCKS blocks, a third of them zero."""
    noise = Random(1)
    return b"".join(bytes(BLOCK) if n % 3 == 0 else noise.randbytes(BLOCK // 2) * 2 for n in range(BLOCKS))


@pytest.fixture(scope="module")
def tree(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, str]:
    """The whole hash tree of the data, as veritysetup makes it, and its root hash."""
    folder = tmp_path_factory.mktemp("tree")
    (folder / "data").write_bytes(data)
    argv = ["veritysetup", "format", "--salt=-", str(folder / "data"), str(folder / "tree")]
    answer = process.run(argv, timeout_sec=60).stdout.decode()
    root_hash = next(line.split()[-1] for line in answer.splitlines() if line.startswith("Root hash"))
    return (folder / "tree").read_bytes(), root_hash


def _leaves(data: bytes) -> bytes:
    return b"".join(hashlib.sha256(data[at : at + BLOCK]).digest() for at in range(0, len(data), BLOCK))


def test_a_damaged_hash_tree_proves_no_other_hash(
    data: bytes, tree: tuple[bytes, str], tmp_path: Path
) -> None:
    path = tmp_path / "tree"
    right = _leaves(data)

    def judge(case: bytes) -> None:
        path.write_bytes(case)
        fd = os.open(path, os.O_RDONLY)
        try:
            proven: list[bytes] = []
            survives(lambda: proven.append(_proven(fd, tree[1])))
            # The root hash says nothing of the number of blocks; that is for the signed SHA-256 of the tree.
            assert all(found == right for found in proven if len(found) == len(right))
            survives(lambda: _raw(path))
            (path.with_name("built")).unlink(missing_ok=True)
            survives(lambda: _built(path.with_name("built"), case, right, tree[1]))
        finally:
            os.close(fd)

    hot = [(0, 512), (BLOCK, 2 * BLOCK), (BLOCK, len(tree[0]))]
    explore("hash-tree", damaged([Sample(tree[0], _SUPERBLOCK, hot)]), judge)


def _proven(fd: int, root_hash: str) -> bytes:
    tree = HashTree(fd, 0, root_hash=root_hash, name="hypernet-1.2.3.img")
    tree.prove()
    return tree.leaves(0, min(tree.blocks, BLOCKS))


def _raw(path: Path) -> None:
    raw = open_raw(path)
    if raw is not None:
        try:
            for first in (0, 1, raw.blocks - 1, raw.blocks, 1 << 40):
                assert len(raw.leaves(first, 256)) == 256 * raw.width
        finally:
            raw.close()


def _built(path: Path, case: bytes, leaves: bytes, root_hash: str) -> None:
    """A tree under a superblock of strangers: it takes just the blocks that it is for."""
    builder = TreeBuilder(path, BLOCKS, case[: verity.SUPERBLOCK_BYTES])
    try:
        builder.put(0, leaves)
        assert builder.finish() == root_hash
    finally:
        builder.close()


def test_a_damaged_block_index_is_read_or_refused(
    data: bytes, tree: tuple[bytes, str], scratch_fd: int
) -> None:
    good = b"".join(blockindex.render(tree[0][:512], [_leaves(data)]))

    def judge(case: bytes) -> None:
        os.ftruncate(scratch_fd, 0)
        os.pwrite(scratch_fd, case, 0)

        def read() -> None:
            index = blockindex.BlockIndex(scratch_fd, len(case), name="hypernet-1.2.3.img.zst")
            assert blockindex.HEAD_BYTES + index.blocks * index.width == len(case)
            assert len(index.leaves(0, index.blocks)) == index.blocks * index.width
            if any(index.superblock):
                assert verity.covered_blocks(index.superblock, name="x") == index.blocks
            assert survives(lambda: index.leaves(index.blocks, 1)) is not None

        survives(read)

    fields = [(8, 8), *((16 + offset, width) for offset, width in _SUPERBLOCK)]
    explore("block-index", damaged([Sample(good, fields, [(0, 528), (0, len(good))])]), judge)


def _shipped(data: bytes) -> tuple[bytes, bytes, Transport]:
    """Compressed frames, frame table, and what a manifest says of them."""
    compressor = zstandard.ZstdCompressor(level=1, write_content_size=True)
    made = [compressor.compress(data[at : at + FRAME_BYTES]) for at in range(0, len(data), FRAME_BYTES)]
    sizes = [len(data[at : at + FRAME_BYTES]) for at in range(0, len(data), FRAME_BYTES)]
    body = b"".join(made)
    index_bytes = blockindex.size_bytes(BLOCKS)
    table = frames.table_bytes(zip(map(len, made), sizes, strict=True), index_bytes=index_bytes)
    index = Extent(len(body) + SKIPPABLE_HEAD_BYTES, index_bytes, "0" * 64)
    place = Extent(index.offset_bytes + index_bytes, len(table), "0" * 64)
    return body, table, Transport("x.img.zst", place.offset_bytes + place.size_bytes, place, index)


def _sizes(starts: Iterable[int]) -> list[int]:
    return [after - before for before, after in pairwise(starts)]


def test_a_damaged_frame_table_is_read_or_refused(data: bytes) -> None:
    _, table, transport = _shipped(data)

    def judge(case: bytes) -> None:
        found: list[frames.FrameTable] = []
        survives(
            lambda: found.append(
                frames.parse_table(case, image_bytes=len(data), transport=transport, name="x.img.zst")
            )
        )
        for read in found:
            assert read.image_bytes == len(data)
            assert read.compressed[-1] == transport.index.offset_bytes - SKIPPABLE_HEAD_BYTES
            assert all(0 < size <= frames.MAX_CONTENT_BYTES for size in _sizes(read.content))
            assert all(0 < size <= frames.MAX_FRAME_BYTES for size in _sizes(read.compressed))
            assert [read.frame_at(at) for at in read.content[:-1]] == list(range(len(read.content) - 1))

    def mend(case: bytearray) -> None:
        """Sizes and counts as they belong to what is there."""
        if len(case) > 17:
            struct.pack_into("<I", case, 4, len(case) - 8)
            struct.pack_into("<I", case, len(case) - 9, (len(case) - 17) // 8)

    fields = [(at, 4) for at in range(0, len(table) - 9, 4)] + [(len(table) - 9, 4), (len(table) - 4, 4)]
    hot = [(0, 64), (len(table) - 32, len(table)), (0, len(table))]
    explore("frame-table", damaged([Sample(table, fields, hot, mend)]), judge)


def test_damaged_frames_give_bytes_of_the_right_number_or_an_error(data: bytes, scratch_fd: int) -> None:
    body, table, transport = _shipped(data)
    read_table = frames.parse_table(table, image_bytes=len(data), transport=transport, name="x.img.zst")
    starts = list(read_table.compressed[:-1])
    bomb = bytearray(body)
    zeros = zstandard.ZstdCompressor(level=1, write_content_size=False).compress(bytes(1 << 30))
    bomb[: min(len(zeros), len(bomb))] = zeros[: len(bomb)]

    def judge(case: bytes) -> None:
        whole = case[: len(body)].ljust(len(body), b"\0")
        os.ftruncate(scratch_fd, 0)
        os.pwrite(scratch_fd, whole, 0)
        origin = frames.FrameOrigin(
            LocalOrigin(scratch_fd, len(whole), "x.img.zst"), read_table, "x.img.zst"
        )
        for at in array("Q", [0, starts.index(starts[-1]) * FRAME_BYTES, len(data) - 1]):
            found: list[bytes] = []
            survives(lambda at=at, found=found: found.append(origin.read(at, 1)))  # type: ignore[misc]
            assert all(len(piece) == 1 for piece in found)
        survives(lambda: origin.read(0, len(data)))

    fields = [(start + at, 1) for start in (starts[0], starts[-1]) for at in range(12)]
    hot = [(starts[0], starts[0] + 16), (starts[-1], starts[-1] + 16), (0, starts[1])]
    explore("frames", damaged([Sample(body, fields, hot), Sample(bytes(bomb), fields, hot)]), judge)
