# SPDX-License-Identifier: Apache-2.0
"""HTTP connections that keep to a pace and to bounds, for common.image.remote.

http.client alone bounds single socket operations: a server that sends a byte now and then holds its client
forever. Here each receive counts against a total deadline and a minimum rate, and a response head is bounded
as a whole.
"""

from __future__ import annotations

import io
import socket
import ssl
import time
from http.client import HTTPException, HTTPResponse
from typing import Any, Final

from common.image import dial
from common.image.httpwire import Address, Pace

MAX_HEAD_BYTES: Final = 32 << 10


class Connection:
    """HTTP/1.1 over one TCP connection, at a pace; `name` is of what is downloaded.

    A request may be sent before the answers to earlier ones are read (RFC 9112, 9.3.2): then the distance to
    the server costs its time once and not for each request.
    """

    def __init__(self, sock: socket.socket, pace: Pace, name: str) -> None:
        self.sock = sock
        self._pace, self._name = pace, name
        raw = _PacedReader(sock, sock.makefile(mode="rb", buffering=0), pace, name)
        self._file = io.BufferedReader(raw, 64 << 10)

    def send(self, data: bytes) -> None:
        self.sock.settimeout(self._pace.patience_sec(self._name))
        self.sock.sendall(data)

    def answer(self) -> HTTPResponse:
        """The head of the answer to the first request that has none yet; earlier answers have been read.

        Raises as `connect`, and HTTPException.
        """
        like_a_socket: Any = self
        response = _Response(like_a_socket, method="GET")
        response.begin()
        return response

    def makefile(self, mode: str) -> _Part:
        """For HTTPResponse."""
        return _Part(self._file)

    def close(self) -> None:
        self._file.close()
        self.sock.close()


def connect(address: Address, context: ssl.SSLContext | None, pace: Pace) -> Connection:
    """A connection to the host of `address`. Raises OSError (ssl.SSLError among them), DeadlinePassed."""
    sock = dial.connect(address.host, address.port, lambda: pace.patience_sec(address.name))
    if context is not None:
        try:
            sock.settimeout(pace.patience_sec(address.name))
            sock = context.wrap_socket(sock, server_hostname=address.host)
        except BaseException:
            sock.close()
            raise
    pace.restart()
    return Connection(sock, pace, address.name)


class _PacedReader(io.RawIOBase):
    """Receives from a socket, at its pace."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase, pace: Pace, name: str) -> None:
        self._sock = sock
        self._raw = raw
        self._pace = pace
        self._name = name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(self._pace.patience_sec(self._name))
        begun = time.monotonic()
        count = self._raw.readinto(buffer) or 0
        self._pace.received(count, time.monotonic() - begun)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    """A response whose head has at most MAX_HEAD_BYTES, all interim responses included."""

    def begin(self) -> None:
        whole: Any = self.fp
        bounded: Any = _Head(whole)
        self.fp = bounded
        try:
            super().begin()
        finally:
            if self.fp is bounded:  # else it was closed, for there is no body
                self.fp = whole


class _Part:
    """One answer's share of what a connection receives: closing it leaves the rest readable."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        self._file = file

    def readline(self, limit: int) -> bytes:
        return self._file.readline(limit)

    def readinto(self, buffer: memoryview) -> int:
        return self._file.readinto(buffer)

    def flush(self) -> None: ...

    def close(self) -> None: ...


class _Head:
    """Lines of an answer up to a bound."""

    def __init__(self, part: _Part) -> None:
        self._part = part
        self._left = MAX_HEAD_BYTES

    def readline(self, limit: int) -> bytes:
        line = self._part.readline(min(limit, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            raise HTTPException(f"its answer has a head of more than {MAX_HEAD_BYTES} bytes")
        return line

    def flush(self) -> None: ...

    def close(self) -> None: ...
