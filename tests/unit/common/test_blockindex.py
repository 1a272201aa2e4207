# SPDX-License-Identifier: Apache-2.0
"""The block index: what is rendered is read back, whatever else is refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import AgentError
from common.image import blockindex
from common.image.blockindex import BlockIndex
from common.image.errors import NotAnImage
from tests.fakes.compressed import memory_file
from tests.fakes.mutations import mutated
from tests.fakes.verity_trees import BLOCK, format_tree

HASHES = [sha256(bytes([number])).digest() for number in range(200)]
PREFIXES = b"".join(item[:8] for item in HASHES)
PLAIN = b"".join(blockindex.render(bytes(512), HASHES))


@contextmanager
def opened(raw: bytes, size_bytes: int | None = None) -> Iterator[BlockIndex]:
    fd = memory_file(raw)
    try:
        yield BlockIndex(fd, len(raw) if size_bytes is None else size_bytes, name="x.img.zst")
    finally:
        os.close(fd)


def test_the_index_has_the_start_of_each_hash() -> None:
    with opened(PLAIN) as index:
        assert (index.width, index.blocks, index.superblock) == (8, 200, bytes(512))
        assert index.leaves(0, 200) == PREFIXES
        assert index.leaves(7, 2) == PREFIXES[56:72]
        assert index.leaves(200, 0) == b""
    assert len(PLAIN) == blockindex.size_bytes(200)


def test_the_layout_is_the_one_that_is_documented() -> None:
    assert PLAIN[:16] == b"HYPRIDX1" + (200).to_bytes(8, "little")
    assert PLAIN[16:528] == bytes(512)
    assert PLAIN[528:] == PREFIXES


def test_hashes_may_be_rendered_in_pieces_of_any_size() -> None:
    whole = b"".join(HASHES)
    assert b"".join(blockindex.render(bytes(512), [whole[:64], whole[64:4096], whole[4096:]])) == PLAIN


def test_a_large_index_is_rendered_in_pieces() -> None:
    pieces = list(blockindex.render(bytes(512), [bytes(32 << 13)] * 40))
    assert max(map(len, pieces)) <= 1 << 20
    assert sum(map(len, pieces)) == blockindex.size_bytes(40 << 13)


def test_an_index_with_a_superblock_is_for_the_same_blocks(tmp_path: Path) -> None:
    tree = format_tree(tmp_path, bytes(200 * BLOCK))
    superblock = tree.path.read_bytes()[:512]
    with opened(b"".join(blockindex.render(superblock, HASHES))) as index:
        assert index.superblock == superblock
    with (
        pytest.raises(NotAnImage, match="different numbers of blocks"),
        opened(b"".join(blockindex.render(superblock, HASHES[1:]))),
    ):
        pass


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (b"", "too short"),
        (PLAIN[:527], "too short"),
        (PLAIN[:-1], "is none"),
        (PLAIN + bytes(8), "is none"),
        (b"X" + PLAIN[1:], "is none"),
        (PLAIN[:8] + b"\xff" * 8 + PLAIN[16:], "is none"),
        (PLAIN[:16] + b"x" + PLAIN[17:], "no dm-verity hash tree"),
    ],
)
def test_what_is_no_index_is_refused(raw: bytes, complaint: str) -> None:
    with pytest.raises(NotAnImage, match=complaint) as caught, opened(raw):
        pass
    assert str(caught.value).startswith("x.img.zst is damaged")


@pytest.mark.parametrize(("first", "count"), [(-1, 1), (0, -1), (200, 1), (199, 2)])
def test_blocks_outside_the_index_have_no_hash(first: int, count: int) -> None:
    with opened(PLAIN) as index, pytest.raises(NotAnImage, match="has 200 blocks and not"):
        index.leaves(first, count)


def test_an_index_that_ends_early_is_refused() -> None:
    with (
        opened(PLAIN[:-8], len(PLAIN)) as index,
        pytest.raises(NotAnImage, match="block index ends early"),
    ):
        index.leaves(0, 200)


def test_an_index_that_cannot_be_read_is_a_clear_error(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(AgentError, match=r"^The block index of x cannot be read at byte 0: Is a dir"):
            BlockIndex(fd, 1000, name="x")
    finally:
        os.close(fd)


@given(mutated(PLAIN) | st.binary(max_size=600))
def test_any_bytes_are_an_index_or_refused(raw: bytes) -> None:
    try:
        with opened(raw) as index:
            assert blockindex.size_bytes(index.blocks) == len(raw)
            assert index.leaves(0, index.blocks) == raw[528:]
    except NotAnImage:
        pass
