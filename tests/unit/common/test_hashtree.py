# SPDX-License-Identifier: Apache-2.0
"""Hash trees made by veritysetup, whole and damaged; those in slots and those made here are in
test_hashtree_slots.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.errors import AgentError
from common.image.errors import NotAnImage
from common.image.hashtree import HashTree
from tests.fakes.verity_trees import BLOCK, Formatted, format_tree


@contextmanager
def opened(formatted: Formatted, *, offset: int = 0, root_hash: str = "") -> Iterator[HashTree]:
    fd = os.open(formatted.path, os.O_RDONLY)
    try:
        yield HashTree(fd, offset, root_hash=root_hash or formatted.root_hash, name="system.img")
    finally:
        os.close(fd)


def damage(formatted: Formatted, at: int) -> None:
    raw = bytearray(formatted.path.read_bytes())
    raw[at] ^= 1
    formatted.path.write_bytes(raw)


@pytest.fixture(scope="module")
def three_levels(tmp_path_factory: pytest.TempPathFactory) -> Formatted:
    """128 * 128 + 1 blocks: the least that need three levels of hashes."""
    data = random.Random(4).randbytes((128 * 128 + 1) * BLOCK)
    return format_tree(tmp_path_factory.mktemp("verity"), data)


@pytest.mark.parametrize("blocks", [2, 127, 128, 129, 300])
def test_leaves_are_the_hashes_of_the_data_blocks(tmp_path: Path, blocks: int) -> None:
    formatted = format_tree(tmp_path, random.Random(blocks).randbytes(blocks * BLOCK))
    with opened(formatted) as tree:
        assert tree.blocks == blocks
        assert list(tree) == [formatted.leaf(block) for block in range(blocks)]


def test_leaves_of_three_levels_are_right_in_any_order(three_levels: Formatted) -> None:
    with opened(three_levels) as tree:
        for block in (16384, 0, 127, 128, 16383, 5000, 16384, 4999):
            assert tree.leaf(block) == three_levels.leaf(block)


def test_a_range_of_leaves_may_cross_hash_blocks(three_levels: Formatted) -> None:
    with opened(three_levels) as tree:
        expected = b"".join(three_levels.leaf(block) for block in range(100, 1400))
        assert tree.leaves(100, 1300) == expected


def test_all_leaves_at_once_are_those_of_each_block(three_levels: Formatted) -> None:
    with opened(three_levels) as tree:
        expected = three_levels.leaves()
        assert tree.leaves(0, tree.blocks) == expected
        for first, count in ((0, 0), (1, 128), (127, 16_000), (16_383, 2), (128, 128), (129, 1)):
            assert tree.leaves(first, count) == expected[first * 32 : (first + count) * 32]
        assert tree.width == 32


def test_the_whole_tree_is_proven(three_levels: Formatted) -> None:
    with opened(three_levels) as tree:
        tree.prove()
        assert tree.size_bytes == three_levels.path.stat().st_size


def test_a_tree_may_lie_within_an_image(tmp_path: Path) -> None:
    formatted = format_tree(tmp_path, bytes(range(256)) * 16 * 3)
    formatted.path.write_bytes(bytes(BLOCK) + formatted.path.read_bytes())
    with opened(formatted, offset=BLOCK) as tree:
        assert tree.leaf(2) == formatted.leaf(2)


def test_a_tree_with_another_root_hash_is_refused(three_levels: Formatted) -> None:
    with (
        pytest.raises(NotAnImage, match="not the one that was signed"),
        opened(three_levels, root_hash="0" * 64),
    ):
        pass


@pytest.mark.parametrize(("level", "begin"), [("middle", 2), ("leaves", 4), ("later leaves", 70)])
def test_a_changed_hash_block_is_refused(
    tmp_path: Path, three_levels: Formatted, level: str, begin: int
) -> None:
    copy = Formatted(three_levels.data, tmp_path / level, three_levels.root_hash)
    copy.path.write_bytes(three_levels.path.read_bytes())
    damage(copy, begin * BLOCK + 7)
    with (
        opened(copy) as tree,
        pytest.raises(NotAnImage, match=f"contradicts itself at byte {begin * BLOCK}"),
    ):
        tree.prove()


def test_blocks_beside_a_changed_hash_block_stay_readable(tmp_path: Path, three_levels: Formatted) -> None:
    copy = Formatted(three_levels.data, tmp_path / "tree", three_levels.root_hash)
    copy.path.write_bytes(three_levels.path.read_bytes())
    damage(copy, 4 * BLOCK)
    with opened(copy) as tree:
        assert tree.leaf(128) == three_levels.leaf(128)


def test_a_superblock_that_covers_more_than_the_tree_is_refused(tmp_path: Path) -> None:
    formatted = format_tree(tmp_path, bytes(300 * BLOCK))
    raw = bytearray(formatted.path.read_bytes())
    raw[72:80] = (1 << 39).to_bytes(8, "little")
    formatted.path.write_bytes(raw)
    with opened(formatted) as tree, pytest.raises(NotAnImage):
        tree.prove()


@pytest.mark.parametrize("blocks", [299, 301, 257, 384])
def test_a_superblock_with_another_number_of_blocks_is_refused(tmp_path: Path, blocks: int) -> None:
    formatted = format_tree(tmp_path, bytes(300 * BLOCK))
    raw = bytearray(formatted.path.read_bytes())
    raw[72:80] = blocks.to_bytes(8, "little")
    formatted.path.write_bytes(raw)
    with (
        opened(formatted) as tree,
        pytest.raises(NotAnImage, match=f"does not end with block {blocks - 1};"),
    ):
        tree.prove()


def test_a_tree_that_ends_early_is_refused(tmp_path: Path) -> None:
    formatted = format_tree(tmp_path, random.Random(1).randbytes(300 * BLOCK))
    os.truncate(formatted.path, 4 * BLOCK + 100)
    with opened(formatted) as tree, pytest.raises(NotAnImage, match="ends early"):
        tree.prove()


@pytest.mark.parametrize(
    "options", [("--salt=00",), ("--salt=-", "--hash=sha512"), ("--salt=-", "--data-block-size=1024")]
)
def test_a_tree_of_another_kind_is_refused(tmp_path: Path, options: tuple[str, ...]) -> None:
    formatted = format_tree(tmp_path, bytes(300 * BLOCK), *options)
    with pytest.raises(NotAnImage, match="must be dm-verity 1"), opened(formatted):
        pass


@pytest.mark.parametrize(("first", "count"), [(-1, 1), (300, 1), (299, 2), (0, -1)])
def test_blocks_outside_the_tree_have_no_hash(tmp_path: Path, first: int, count: int) -> None:
    formatted = format_tree(tmp_path, bytes(300 * BLOCK))
    with opened(formatted) as tree, pytest.raises(NotAnImage, match="covers 300 blocks"):
        tree.leaves(first, count)


def test_a_tree_that_cannot_be_read_is_a_clear_error(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(AgentError, match=r"^system.img cannot be read at byte 0: Is a directory\.$"):
            HashTree(fd, 0, root_hash="0" * 64, name="system.img")
    finally:
        os.close(fd)
