# SPDX-License-Identifier: Apache-2.0
"""Which blocks of a delta are new, and what they are compressed with."""

from __future__ import annotations

from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from common.image.staticdelta import MAX_DICTIONARY_BLOCKS, MAX_FRAME_BLOCKS, NEW_DATA, ZEROS
from hypernet_release.deltaplan import ZERO_HASH, Frame, frames, sources, steps
from hypernet_release.listing import Run


def hashes(text: str) -> list[bytes]:
    """A block for each letter; "0" is a block of zeros."""
    return [ZERO_HASH if letter == "0" else sha256(letter.encode()).digest() for letter in text]


def ranges(frame: Frame) -> list[tuple[int, int]]:
    return [(run.first, run.count) for run in frame.dictionary]


def test_what_is_not_in_the_old_system_is_new() -> None:
    found = sources(hashes("abcd"), hashes("cdx0a"), [])

    assert list(steps(found)) == [(2, 2), (1, NEW_DATA), (1, ZEROS), (1, 0)]


def test_blocks_that_are_there_twice_are_copied_in_one_run() -> None:
    found = sources(hashes("aXbcaYbc"), hashes("aYbc"), [])

    assert list(steps(found)) == [(1, 0), (3, 5)]


def test_a_few_unchanged_blocks_between_changed_ones_of_a_file_are_new_too() -> None:
    old, new = hashes("abcdefgh"), hashes("abXdYfgh")

    assert list(steps(sources(old, new, []))) == [(2, 0), (1, NEW_DATA), (1, 3), (1, NEW_DATA), (3, 5)]
    assert list(steps(sources(old, new, [Run(1, 6, "/file")]))) == [(2, 0), (3, NEW_DATA), (3, 5)]


@given(
    old=st.text("abcdef0", min_size=1, max_size=30),
    new=st.text("abcdefxyz0", min_size=1, max_size=30),
)
def test_steps_are_the_whole_new_system(old: str, new: str) -> None:
    made = ""
    for count, source in steps(sources(hashes(old), hashes(new), [Run(0, len(new), "/file")])):
        there = new[len(made) : len(made) + count]
        if source == ZEROS:
            assert set(there) == {"0"}
        elif source != NEW_DATA:
            assert there == old[source : source + count]
        made += there
    assert made == new


def changed(file: Run, old: list[Run], *, old_blocks: int = 10_000) -> list[Frame]:
    """The frames of a system with this one changed file."""
    return frames([NEW_DATA] * file.end, old, [file], old_blocks)


def test_the_dictionary_of_a_file_is_its_old_version() -> None:
    old = [Run(5, 3, "/usr/bin/a"), Run(8, 4, "/usr/bin/b"), Run(12, 3, "/usr/sbin/a")]

    (frame,) = changed(Run(0, 4, "/usr/bin/b"), old)

    assert ranges(frame) == [(8, 4)]


def test_numbers_in_a_path_may_be_others() -> None:
    old = [Run(5, 3, "/lib/modules/6.1.0-9/a.ko"), Run(8, 4, "/opt/a.ko")]

    (frame,) = changed(Run(0, 4, "/lib/modules/6.1.0-10/a.ko"), old)

    assert ranges(frame) == [(5, 3)]


def test_a_file_that_moved_is_found_by_name_and_size() -> None:
    old = [Run(5, 3, "/a/tool"), Run(8, 9, "/b/tool"), Run(30, 8, "/c/others")]

    (frame,) = changed(Run(0, 8, "/usr/tool"), old)

    assert ranges(frame) == [(8, 9)]


def test_a_new_file_has_the_ones_of_its_kind_in_its_folder() -> None:
    old = [Run(5, 3, "/lib/liba.so.1"), Run(8, 4, "/lib/readme"), Run(20, 3, "/usr/libb.so.2")]

    (frame,) = changed(Run(0, 8, "/lib/libnew.so.3"), old)

    assert ranges(frame) == [(5, 3)]


def test_what_belongs_to_no_file_has_the_gaps_about_the_old_version_of_the_next_file() -> None:
    old = [Run(100 * n + 1, 99, f"/{name}") for n, name in enumerate("abcdefghij")]

    (frame,) = frames([NEW_DATA, *range(501, 600)], old, [Run(1, 99, "/f")], 1000)

    assert ranges(frame) == [(300, 1), (400, 1), (500, 1), (600, 1), (700, 1), (800, 1)]


def test_without_files_the_blocks_about_the_last_copied_one_are_the_dictionary() -> None:
    (frame,) = frames([5000, 5001, NEW_DATA, NEW_DATA], [], [], 10_000)

    assert ranges(frame) == [(5002 - 256, 512)]


def test_small_files_share_a_frame_and_a_large_one_is_cut_into_equal_parts() -> None:
    new = [Run(0, 2, "/a"), Run(2, 3, "/b"), Run(5, 2500, "/c")]
    old = [Run(0, 2, "/a"), Run(2, 3, "/b"), Run(5, 2400, "/c")]

    found = frames([NEW_DATA] * 2505, old, new, 2405)

    assert [frame.blocks for frame in found] == [5, 834, 834, 832]
    assert ranges(found[0]) == [(0, 5)]
    assert [ranges(frame) for frame in found[1:]] == [[(5, 1024)], [(693, 1024)], [(1381, 1024)]]


@given(
    old=st.lists(st.integers(1, 3000), max_size=20),
    new=st.lists(st.tuples(st.integers(1, 3000), st.integers(0, 20)), min_size=1, max_size=20),
)
def test_every_frame_is_within_the_bounds(old: list[int], new: list[tuple[int, int]]) -> None:
    files: tuple[list[Run], list[Run]] = ([], [])
    for of, sizes in zip(files, (old, [size for size, _ in new]), strict=True):
        for number, size in enumerate(sizes):
            begin = of[-1].end + number % 2 if of else 0
            of.append(Run(begin, size, f"/{'x' * number}"))
    old_blocks, new_blocks = (of[-1].end + 1 if of else 1 for of in files)

    found = frames([NEW_DATA] * new_blocks, *files, old_blocks)

    assert sum(frame.blocks for frame in found) == new_blocks
    end = 0
    for frame in found:
        assert 0 < frame.blocks <= MAX_FRAME_BLOCKS
        assert sum(run.count for run in frame.dictionary) <= MAX_DICTIONARY_BLOCKS
        assert all(0 <= run.first < run.end <= old_blocks for run in frame.dictionary)
        for run in frame.new:
            assert run.first == end
            end = run.end
