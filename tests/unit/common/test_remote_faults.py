# SPDX-License-Identifier: Apache-2.0
"""What a download says and does when the network, the server or the name service fails."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import AgentError, Cancelled, InvalidArgument, exit_status_of
from common.image import dial, remote
from common.image.errors import ChecksumMismatch, DownloadFailed, NoSuchFile
from common.image.origin import fill
from tests.fakes.mutations import mutated
from tests.fakes.web_server import Handler, Misbehave, WebServer, start

CONTENT = random.Random(4).randbytes(5000)


@pytest.fixture
def web() -> Iterator[WebServer]:
    server = WebServer(CONTENT)
    stop = start(server)
    yield server
    stop()


def rules(web: WebServer, **changes: float) -> remote.Rules:
    made = remote.Rules(hosts=(web.host,), pause_sec=0.01, timeout_sec=5, deadline_sec=20, attempts=3)
    return replace(made, **changes)  # type: ignore[arg-type]


def read(web: WebServer, *, cancel: threading.Event | None = None, **changes: float) -> bytes:
    with remote.opened(web.url, rules(web, **changes), cancel=cancel) as source:
        return source.read(100, 2000)


def first_time(status: int, **headers: str) -> Misbehave:
    """Another answer to the first request."""
    done = threading.Event()

    def answer(request: Handler, first: int, last: int) -> bool:
        if done.is_set():
            return False
        done.set()
        return request.answer(status, b"", **{key.replace("_", "-"): text for key, text in headers.items()})

    return answer


def after_opening(misbehave: Misbehave) -> Misbehave:
    return lambda request, first, last: last > 0 and misbehave(request, first, last)


@pytest.mark.parametrize("status", [503, 429])
def test_a_server_is_not_asked_again_before_the_time_that_it_names(web: WebServer, status: int) -> None:
    web.misbehave = first_time(status, Retry_After="1")
    begun = time.monotonic()
    assert read(web) == CONTENT[100:2100]
    assert 1.0 <= time.monotonic() - begun < 3


def test_the_time_may_be_a_date(web: WebServer) -> None:
    web.misbehave = first_time(503, Retry_After=formatdate(time.time() + 2, usegmt=True))
    begun = time.monotonic()
    assert read(web) == CONTENT[100:2100]
    assert 0.9 <= time.monotonic() - begun < 4


@pytest.mark.parametrize("text", ["soon", "-5", "1e9", "\x00", "Mon, 99 Foo 2026 00:00:00 GMT", "9" * 400])
def test_a_time_that_is_none_is_ignored(web: WebServer, text: str) -> None:
    web.misbehave = first_time(503, Retry_After=text)
    begun = time.monotonic()
    assert read(web) == CONTENT[100:2100]
    assert time.monotonic() - begun < 1


def test_a_date_in_the_past_means_at_once(web: WebServer) -> None:
    web.misbehave = first_time(503, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT")
    assert read(web) == CONTENT[100:2100]


def test_a_pause_beyond_the_deadline_is_not_waited_for(web: WebServer) -> None:
    web.misbehave = first_time(503, Retry_After="3600")
    begun = time.monotonic()
    with pytest.raises(
        DownloadFailed, match=r"in time: .* status 503, and the next attempt would be in 3600 s"
    ):
        read(web)
    assert time.monotonic() - begun < 2
    assert len(web.requests) == 1


def test_cancelling_ends_a_pause(web: WebServer) -> None:
    web.misbehave = first_time(503, Retry_After="15")
    cancel = threading.Event()
    threading.Timer(0.3, cancel.set).start()
    begun = time.monotonic()
    with pytest.raises(Cancelled):
        read(web, cancel=cancel)
    assert time.monotonic() - begun < 3


def test_a_name_service_that_hangs_does_not_hold_the_download(
    web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    awake = threading.Event()

    def hang(*args: Any, **options: Any) -> Any:
        awake.wait(30)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    begun = time.monotonic()
    with pytest.raises(
        DownloadFailed, match=r"localhost cannot be reached \(its name is not resolved in time"
    ):
        read(web, timeout_sec=0.2, attempts=2)
    assert time.monotonic() - begun < 2
    awake.set()


def test_a_name_that_nobody_knows_is_a_clear_error() -> None:
    url, made = (
        "http://no-such-host.invalid/x.img",
        remote.Rules(hosts=("no-such-host.invalid",), attempts=1),
    )
    with (
        pytest.raises(DownloadFailed, match=r"no-such-host\.invalid cannot be reached"),
        remote.opened(url, made),
    ):
        pass


@pytest.mark.parametrize("host", ["a" * 64 + ".example", ".", "a..b"])
def test_what_is_no_name_is_a_clear_error(host: str) -> None:
    url, made = f"http://{host}/x.img", remote.Rules(hosts=(host,), attempts=1)
    with pytest.raises(DownloadFailed), remote.opened(url, made):
        pass


def test_the_next_address_is_tried_when_one_does_not_answer(
    web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = WebServer()
    start(gone)()

    def several(host: str, port: int, **options: Any) -> Any:
        kind = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
        return [(*kind, ("127.0.0.1", gone.port)), (12345, 1, 0, "", ("x", 1)), (*kind, ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", several)
    assert read(web, attempts=1) == CONTENT[100:2100]


def test_only_a_few_of_the_addresses_of_a_host_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = WebServer()
    start(gone)()
    tried: list[int] = []

    def many(host: str, port: int, **options: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", gone.port))] * 1000

    def patience_sec() -> float:
        tried.append(1)
        return 1.0

    monkeypatch.setattr(socket, "getaddrinfo", many)
    with pytest.raises(ConnectionRefusedError):
        dial.connect("localhost", 1, patience_sec)
    assert len(tried) == 1 + dial.MAX_PLACES


FAULTS: list[tuple[Misbehave, type[AgentError]]] = [
    (lambda request, first, last: request.answer(503), DownloadFailed),
    (lambda request, first, last: request.cut(), DownloadFailed),
    (lambda request, first, last: request.answer(404), NoSuchFile),
    (lambda request, first, last: request.answer(410), NoSuchFile),
    (lambda request, first, last: request.answer(403), DownloadFailed),
    (lambda request, first, last: request.answer(200, CONTENT), DownloadFailed),
    (lambda request, first, last: request.answer(302, Location="/x"), DownloadFailed),
    (lambda request, first, last: request.send_range(first + 1, last + 1), DownloadFailed),
    (lambda request, first, last: request.send_range(first, last, ETag='"two"'), ChecksumMismatch),
    (lambda request, first, last: request.answer(416), ChecksumMismatch),
]


@pytest.mark.parametrize(("misbehave", "kind"), FAULTS)
def test_whose_fault_it_is_can_be_told_from_the_name_of_the_error(
    web: WebServer, misbehave: Misbehave, kind: type[AgentError]
) -> None:
    web.misbehave = after_opening(misbehave)
    with pytest.raises(AgentError) as caught:
        read(web)
    assert type(caught.value) is kind
    assert caught.value.exit_status == exit_status_of(caught.value.dbus_name)


def test_the_deadline_is_a_failure_of_the_download(web: WebServer) -> None:
    def late(request: Handler, first: int, last: int) -> bool:
        time.sleep(0.5)
        return request.cut()

    web.misbehave = after_opening(late)
    with pytest.raises(DownloadFailed, match="did not come within"):
        read(web, deadline_sec=0.3)


def test_an_address_that_is_not_allowed_is_an_argument_not_a_failure(web: WebServer) -> None:
    with pytest.raises(InvalidArgument), remote.opened(web.url, remote.Rules(hosts=())):
        pass


def answer_to(first: int, last: int) -> bytes:
    head = (
        f'HTTP/1.1 206 Partial Content\r\nETag: "one"\r\nContent-Range: bytes {first}-{last}/5000\r\n'
        f"Content-Length: {last + 1 - first}\r\nRetry-After: 0\r\nContent-Type: x\r\n\r\n"
    )
    return head.encode() + CONTENT[first : last + 1]


@pytest.fixture(scope="module")
def hostile() -> Iterator[Callable[[bytes], WebServer]]:
    """A server that answers with these very bytes."""
    web = WebServer(CONTENT)
    stop = start(web)

    def answering(raw: bytes) -> WebServer:
        def answer(request: Handler, first: int, last: int) -> bool:
            with suppress(OSError):
                request.wfile.write(raw)
            return request.cut()

        web.misbehave = after_opening(answer)
        return web

    yield answering
    stop()


TWO = answer_to(100, 149) + answer_to(4500, 4549)


@settings(deadline=None)
@given(mutated(TWO) | st.binary(max_size=300))
def test_any_answers_are_the_ranges_or_an_error(hostile: Callable[[bytes], WebServer], raw: bytes) -> None:
    web = hostile(raw)
    found = memoryview(bytearray(100))
    sentence = "."
    try:
        with remote.opened(web.url, rules(web, attempts=1, timeout_sec=1, deadline_sec=5)) as source:
            fetch = source.fetcher([(100, 50), (4500, 50)])
            fill(fetch, found[:50], 100)
            fill(fetch, found[50:], 4500)
    except AgentError as error:
        sentence = str(error)
    assert sentence.endswith(".")
    assert "\n" not in sentence
