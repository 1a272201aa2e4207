# SPDX-License-Identifier: Apache-2.0
"""Origins on this machine: files, and parts of other origins."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from common.errors import AgentError
from common.image.errors import ChecksumMismatch, Truncated
from common.image.origin import Fetcher, LocalOrigin, Region, fill

CONTENT = random.Random(4).randbytes(100_000)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[LocalOrigin]:
    path = tmp_path / "system.img"
    path.write_bytes(CONTENT)
    fd = os.open(path, os.O_RDONLY)
    yield LocalOrigin(fd, len(CONTENT), path.name, path)
    os.close(fd)


def fetched(fetch: Fetcher, offset: int, length: int) -> bytes:
    found = bytearray(length)
    fill(fetch, memoryview(found), offset)
    return bytes(found)


def test_a_file_is_read_and_fetched_at_any_place(file: LocalOrigin) -> None:
    assert file.read(5, 10) == CONTENT[5:15]
    assert file.read(100_000, 0) == b""
    fetch = file.fetcher([(0, 10), (50_000, 50_000)])
    assert fetched(fetch, 0, 10) == CONTENT[:10]
    assert fetched(fetch, 50_000, 50_000) == CONTENT[50_000:]


def test_what_is_on_this_machine_costs_nothing(file: LocalOrigin) -> None:
    region = Region(file, 10, 100, "root")
    file.read(0, 100)
    for origin in (file, region):
        assert origin.cost([(0, 100)]) == 0
        assert origin.fetched_bytes == 0


@pytest.mark.parametrize(("offset", "length"), [(-1, 5), (0, -1), (99_999, 2), (100_001, 0)])
def test_nothing_is_read_beyond_the_end_of_a_file(file: LocalOrigin, offset: int, length: int) -> None:
    with pytest.raises(Truncated, match=r"system\.img has 100000 bytes"):
        file.read(offset, length)


def test_a_file_that_became_shorter_is_truncated(file: LocalOrigin) -> None:
    assert file.path is not None
    os.truncate(file.path, 40_000)
    fetch = file.fetcher([(0, 100_000)])
    with pytest.raises(Truncated, match=r"system\.img ends at byte 40000, 60000 bytes early; copy or"):
        fetched(fetch, 0, 50_000)


def test_a_file_that_cannot_be_read_is_a_clear_error(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(AgentError, match=r"^x\.img cannot be read at byte 3: Is a directory\.$"):
            LocalOrigin(fd, 10, "x.img").read(3, 1)
    finally:
        os.close(fd)


def test_a_file_that_is_written_to_meanwhile_is_no_longer_one(file: LocalOrigin) -> None:
    file.finish()
    assert file.path is not None
    os.utime(file.path, ns=(0, 5))
    with pytest.raises(ChecksumMismatch, match="was changed while it was read"):
        Region(file, 0, 10, "root").finish()


def test_a_region_is_the_part_that_it_names(file: LocalOrigin) -> None:
    region = Region(Region(file, 1000, 5000, "half"), 500, 100, "root")

    assert (region.size_bytes, region.name) == (100, "root")
    assert region.read(0, 100) == CONTENT[1500:1600]
    assert fetched(region.fetcher([(10, 20)]), 10, 20) == CONTENT[1510:1530]


def test_a_region_gives_nothing_of_what_lies_behind_it(file: LocalOrigin) -> None:
    region = Region(file, 1000, 100, "root")
    view = memoryview(bytearray(500))

    assert region.fetcher([(60, 40)])(view, 60) == 40
    assert bytes(view[40:]) == bytes(460)
    with pytest.raises(Truncated, match="root has 100 bytes"):
        region.read(50, 51)


def test_a_region_passes_its_ranges_on_in_place_and_only_when_they_are_needed(file: LocalOrigin) -> None:
    asked: list[tuple[int, int]] = []

    class Recorded(LocalOrigin):
        def fetcher(self, ranges: Iterable[tuple[int, int]]) -> Fetcher:
            taken = iter(ranges)

            def fetch(view: memoryview, offset: int) -> int:
                asked.append(next(taken))
                return super(Recorded, self)._fill(view, offset)

            return fetch

    region = Region(Recorded(file.fd, 100_000, "system.img"), 1000, 100, "root")
    given = iter([(0, 10), (20, 10)])
    fetch = region.fetcher(given)
    fetched(fetch, 0, 10)
    assert asked == [(1000, 10)]
    assert next(given) == (20, 10)


def test_ranges_outside_of_a_region_are_not_passed_on(file: LocalOrigin) -> None:
    region = Region(file, 1000, 100, "root")
    with pytest.raises(Truncated, match="root has 100 bytes and not 2 at byte 99"):
        list(region._placed([(99, 2)]))


def test_a_region_beyond_the_end_is_refused(file: LocalOrigin) -> None:
    with pytest.raises(Truncated, match="has 100000 bytes and not 10 at byte 99999"):
        Region(file, 99_999, 10, "root")
