# SPDX-License-Identifier: Apache-2.0
"""Downloads from servers that are slow, silent or gone: every one of them ends in time."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import pytest

from common.errors import AgentError, Cancelled
from common.image import remote
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


def after_opening(misbehave: Misbehave) -> Misbehave:
    return lambda request, first, last: last > 0 and misbehave(request, first, last)


def opened(web: WebServer, **changes: float) -> None:
    with remote.opened(web.url, rules(web, **changes)) as source:
        source.read(100, 2000)


def drip(request: Handler, first: int, last: int) -> bool:
    with suppress(OSError):
        request.answer(
            206,
            b"",
            ETag='"one"',
            **{"Content-Range": f"bytes {first}-{last}/3000000", "Content-Length": "2000"},
        )
        for _ in range(200):
            request.wfile.write(b"x")
            time.sleep(0.02)
    return True


def test_a_server_that_drips_bytes_is_too_slow(web: WebServer) -> None:
    web.misbehave = after_opening(drip)
    begun = time.monotonic()
    with pytest.raises(AgentError, match="sends too slowly"):
        opened(web, window_sec=0.3, attempts=2, min_bytes_per_sec=1000)
    assert time.monotonic() - begun < 3


def test_the_deadline_ends_a_download_however_it_drips(web: WebServer) -> None:
    web.misbehave = after_opening(drip)
    begun = time.monotonic()
    with pytest.raises(AgentError, match=r"did not come within 0\.5 s"):
        opened(web, deadline_sec=0.5, min_bytes_per_sec=0)
    assert time.monotonic() - begun < 3


def test_a_server_that_says_nothing_is_given_up(web: WebServer) -> None:
    def silent(request: Handler, first: int, last: int) -> bool:
        time.sleep(1)
        return True

    web.misbehave = silent
    with pytest.raises(AgentError, match="does not answer"):
        opened(web, timeout_sec=0.1, attempts=2)


def test_pauses_of_the_reader_do_not_make_the_server_slow(web: WebServer) -> None:
    with remote.opened(web.url, rules(web, window_sec=0.5, min_bytes_per_sec=100_000)) as source:
        for _ in range(3):
            assert source.read(0, 10) == CONTENT[:10]
            time.sleep(0.6)


def test_cancelling_ends_a_download_between_two_chunks(web: WebServer) -> None:
    cancel = threading.Event()
    with remote.opened(web.url, rules(web), cancel=cancel) as source:
        pieces = source.stream([(0, 3_000_000)], gap_bytes=0)
        next(pieces)
        cancel.set()
        with pytest.raises(Cancelled):
            next(pieces)


def test_a_server_that_is_not_there_is_named(web: WebServer) -> None:
    gone = WebServer(b"")
    start(gone)()
    with pytest.raises(AgentError, match=r"localhost cannot be reached \(Connection refused\)"):
        opened(gone)
