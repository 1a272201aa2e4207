# SPDX-License-Identifier: Apache-2.0
"""Static deltas: what is applied comes out as it was made, in bounded memory."""

from __future__ import annotations

import os
import tracemalloc
from itertools import chain
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import InvalidArgument
from common.image import staticdelta
from common.image.origin import LocalOrigin, fill
from common.image.staticdelta import COPY_RUNNING, DATA, NEW_DATA, ZERO, ZEROS, DeltaInvalid, StaticDelta
from common.image.verity import BLOCK_BYTES
from tests.fakes.static_deltas import (
    NEW_HASH,
    OLD_BLOCKS,
    OLD_HASH,
    Recipe,
    applied,
    blocks,
    opened,
    part,
    sample,
    superblock,
)

PATIENT = settings(deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def recipes(draw: st.DrawFn) -> tuple[Recipe, bytes]:
    """A delta, and what it makes."""
    recipe = Recipe()
    made, data = b"", b""
    for _ in range(draw(st.integers(1, 8))):
        count = draw(st.integers(1, 4))
        kind = draw(st.sampled_from((COPY_RUNNING, ZERO, DATA)))
        if kind == COPY_RUNNING:
            source = draw(st.integers(0, OLD_BLOCKS - count))
            piece = part(recipe.old, source, count)
        elif kind == ZERO:
            source, piece = ZEROS, bytes(count * BLOCK_BYTES)
        else:
            source = NEW_DATA
            piece = part(recipe.old, draw(st.integers(0, OLD_BLOCKS - count)), count)
            piece = piece.replace(piece[:2], draw(st.binary(min_size=2, max_size=2)))
            data += piece
        recipe.steps.append((count, source))
        made += piece
    while data:
        size = draw(st.integers(1, 5)) * BLOCK_BYTES
        begins = draw(st.lists(st.integers(0, OLD_BLOCKS - 2), max_size=3))
        recipe.add(data[:size], [(begin, draw(st.integers(1, 2))) for begin in begins])
        data = data[size:]
    return recipe, made


@PATIENT
@given(made=recipes())
def test_every_byte_of_the_new_system_comes_out(made: tuple[Recipe, bytes]) -> None:
    recipe, new = made
    assert applied(recipe.render(), recipe.old) == new


def test_the_head_tells_for_which_systems_a_delta_is() -> None:
    recipe = sample()
    with opened(recipe.render()) as (delta, _):
        assert (delta.old_root_hash, delta.new_root_hash) == (OLD_HASH.hex(), NEW_HASH.hex())
        assert (delta.old_blocks, delta.blocks, delta.superblock) == (OLD_BLOCKS, 7, b"")
        assert delta.size_bytes == len(recipe.render())


def test_chapters_are_cut_where_they_would_grow_too_large() -> None:
    recipe = Recipe(steps=[(1, ZEROS), (3, 2)] * 10_000 + [(300_000, ZEROS)])
    with opened(recipe.render()) as (delta, _):
        chapters = list(delta.chapters())

    end = 0
    for step in chain.from_iterable(chapters):
        assert step.block == end
        end += step.count
    assert end == 340_000
    assert max(sum(step.count for step in chapter) for chapter in chapters) <= staticdelta.CHAPTER_BLOCKS
    assert max(map(len, chapters)) <= 8192


def test_a_copy_that_a_chapter_cuts_goes_on_behind_it() -> None:
    recipe = Recipe(steps=[(1, ZEROS), (70_000, 5)], changes={"old_blocks": 80_000})
    with opened(recipe.render()) as (delta, _):
        steps = list(chain.from_iterable(delta.chapters()))

    assert [(step.block, step.count, step.source) for step in steps] == [
        (0, 1, 0),
        (1, 65_535, 5),
        (65_536, 4_465, 65_540),
    ]


def test_a_fetcher_may_pass_over_data_and_serves_small_buffers() -> None:
    recipe = sample()
    with opened(recipe.render(), recipe.old) as (delta, running):
        view = memoryview(bytearray(1000))
        fill(delta.fetcher(running), view, 6 * BLOCK_BYTES + 100)
    assert bytes(view) == part(blocks(3, seed=1), 2, 1)[100:1100]


def test_the_old_system_may_begin_anywhere() -> None:
    recipe = sample()
    with opened(recipe.render(), b"head" + recipe.old) as (delta, running):
        view = memoryview(bytearray(BLOCK_BYTES))
        fill(delta.fetcher(running, 4), view, 2 * BLOCK_BYTES)
    assert bytes(view) == part(blocks(3, seed=1), 0, 1)


@pytest.mark.parametrize("offset", [0, 3 * BLOCK_BYTES, 7 * BLOCK_BYTES])
def test_what_is_no_new_data_cannot_be_fetched(offset: int) -> None:
    recipe = sample()
    with (
        opened(recipe.render(), recipe.old) as (delta, running),
        pytest.raises(
            InvalidArgument, match=rf"^Byte {offset} of the new system is not in the data of D\.$"
        ),
    ):
        delta.fetcher(running)(memoryview(bytearray(1)), offset)


def test_a_rotten_block_spoils_only_what_is_made_of_it() -> None:
    recipe = Recipe(steps=[(2, NEW_DATA)])
    other = blocks(1, seed=1)
    recipe.add(part(recipe.old, 3, 1), [(3, 1)])
    recipe.add(other, [(4, 1)])
    rotten = bytearray(recipe.old)
    rotten[3 * BLOCK_BYTES + 50] ^= 1

    made = applied(recipe.render(), bytes(rotten))

    assert made == part(bytes(rotten), 3, 1) + other


def test_a_running_system_that_ends_early_is_told() -> None:
    recipe = sample()
    with pytest.raises(DeltaInvalid, match="an old system that is larger than the running one"):
        applied(recipe.render(), recipe.old[: 2 * BLOCK_BYTES])


def test_the_superblock_of_the_new_hash_tree_comes_along() -> None:
    recipe = sample()
    recipe.superblock = superblock(7)
    with opened(recipe.render()) as (delta, _):
        assert delta.superblock == superblock(7)


def test_a_bomb_takes_no_memory() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(256 << 20))
    recipe = Recipe(steps=[(4, NEW_DATA)], frames=[(4, bomb, [])])
    tracemalloc.start()
    try:
        with pytest.raises(DeltaInvalid):
            applied(recipe.render(), recipe.old)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_the_largest_frames_stay_within_the_memory_that_is_promised(tmp_path: Path) -> None:
    recipe = Recipe(old=blocks(1024), steps=[(2048, NEW_DATA)])
    for seed in (1, 2):
        recipe.add(blocks(1024, seed), [(0, 512), (512, 512)])
    (tmp_path / "delta").write_bytes(recipe.render())
    (tmp_path / "old").write_bytes(recipe.old)
    view = memoryview(bytearray(64 << 10))
    with (tmp_path / "delta").open("rb") as stream, (tmp_path / "old").open("rb") as running:
        del recipe
        tracemalloc.start()
        try:
            size = os.fstat(stream.fileno()).st_size
            delta = StaticDelta(LocalOrigin(stream.fileno(), size, "D"), name="D")
            fetch = delta.fetcher(running.fileno())
            for offset in range(0, 8 << 20, len(view)):
                fill(fetch, view, offset)
            assert tracemalloc.get_traced_memory()[1] < 16 << 20
        finally:
            tracemalloc.stop()
