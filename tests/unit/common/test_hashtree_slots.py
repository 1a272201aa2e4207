# SPDX-License-Identifier: Apache-2.0
"""Hash trees as slots hold them, and those made from hashes of blocks."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import AgentError
from common.image.errors import NotAnImage
from common.image.hashtree import HashTree, RawTree, TreeBuilder, Unknown, open_raw
from tests.fakes.compressed import memory_file
from tests.fakes.mutations import mutated
from tests.fakes.verity_trees import BLOCK, Formatted, format_tree

FIXED = ("--salt=-", "--uuid=01234567-89ab-cdef-0123-456789abcdef")


@pytest.fixture(scope="module")
def two_levels(tmp_path_factory: pytest.TempPathFactory) -> Formatted:
    return format_tree(tmp_path_factory.mktemp("verity"), random.Random(3).randbytes(300 * BLOCK))


@contextmanager
def raw(path: Path) -> Iterator[RawTree]:
    tree = open_raw(path)
    assert tree is not None
    try:
        yield tree
    finally:
        tree.close()


def build(path: Path, formatted: Formatted, order: list[tuple[int, int]]) -> tuple[str, bytes]:
    superblock = formatted.path.read_bytes()[:512]
    leaves = formatted.leaves()
    builder = TreeBuilder(path, len(leaves) // 32, superblock)
    for first, end in order:
        builder.put(first, leaves[first * 32 : end * 32])
    return builder.finish(), path.read_bytes()


@pytest.mark.parametrize("blocks", [2, 127, 128, 129, 300, 128 * 128, 128 * 128 + 1])
def test_a_tree_is_built_byte_for_byte_as_veritysetup_does(tmp_path: Path, blocks: int) -> None:
    data = bytearray(blocks * BLOCK)
    for block in range(0, blocks, 3):
        data[block * BLOCK : block * BLOCK + 8] = block.to_bytes(8, "big")
    formatted = format_tree(tmp_path, bytes(data), *FIXED)

    root_hash, made = build(tmp_path / "made", formatted, [(0, blocks)])

    assert root_hash == formatted.root_hash
    assert made == formatted.path.read_bytes()


def test_hashes_may_come_in_any_order(tmp_path: Path, two_levels: Formatted) -> None:
    order = [(first, min(300, first + 7)) for first in range(0, 300, 7)]
    random.Random(1).shuffle(order)
    assert build(tmp_path / "made", two_levels, order)[0] == two_levels.root_hash


@pytest.mark.parametrize("missing", [0, 127, 128, 299])
def test_a_hash_that_did_not_come_is_noticed(tmp_path: Path, two_levels: Formatted, missing: int) -> None:
    order = [(first, first + 1) for first in range(300) if first != missing]
    with pytest.raises(AgentError, match="made lacks the hash of a block"):
        build(tmp_path / "made", two_levels, order)


@pytest.mark.parametrize(("first", "count"), [(-1, 1), (300, 1), (299, 2)])
def test_a_hash_of_no_block_is_refused(
    tmp_path: Path, two_levels: Formatted, first: int, count: int
) -> None:
    builder = TreeBuilder(tmp_path / "made", 300, two_levels.path.read_bytes()[:512])
    with pytest.raises(NotAnImage, match=f"no hash of block {first}"):
        builder.put(first, bytes(32 * count))
    builder.close()


def test_a_superblock_for_other_data_is_refused(tmp_path: Path, two_levels: Formatted) -> None:
    superblock = two_levels.path.read_bytes()[:512]
    with pytest.raises(NotAnImage, match="is not for 299 blocks"):
        TreeBuilder(tmp_path / "made", 299, superblock)
    with pytest.raises(NotAnImage, match="no dm-verity hash tree"):
        TreeBuilder(tmp_path / "made", 300, bytes(512))
    assert not (tmp_path / "made").exists()


def test_a_file_that_is_there_already_is_left_alone(tmp_path: Path, two_levels: Formatted) -> None:
    (tmp_path / "made").write_bytes(b"mine")
    with pytest.raises(AgentError, match="made cannot be written: File exists; check the disk"):
        build(tmp_path / "made", two_levels, [(0, 300)])
    assert (tmp_path / "made").read_bytes() == b"mine"


def test_the_tree_of_a_slot_is_read_without_proof(two_levels: Formatted, tmp_path: Path) -> None:
    path = tmp_path / "slot"
    content = bytearray(two_levels.path.read_bytes())
    content[2 * BLOCK] ^= 1
    path.write_bytes(bytes(content) + bytes(1 << 20))
    with raw(path) as tree:
        assert (tree.blocks, tree.width, tree.root_hash) == (300, 32, two_levels.root_hash)
        assert tree.leaves(1, 299) == two_levels.leaves()[32:]
        assert tree.leaves(0, 1) != two_levels.leaf(0)


def test_blocks_beyond_the_tree_of_a_slot_have_a_hash_like_no_block(two_levels: Formatted) -> None:
    with raw(two_levels.path) as tree:
        assert tree.leaves(299, 3) == two_levels.leaf(299) + bytes(64)
        assert tree.leaves(300, 2) == bytes(64)
        assert tree.leaves(1 << 50, 1) == bytes(32)


def test_what_of_a_slots_tree_cannot_be_read_is_like_no_block(two_levels: Formatted, tmp_path: Path) -> None:
    path = tmp_path / "slot"
    path.write_bytes(two_levels.path.read_bytes())
    with raw(path) as tree:
        os.truncate(path, 2 * BLOCK + 64)
        assert tree.leaves(0, 300) == two_levels.leaves()[:64] + bytes(298 * 32)


def test_a_slot_without_a_tree_has_none(tmp_path: Path, two_levels: Formatted) -> None:
    (tmp_path / "short").write_bytes(two_levels.path.read_bytes()[: 4 * BLOCK])
    (tmp_path / "zeros").write_bytes(bytes(10 * BLOCK))
    (tmp_path / "empty").write_bytes(b"")
    for name in ("short", "zeros", "empty", "absent", ""):
        assert open_raw(tmp_path / name) is None


def test_of_unknown_blocks_nothing_is_known() -> None:
    assert (Unknown(7).width, Unknown(7).blocks, Unknown(7).leaves(2, 3)) == (0, 7, b"")


SMALL = bytes(range(256)) * 16 * 130


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Formatted:
    return format_tree(tmp_path_factory.mktemp("verity"), SMALL)


@given(st.data())
def test_any_tree_gives_the_right_hashes_or_is_refused(small: Formatted, data: st.DataObject) -> None:
    fd = memory_file(data.draw(mutated(small.path.read_bytes())))
    try:
        tree = HashTree(fd, 0, root_hash=small.root_hash, name="system.img")
        count = data.draw(st.integers(0, tree.blocks))
        found = tree.leaves(0, min(count, 1 << 16))
        assert found == small.leaves()[: len(found)]
    except NotAnImage:
        pass
    finally:
        os.close(fd)


@given(st.data())
def test_any_tree_in_a_slot_is_read_or_is_none(small: Formatted, data: st.DataObject) -> None:
    fd = memory_file(data.draw(mutated(small.path.read_bytes()) | st.binary(max_size=100)))
    try:
        tree = RawTree(fd, name="slot")
        assert tree.blocks * 32 <= 4 * BLOCK
        assert len(tree.leaves(0, 200)) == 200 * 32
    except NotAnImage:
        pass
    finally:
        os.close(fd)
