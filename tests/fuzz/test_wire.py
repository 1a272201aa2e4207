# SPDX-License-Identifier: Apache-2.0
"""Damaged static deltas, and answers of web servers that want no good."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from random import Random

import pytest
import zstandard

from common.image import remote, staticdelta
from common.image.origin import LocalOrigin, fill
from common.image.staticdelta import COUNTS, DATA, FRAME, HEAD, NEW_DATA, RANGE, STEP, ZEROS
from tests.fuzz.hostile import Sample, damaged, explore, survives

BLOCK = 4096
OLD_BLOCKS, NEW_BLOCKS, DATA_BLOCKS = 40, 60, 12
STEPS = ((20, 3), (8, ZEROS), (5, NEW_DATA), (20, 20), (7, NEW_DATA))
RANGES = ((0, 4), (30, 2), (7, 1))
CHAPTERS_READ = 100


@pytest.fixture(scope="module")
def old() -> bytes:
    return Random(1).randbytes(OLD_BLOCKS * BLOCK)


def _frames(old: bytes) -> tuple[list[bytes], bytes]:
    """Two frames with new data like some of the old blocks, and the table of contents uncompressed."""
    made, rows = [], b""
    ranges = iter(RANGES)
    for count, number in ((8, 2), (4, 1)):
        used = [next(ranges) for _ in range(number)]
        raw = b"".join(old[first * BLOCK : (first + length) * BLOCK] for first, length in used)
        dictionary = zstandard.ZstdCompressionDict(raw, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        content = (raw * 8)[: count * BLOCK - 1] + b"x"
        made.append(zstandard.ZstdCompressor(3, dict_data=dictionary).compress(content))
        rows += FRAME.pack(count, len(made[-1]), number)
    table = COUNTS.pack(len(STEPS), len(made), len(RANGES)) + b"".join(STEP.pack(*step) for step in STEPS)
    return made, table + rows + b"".join(RANGE.pack(*item) for item in RANGES)


def _whole(head: bytes, table: bytes, body: bytes) -> bytes:
    """A delta file, with the sizes of the table as they are."""
    packed = zstandard.ZstdCompressor(3).compress(table)
    data = bytearray(head + packed + body)
    struct.pack_into("<II", data, 24, len(packed), len(table))
    return bytes(data)


def test_a_damaged_static_delta_gives_blocks_of_the_right_number_or_an_error(old: bytes) -> None:
    made, table = _frames(old)
    body = b"".join(made)
    head = HEAD.pack(staticdelta.MAGIC, NEW_BLOCKS, OLD_BLOCKS, 0, 0, b"o" * 32, b"n" * 32, bytes(512))
    good = _whole(head, table, body)

    def mend(data: bytearray) -> None:
        """Head and table of contents were damaged before the table is compressed."""
        data[:] = _whole(bytes(data[: HEAD.size]).ljust(HEAD.size, b"\0"), bytes(data[HEAD.size :]), body)

    fields = [(8, 8), (16, 8), (24, 4), (28, 4)]
    inner = [(HEAD.size + at, 4) for at in range(0, len(table), 4)]
    samples = [
        Sample(good, fields, [(0, 128), (HEAD.size, HEAD.size + 40), (len(good) - len(body), len(good))]),
        Sample(
            head + table, [*fields[:2], *inner, *inner], [(0, 96), (HEAD.size, HEAD.size + len(table))], mend
        ),
    ]
    with open(os.memfd_create("old"), "wb+") as running, open(os.memfd_create("delta"), "wb+") as file:
        running.write(old)
        running.flush()

        def judge(case: bytes) -> None:
            os.ftruncate(file.fileno(), 0)
            os.pwrite(file.fileno(), case, 0)
            survives(lambda: _apply(LocalOrigin(file.fileno(), len(case), "x.delta"), running.fileno()))

        explore("static-delta", damaged(samples), judge)


def _apply(origin: LocalOrigin, running_fd: int) -> None:
    delta = staticdelta.StaticDelta(origin, name="x.delta")
    fetch = delta.fetcher(running_fd)
    buffer = memoryview(bytearray(BLOCK))
    block = 0
    for number, chapter in enumerate(delta.chapters()):
        assert sum(step.count for step in chapter) <= staticdelta.CHAPTER_BLOCKS
        for step in chapter:
            assert step.block == block
            assert step.count > 0
            assert step.source + step.count <= max(delta.old_blocks, step.count)
            if step.action == DATA:
                for at in range(step.block, step.block + step.count):
                    fill(fetch, buffer, at * BLOCK)
            block += step.count
        if number == CHAPTERS_READ:
            return
    assert block == delta.blocks


def _answer(first: int, last: int) -> bytes:
    head = (
        "HTTP/1.1 206 Partial Content",
        "Server: x",
        'ETag: "one"',
        f"Content-Range: bytes {first}-{last}/100000",
        f"Content-Length: {last - first + 1}",
        "Content-Type: application/octet-stream",
    )
    return "\r\n".join([*head, "", ""]).encode() + b"x" * (last - first + 1)


FIRST, SECOND = _answer(0, 0), _answer(4096, 8191)
OTHERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"HTTP/1.1 503 Later\r\nRetry-After: Fri, 31 Dec 9999 23:59:59 GMT\r\n\r\n",
    b"HTTP/1.1 429 Later\r\nRetry-After: -1e999\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 503 Later\r\nRetry-After: 1 Jan 0000 00:00:00 -9999\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: //[::1\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: https://\x1b[2J@evil.example/\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 206 P\r\nTransfer-Encoding: chunked\r\nContent-Range: bytes 4096-8191/*\r\n\r\nffffffff\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" * 500 + SECOND,
    SECOND.replace(b"Server: x", b"X: " + b"y" * 30_000),
    SECOND.replace(b"Server: x", b"\r\n".join(b"X%d: y" % number for number in range(120))),
    SECOND.replace(b'"one"', b'W/"\x1b[2J"'),
    SECOND.replace(b"/100000", b"/9" + b"9" * 17),
    b"HTTP/0.9 206\r\n\r\n",
    b"ICY 200 OK\r\n\r\n",
    b"",
]


class Server(threading.Thread):
    """Sends `case` to everybody who asks for anything, and no more."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.case = b""
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]

    def run(self) -> None:
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return  # closed
            with client, suppress(OSError):
                client.settimeout(30)
                client.recv(65536)
                client.sendall(self.case)
                client.shutdown(socket.SHUT_WR)
                while client.recv(65536):
                    pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    server.start()
    yield server
    server.socket.shutdown(socket.SHUT_RDWR)
    server.socket.close()
    server.join(30)


def test_an_answer_of_a_web_server_is_the_range_that_was_asked_for_or_an_error(server: Server) -> None:
    host = f"127.0.0.1:{server.port}"
    rules = remote.Rules(hosts=(host,), attempts=1, pause_sec=0.0, deadline_sec=10.0, timeout_sec=5.0)

    def judge(case: bytes) -> None:
        server.case = case

        def ask() -> None:
            with remote.opened(f"http://{host}/hypernet-1.2.3.img", rules) as source:
                assert 0 < source.size_bytes < 10**18
                assert source.etag.isprintable()
                assert len(source.read(4096, 4096)) == 4096

        survives(ask)

    samples = [FIRST + SECOND, FIRST + SECOND, *(FIRST + other for other in OTHERS), *OTHERS]
    explore("http", damaged([Sample(raw, (), [(0, min(len(raw), 420))]) for raw in samples]), judge)
