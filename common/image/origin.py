# SPDX-License-Identifier: Apache-2.0
"""Where the bytes of an image come from: a file, a web server (common.image.remote), the frames of a
compressed form (common.image.frames), or a part of one of these.

Whoever needs many pieces asks for a fetcher: it gets all ranges at once, so that a request to a server can
bring several of them, and then fills the caller's buffers in order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from common.errors import AgentError
from common.image.errors import ChecksumMismatch, Truncated

Fetcher = Callable[[memoryview, int], int]
"""Fills a view, or only its start, with the bytes at an offset; returns how many, at least one.

To be called in ascending order, and with offsets inside the ranges of the fetcher only. Raises as
`Origin.read`.
"""


class Origin(Protocol):
    """Bytes that can be read at any place; one thread at a time."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def size_bytes(self) -> int: ...

    @property
    def fetched_bytes(self) -> int:
        """Payload that came over the network so far; 0 for what is on this machine."""

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes. Raises Truncated, AgentError."""

    def fetcher(self, ranges: Iterable[tuple[int, int]]) -> Fetcher:
        """For ranges (offset, length), ascending and apart; they are taken as they are needed."""

    def cost(self, ranges: Iterable[tuple[int, int]]) -> int:
        """Bytes that fetching the ranges would take over the network."""

    def finish(self) -> None:
        """Called after the last byte. Raises ChecksumMismatch if what was read were two states of it."""


class LocalOrigin:
    """A file that is open as `fd`, up to `size_bytes`; `path` tells where it is, if anybody knows."""

    fetched_bytes = 0

    def __init__(self, fd: int, size_bytes: int, name: str, path: Path | None = None) -> None:
        self.fd, self.size_bytes, self.name, self.path = fd, size_bytes, name, path
        self._identity = self._look()

    def read(self, offset: int, length: int) -> bytes:
        require_inside(self, offset, length)
        data = bytearray(length)
        fill(self._fill, memoryview(data), offset)
        return bytes(data)

    def fetcher(self, ranges: Iterable[tuple[int, int]]) -> Fetcher:
        return self._fill

    def cost(self, ranges: Iterable[tuple[int, int]]) -> int:
        return 0

    def finish(self) -> None:
        if self._look() != self._identity:
            raise ChecksumMismatch(f"{self.name} was changed while it was read; copy or download it again.")

    def _fill(self, view: memoryview, offset: int) -> int:
        try:
            count = os.preadv(self.fd, [view[: max(0, self.size_bytes - offset)]], offset)
        except OSError as error:
            raise AgentError(f"{self.name} cannot be read at byte {offset}: {error.strerror}.") from error
        if not count:
            raise Truncated(
                f"{self.name} ends at byte {offset}, {self.size_bytes - offset} bytes early; copy or "
                "download it again."
            )
        return count

    def _look(self) -> tuple[int, int]:
        status = os.fstat(self.fd)
        return status.st_size, status.st_mtime_ns


class Region:
    """`size_bytes` from `offset` on of another origin. Raises Truncated if they are not all in it."""

    def __init__(self, origin: Origin, offset: int, size_bytes: int, name: str) -> None:
        require_inside(origin, offset, size_bytes)
        self.size_bytes, self.name = size_bytes, name
        self._origin, self._offset = origin, offset

    @property
    def fetched_bytes(self) -> int:
        return self._origin.fetched_bytes

    def read(self, offset: int, length: int) -> bytes:
        require_inside(self, offset, length)
        return self._origin.read(self._offset + offset, length)

    def fetcher(self, ranges: Iterable[tuple[int, int]]) -> Fetcher:
        inner = self._origin.fetcher(self._placed(ranges))

        def fetch(view: memoryview, offset: int) -> int:
            return inner(view[: self.size_bytes - offset], self._offset + offset)

        return fetch

    def cost(self, ranges: Iterable[tuple[int, int]]) -> int:
        return self._origin.cost(self._placed(ranges))

    def finish(self) -> None:
        self._origin.finish()

    def _placed(self, ranges: Iterable[tuple[int, int]]) -> Iterable[tuple[int, int]]:
        for offset, length in ranges:
            require_inside(self, offset, length)
            yield self._offset + offset, length


def fill(fetch: Fetcher, view: memoryview, offset: int) -> None:
    """Have a view filled as a whole. Raises as the fetcher."""
    done = 0
    while done < len(view):
        done += fetch(view[done:], offset + done)


def require_inside(origin: Origin, offset: int, length: int) -> None:
    """Raises Truncated if an origin does not have these bytes."""
    if offset < 0 or length < 0 or offset + length > origin.size_bytes:
        raise Truncated(
            f"{origin.name} has {origin.size_bytes} bytes and not {length} at byte {offset}; copy or "
            "download it again."
        )
