# SPDX-License-Identifier: Apache-2.0
"""Images read over HTTP, from real servers on loopback that do what they should, or not."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import pytest

from common.errors import AgentError, InvalidArgument
from common.image import remote
from common.image.errors import ChecksumMismatch
from tests.fakes.web_server import Handler, Misbehave, WebServer, start

CONTENT = random.Random(4).randbytes(3_000_000)


@pytest.fixture
def web() -> Iterator[WebServer]:
    server = WebServer(CONTENT)
    stop = start(server)
    yield server
    stop()


def rules(web: WebServer, **changes: float) -> remote.Rules:
    made = remote.Rules(hosts=(web.host,), pause_sec=0.01, timeout_sec=5, deadline_sec=20, attempts=3)
    return replace(made, **changes)  # type: ignore[arg-type]


def once(misbehave: Misbehave) -> Misbehave:
    """Misbehave at the first request for more than the first byte only."""
    done = threading.Event()

    def answer(request: Handler, first: int, last: int) -> bool:
        if last == 0 or done.is_set():
            return False
        done.set()
        return misbehave(request, first, last)

    return answer


def after_opening(misbehave: Misbehave) -> Misbehave:
    return lambda request, first, last: last > 0 and misbehave(request, first, last)


def test_an_image_is_read_in_ranges_over_one_connection(web: WebServer) -> None:
    with remote.opened(web.url, rules(web)) as source:
        assert (source.size_bytes, source.etag, source.name) == (3_000_000, '"one"', "hypernet-1.2.3.img")
        assert source.read(5, 10) == CONTENT[5:15]
        assert source.read(0, 3_000_000) == CONTENT
    assert web.connections == 1


def test_each_request_asks_for_plain_bytes_of_the_same_image(web: WebServer) -> None:
    with remote.opened(web.url, rules(web)) as source:
        source.read(5, 10)
    headers = web.requests[1][1]
    assert headers["If-Range"] == '"one"'
    assert headers["Accept-Encoding"] == "identity"
    assert headers["Range"] == "bytes=5-14"


@pytest.mark.parametrize("etag", ["", 'W/"weak"', "unquoted"])
def test_without_a_strong_tag_nothing_is_made_conditional(web: WebServer, etag: str) -> None:
    web.etag = etag
    with remote.opened(web.url, rules(web)) as source:
        assert source.etag == ""
        assert source.read(1, 2) == CONTENT[1:3]
    assert all("If-Range" not in headers for _, headers in web.requests)


def test_ranges_near_each_other_are_one_request_and_the_gap_is_dropped(web: WebServer) -> None:
    wanted = [(0, 10), (15, 5), (1_500_000, 1_200_000), (2_999_999, 1)]
    with remote.opened(web.url, rules(web)) as source:
        found = bytearray(3_000_000)
        for offset, piece in source.stream(wanted, gap_bytes=5):
            found[offset : offset + len(piece)] = piece
    expected = bytearray(3_000_000)
    for offset, length in wanted:
        expected[offset : offset + length] = CONTENT[offset : offset + length]
    assert found == expected
    assert web.ranges()[1:] == ["bytes=0-19", "bytes=1500000-2699999", "bytes=2999999-2999999"]


@pytest.mark.parametrize("wanted", [(0, 0), (-1, 5), (2_999_999, 2), (3_000_000, 1)])
def test_a_range_outside_the_image_is_not_asked_for(web: WebServer, wanted: tuple[int, int]) -> None:
    with (
        remote.opened(web.url, rules(web)) as source,
        pytest.raises(InvalidArgument, match="cannot be read"),
    ):
        source.read(*wanted)
    assert len(web.requests) == 1


def test_an_interrupted_transfer_goes_on_where_it_was(web: WebServer) -> None:
    def half(request: Handler, first: int, last: int) -> bool:
        request.cut()
        request.answer(
            206,
            CONTENT[: 1 << 20],
            ETag='"one"',
            Content_Range="",
            **{"Content-Range": f"bytes {first}-{last}/3000000", "Content-Length": str(last - first + 1)},
        )
        return True

    web.misbehave = once(half)
    with remote.opened(web.url, rules(web)) as source:
        assert source.read(0, 3_000_000) == CONTENT
    assert web.ranges()[1:] == ["bytes=0-2999999", "bytes=1048576-2999999"]


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
def test_a_server_that_is_down_for_a_moment_is_asked_again(web: WebServer, status: int) -> None:
    web.misbehave = once(lambda request, first, last: request.answer(status))
    with remote.opened(web.url, rules(web)) as source:
        assert source.read(0, 100) == CONTENT[:100]


def test_a_server_that_stays_down_is_given_up(web: WebServer) -> None:
    web.misbehave = lambda request, first, last: request.answer(503)
    with pytest.raises(AgentError, match="answers with status 503; check the server"):
        opened(web)
    assert len(web.requests) == 3


def test_a_connection_that_is_always_cut_is_given_up(web: WebServer) -> None:
    web.misbehave = lambda request, first, last: request.cut()
    with pytest.raises(AgentError, match=r"cannot be reached|connection ended"):
        opened(web)


def opened(web: WebServer, **changes: float) -> None:
    with remote.opened(web.url, rules(web, **changes)) as source:
        source.read(100, 2000)


def with_range(text: str) -> Misbehave:
    return lambda request, first, last: request.send_range(first, last, Content_Range=text)


@pytest.mark.parametrize(
    ("misbehave", "sentence"),
    [
        (lambda request, first, last: request.answer(200, CONTENT), "ignores ranges"),
        (lambda request, first, last: request.answer(404), "has no such file"),
        (lambda request, first, last: request.answer(403), "denies access"),
        (lambda request, first, last: request.answer(401), "asks for a login"),
        (lambda request, first, last: request.answer(418), "status 418"),
        (lambda request, first, last: request.answer(416), "changed on the server"),
        (with_range(""), "no valid Content-Range"),
        (with_range("bytes 100-2099/*"), "no valid Content-Range"),
        (with_range("bytes 101-2100/3000000"), "another range"),
        (with_range("bytes 100-2098/3000000"), "another range"),
        (with_range("bytes 100-2099/2000"), "another range"),
        (with_range("bytes 100-2099/3000001"), "changed on the server"),
        (
            lambda request, first, last: request.send_range(first, last, Content_Encoding="gzip"),
            "encoded",
        ),
        (
            lambda request, first, last: request.send_range(first, last, ETag='"two"'),
            "changed on the server",
        ),
        (
            lambda request, first, last: request.send_range(first, last, Content_Length="1999"),
            "another number of bytes",
        ),
        (
            lambda request, first, last: request.send_range(first, last, Content_Length="99999"),
            "another number of bytes",
        ),
        (
            lambda request, first, last: request.send_range(
                first, last, Content_Length="", Transfer_Encoding="chunked"
            ),
            "another number of bytes",
        ),
    ],
)
def test_an_answer_that_cannot_be_used_is_one_clear_sentence(
    web: WebServer, misbehave: Misbehave, sentence: str
) -> None:
    web.misbehave = after_opening(misbehave)

    with pytest.raises(AgentError, match=sentence) as caught:
        opened(web)

    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_an_image_that_is_replaced_on_the_server_is_noticed(web: WebServer) -> None:
    with remote.opened(web.url, rules(web)) as source:
        web.etag = '"two"'
        with pytest.raises(ChecksumMismatch, match="changed on the server"):
            source.read(0, 10)


def test_more_bytes_than_announced_never_reach_the_next_range(web: WebServer) -> None:
    def longer(request: Handler, first: int, last: int) -> bool:
        request.send_range(first, last)
        request.wfile.write(b"HTTP/1.1 surplus\r\n")
        return True

    web.misbehave = once(longer)
    with remote.opened(web.url, rules(web)) as source:
        assert source.read(10, 10) == CONTENT[10:20]
        assert source.read(50, 10) == CONTENT[50:60]


def test_a_range_that_was_not_read_to_its_end_does_not_disturb_the_next(web: WebServer) -> None:
    with remote.opened(web.url, rules(web)) as source:
        for _ in source.stream([(0, 3_000_000)], gap_bytes=0):
            break
        assert source.read(7, 7) == CONTENT[7:14]


@pytest.mark.parametrize(
    "head",
    [
        b"X-Long: " + b"a" * 40_000 + b"\r\n",
        b"X: 1\r\n" * 90 + b"Y: " + b"b" * 33_000,
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
)
def test_an_endless_response_head_is_cut_off(web: WebServer, head: bytes) -> None:
    def endless(request: Handler, first: int, last: int) -> bool:
        request.cut()
        with suppress(OSError):
            request.wfile.write(b"HTTP/1.1 206 Partial Content\r\n" if b"100" not in head else b"")
            for _ in range(5000):
                request.wfile.write(head)
        return True

    web.misbehave = endless
    with pytest.raises(AgentError, match="cannot be downloaded"):
        opened(web)


def test_an_empty_file_is_no_image(web: WebServer) -> None:
    web.misbehave = lambda request, first, last: request.answer(416)
    with pytest.raises(AgentError, match="has an empty file"):
        opened(web)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://localhost/x.img",
        "file:///etc/passwd",
        "https://",
        "https://user:secret@localhost/x.img",
        "http://localhost:99999/x",
        "http://localhost/a b",
        "http://localhost/\r\nHost: x",
        "http://[::1/x",
    ],
)
def test_an_address_that_is_no_plain_web_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgument) as caught, remote.opened(url, remote.Rules(hosts=("localhost",))):
        pass
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("hosts", [(), ("localhost",), ("example.com:80",)])
def test_a_host_that_is_not_configured_is_not_asked(web: WebServer, hosts: tuple[str, ...]) -> None:
    with (
        pytest.raises(InvalidArgument, match="configured hosts"),
        remote.opened(web.url, replace(rules(web), hosts=hosts)),
    ):
        pass
    assert not web.requests


def test_a_redirect_without_https_is_not_followed(web: WebServer) -> None:
    web.misbehave = redirect(lambda: "/elsewhere.img")
    with pytest.raises(AgentError, match="redirects without https"):
        opened(web)
    assert len(web.requests) == 1


def redirect(to: Callable[[], str]) -> Misbehave:
    return lambda request, first, last: request.answer(302, b"", Location=to())
