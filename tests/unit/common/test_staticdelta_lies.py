# SPDX-License-Identifier: Apache-2.0
"""Static deltas: every lie is one sentence."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from itertools import chain

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import AgentError
from common.image.origin import fill
from common.image.staticdelta import DATA, NEW_DATA, ZEROS, DeltaInvalid
from common.image.verity import BLOCK_BYTES
from tests.fakes.static_deltas import Recipe, applied, opened, sample, superblock

PATIENT = settings(deadline=None, suppress_health_check=list(HealthCheck))


def large_range(recipe: Recipe) -> None:
    """A dictionary of 1025 blocks, in two ranges."""
    recipe.changes["old_blocks"] = 9999
    recipe.frames[1][2].extend([(0, 1000), (0, 25)])


LIES: dict[str, tuple[Callable[[Recipe], object], str]] = {
    "magic": (lambda r: r.changes.update(magic=b"HYPDLTA2"), "does not begin as a delta does"),
    "no blocks": (lambda r: r.changes.update(blocks=0), "of an impossible size"),
    "no old blocks": (lambda r: r.changes.update(old_blocks=0), "of an impossible size"),
    "too many blocks": (lambda r: r.changes.update(blocks=1 << 63), "of an impossible size"),
    "other blocks": (lambda r: r.changes.update(blocks=8), "its steps give 7 blocks instead of 8"),
    "superblock": (lambda r: r.changes.update(superblock=b"x" * 512), "no proper superblock"),
    "other superblock": (lambda r: r.changes.update(superblock=superblock(8)), "system of another size"),
    "no table": (lambda r: r.changes.update(table_bytes=0), "table of contents has an impossible size"),
    "huge table": (lambda r: r.changes.update(table_bytes=1 << 31), "contents has an impossible size"),
    "huge frame": (lambda r: r.changes.update(frame_bytes=1 << 31), "contents has an impossible size"),
    "longer table": (
        lambda r: r.changes.update(table_bytes=200),
        "contents has another size than it should",
    ),
    "empty step": (lambda r: r.steps.append((0, ZEROS)), "a step without blocks"),
    "copy beyond": (lambda r: r.steps.append((2, 7)), "copies blocks that the old system does not have"),
    "more data": (lambda r: r.steps.append((1, NEW_DATA)), "do not hold as many blocks as its steps need"),
    "less data": (lambda r: r.steps.pop(), "do not hold as many blocks as its steps need"),
    "empty frame": (lambda r: r.frames.append((0, b"x", [])), "a frame of an impossible size"),
    "no bytes": (lambda r: r.frames.append((1, b"", [])), "a frame of an impossible size"),
    "large content": (lambda r: r.frames.append((1025, b"x", [])), "a frame of an impossible size"),
    "large frame": (lambda r: r.frames.append((1, bytes(70_000), [])), "a frame of an impossible size"),
    "empty range": (lambda r: r.frames[1][2].append((0, 0)), "a dictionary of an impossible size or place"),
    "range beyond": (lambda r: r.frames[1][2].append((7, 2)), "a dictionary of an impossible size or place"),
    "slow": (
        lambda r: r.frames.extend([(1, b"x", [(0, 8)])] * 5),
        "reads the old system more than 4 times",
    ),
    "large range": (large_range, "a dictionary of an impossible size or place"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_one_sentence(lie: str) -> None:
    change, why = LIES[lie]
    recipe = sample()
    change(recipe)
    with pytest.raises(DeltaInvalid, match=why) as caught, opened(recipe.render()):
        pass
    assert str(caught.value).startswith("D is damaged or was not built properly: ")
    assert str(caught.value).endswith("; install the release without it, and tell the vendor.")


@pytest.mark.parametrize(
    ("number", "change", "why"),
    [
        (0, 1, "another size than its lists"),
        (1, -1, "another size than its lists"),
        (15, 1, "fewer dictionary ranges than its frames need"),
        (15, -1, "more dictionary ranges than its frames need"),
        (14, 1, "bytes and its frames end at byte"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(number: int, change: int, why: str) -> None:
    recipe = sample()
    numbers = list(struct.unpack(f"<{len(recipe.table()) // 4}I", recipe.table()))
    numbers[number] += change
    with (
        pytest.raises(DeltaInvalid, match=why),
        opened(recipe.render(struct.pack(f"<{len(numbers)}I", *numbers))),
    ):
        pass


@pytest.mark.parametrize("size", [0, 100, 608, 620])
def test_a_delta_that_was_cut_short_is_refused(size: int) -> None:
    with pytest.raises(DeltaInvalid), opened(sample().render()[:size]):
        pass


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (b"no frame at all", "cannot be decompressed"),
        (zstandard.ZstdCompressor().compress(bytes(BLOCK_BYTES + 1)), "another size than it should"),
        (zstandard.ZstdCompressor(write_content_size=False).compress(bytes(BLOCK_BYTES)), "another size"),
        (zstandard.ZstdCompressor().compress(bytes(BLOCK_BYTES))[:-2], "cannot be decompressed"),
    ],
)
def test_a_frame_with_anything_else_is_refused_when_it_is_used(frame: bytes, why: str) -> None:
    recipe = Recipe(steps=[(1, NEW_DATA)], frames=[(1, frame, [])])
    with pytest.raises(DeltaInvalid, match=why):
        applied(recipe.render(), recipe.old)


def use(raw: bytes, old: bytes) -> None:
    """Everything there is; only our own errors are allowed."""
    with suppress(AgentError), opened(raw, old) as (delta, running):
        fetch = delta.fetcher(running)
        view = memoryview(bytearray(BLOCK_BYTES))
        for step in chain.from_iterable(delta.chapters()):
            if step.action == DATA:
                for block in range(step.block, step.block + step.count):
                    fill(fetch, view, block * BLOCK_BYTES)


@settings(PATIENT, max_examples=500)
@given(damage=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=10))
def test_damage_anywhere_gives_an_error_of_ours_or_nothing(damage: list[tuple[float, int]]) -> None:
    recipe = sample()
    raw = bytearray(recipe.render())
    for place, value in damage:
        raw[int(place**3 * len(raw))] = value  # mostly in head and table
    use(bytes(raw), recipe.old)


NUMBERS = st.one_of(
    st.integers(0, 10),
    st.integers(1000, 1100),
    st.sampled_from([NEW_DATA, ZEROS, 1 << 31, (1 << 32) - 3]),
)


@settings(PATIENT, max_examples=500)
@given(
    changes=st.dictionaries(st.integers(0, 30), NUMBERS, min_size=1, max_size=4),
    size=st.integers(0, 200),
    new_blocks=NUMBERS,
)
def test_any_numbers_in_the_table_give_an_error_of_ours_or_nothing(
    changes: dict[int, int], size: int, new_blocks: int
) -> None:
    recipe = sample()
    table = bytearray(recipe.table())
    for number, value in changes.items():
        struct.pack_into("<I", table, min(number * 4, len(table) - 4), value)
    if size < 100:
        table = table[:size]
    recipe.changes["blocks"] = new_blocks if new_blocks < 10 else 7
    use(recipe.render(bytes(table)), recipe.old)
