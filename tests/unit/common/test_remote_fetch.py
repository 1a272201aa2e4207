# SPDX-License-Identifier: Apache-2.0
"""Many ranges at once over HTTP: what is asked for, what it costs, and who may disturb whom."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.errors import InvalidArgument
from common.image import remote
from common.image.errors import NoSuchFile
from common.image.origin import Region, fill
from common.image.ranges import AHEAD_REQUESTS
from common.image.remote import Source
from tests.fakes.distance import distant
from tests.fakes.web_server import Handler, WebServer, start

CONTENT = random.Random(4).randbytes(3_000_000)


@pytest.fixture
def web() -> Iterator[WebServer]:
    server = WebServer(CONTENT)
    stop = start(server)
    yield server
    stop()


def rules(web: WebServer, **changes: float) -> remote.Rules:
    made = remote.Rules(
        hosts=(web.host,), pause_sec=0.01, timeout_sec=5, deadline_sec=20, attempts=3, gap_bytes=1000
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
def source(web: WebServer) -> Iterator[Source]:
    with remote.opened(web.url, rules(web)) as opened:
        yield opened


WANTED = [(0, 10), (1010, 5), (2016, 5), (1_500_000, 1_499_990)]


def drained(source: Source, ranges: list[tuple[int, int]], step: int = 300_000) -> None:
    fetch = source.fetcher(iter(ranges))
    for offset, length in ranges:
        for at in range(offset, offset + length, step):
            found = bytearray(min(step, offset + length - at))
            fill(fetch, memoryview(found), at)
            assert found == CONTENT[at : at + len(found)]


@pytest.mark.parametrize("step", [7, 4096, 1 << 20, 3_000_000])
def test_a_fetcher_fills_buffers_of_any_size(source: Source, step: int) -> None:
    drained(source, [(5, 1000), (1_000_000, 60_000 if step == 7 else 1_900_000)], step)


def test_ranges_near_each_other_are_one_request(web: WebServer, source: Source) -> None:
    drained(source, WANTED)

    assert web.ranges()[1:] == ["bytes=0-1014", "bytes=2016-2020", "bytes=1500000-2999989"]
    assert web.connections == 1


def test_the_cost_of_ranges_is_what_comes_over_the_network(web: WebServer, source: Source) -> None:
    cost = source.cost(iter(WANTED))
    assert len(web.requests) == 1
    before = source.fetched_bytes
    drained(source, WANTED)

    assert source.fetched_bytes - before == cost == 1015 + 5 + 1_499_990
    assert web.sent_bytes == source.fetched_bytes


def test_some_requests_are_sent_before_they_are_needed_and_the_others_later(
    web: WebServer, source: Source
) -> None:
    wanted = [(number * 5000, 10) for number in range(100)]
    left = iter(wanted)
    fetch = source.fetcher(left)
    fill(fetch, memoryview(bytearray(10)), 0)
    assert len(list(left)) == 100 - 1 - AHEAD_REQUESTS - 1  # one more shows where the last one ends

    drained(source, wanted)
    assert web.ranges()[-100:] == [f"bytes={offset}-{offset + 9}" for offset, _ in wanted]
    assert web.connections == 2


def test_large_requests_are_not_sent_ahead_without_bound(source: Source) -> None:
    left = iter([(number * 500_000, 400_000) for number in range(6)])
    fill(source.fetcher(left), memoryview(bytearray(10)), 0)
    assert len(list(left)) == 6 - 1 - 3 - 1


def test_the_distance_to_the_server_is_not_paid_for_each_request(web: WebServer) -> None:
    with distant(web.port, 0.05) as web.port, remote.opened(web.url, rules(web)) as source:
        begun = time.monotonic()
        drained(source, [(number * 5000, 10) for number in range(160)])
        assert time.monotonic() - begun < 160 * 0.05 / 4


def test_a_server_that_drops_what_was_sent_ahead_is_asked_one_by_one(web: WebServer, source: Source) -> None:
    def single(request: Handler, first: int, last: int) -> bool:
        request.send_range(first, last)
        return request.cut()

    web.misbehave = single
    drained(source, [(number * 5000, 10) for number in range(30)])
    assert source._broken >= 4
    assert web.connections < 45


def test_a_server_that_closes_politely_is_asked_for_the_rest_again(web: WebServer, source: Source) -> None:
    def polite(request: Handler, first: int, last: int) -> bool:
        return first % 35_000 == 0 and request.send_range(first, last, Connection="close")

    web.misbehave = polite
    drained(source, [(number * 5000, 10) for number in range(30)])
    assert source._broken < 4
    assert web.connections <= 12  # what was sent ahead may make the end of a connection an abrupt one


def test_a_request_does_not_wait_for_endless_ranges(web: WebServer, source: Source) -> None:
    drained(source, [(block * 100, 50) for block in range(2100)])
    assert web.ranges()[1:] == ["bytes=0-102349", "bytes=102400-204749", "bytes=204800-209949"]


@pytest.mark.parametrize("offset", [10, 999, 2_999_995])
def test_what_was_not_asked_for_is_not_fetched(source: Source, offset: int) -> None:
    fetch = source.fetcher([(0, 10), (1000, 10)])
    with pytest.raises(InvalidArgument, match="is in none of the ranges"):
        fetch(memoryview(bytearray(1)), offset)


def test_ranges_outside_of_the_image_have_no_cost(source: Source) -> None:
    with pytest.raises(InvalidArgument, match="cannot be read"):
        source.cost([(2_999_999, 2)])


def test_a_fetcher_goes_on_after_another_reader_came_between(source: Source) -> None:
    fetch = source.fetcher([(0, 3_000_000)])
    found = bytearray(3_000_000)
    view = memoryview(found)
    done = 0
    while done < len(found):
        done += fetch(view[done : done + 400_000], done)
        assert source.read(77, 7) == CONTENT[77:84]
    assert found == CONTENT


def test_an_interrupted_fetch_goes_on_where_it_was(web: WebServer, source: Source) -> None:
    def half(request: Handler, first: int, last: int) -> bool:
        request.cut()
        request.answer(
            206,
            CONTENT[: 1 << 20],
            ETag='"one"',
            **{"Content-Range": f"bytes {first}-{last}/3000000", "Content-Length": str(last - first + 1)},
        )
        web.misbehave = None
        return True

    web.misbehave = half
    drained(source, [(0, 1_500_000), (1_500_010, 1_499_990)])
    assert web.ranges()[1:] == ["bytes=0-2999999", "bytes=1048576-2999999"]


def test_a_part_of_an_image_on_a_server_is_fetched_from_its_place(web: WebServer, source: Source) -> None:
    region = Region(source, 1_000_000, 500_000, "root")
    found = bytearray(100)
    fill(region.fetcher([(5, 100)]), memoryview(found), 5)

    assert found == CONTENT[1_000_005:1_000_105]
    assert region.cost([(5, 100)]) == 100
    assert region.fetched_bytes == source.fetched_bytes
    assert web.ranges()[-1] == "bytes=1000005-1000104"
    region.finish()


def test_small_requests_do_not_wait_for_a_full_packet(source: Source) -> None:
    connection: Any = source._connection
    assert connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_server_may_have_several_files(tmp_path: Path) -> None:
    (tmp_path / "a.img").write_bytes(b"first file")
    (tmp_path / "b.img").write_bytes(b"second file")
    web = WebServer(folder=tmp_path)
    stop = start(web)
    try:
        for name, content in (("a.img", b"first file"), ("b.img", b"second file")):
            with remote.opened(web.url_of(name), rules(web)) as source:
                assert source.read(0, source.size_bytes) == content
        with (
            pytest.raises(NoSuchFile, match=r"c\.img cannot be downloaded: localhost has no such file"),
            remote.opened(web.url_of("c.img"), rules(web)),
        ):
            pass
    finally:
        stop()
