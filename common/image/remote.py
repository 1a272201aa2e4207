# SPDX-License-Identifier: Apache-2.0
"""An image on a web server, read by ranges (RFC 9110, section 14) over one kept connection.

Nothing that comes from here is trusted: a range is only known to be what the server says that it is. What is
bounded is what a bad server could cost: time, memory and bytes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPResponse
from pathlib import Path
from typing import Final
from urllib.parse import urljoin

from common.errors import InvalidArgument
from common.image import connection, httpwire
from common.image.answers import State, judge
from common.image.errors import DownloadFailed
from common.image.httpwire import Address, Transient
from common.image.origin import Fetcher
from common.image.ranges import Span, grouped, whole, with_next
from common.image.stream import check

CHUNK_BYTES: Final = 1 << 20
MAX_REDIRECTS: Final = 3
_MAX_BROKEN: Final = 4
_REDIRECTS: Final = (301, 302, 303, 307, 308)


@dataclass(frozen=True, slots=True)
class Rules:
    """Where images may come from and what a download may take.

    hosts: allowed hosts, "name" or "name:port". ca_file: PEM certificates that replace the system's
    authorities. token: bearer token, sent to the host of the first URL over https only. min_bytes_per_sec is
    taken over window_sec of waiting; timeout_sec bounds one socket operation; attempts is how often an
    interrupted transfer may fail before CHUNK_BYTES of progress. gap_bytes: a fetcher asks for ranges that
    are at most so far apart in one request, for the heads of a request and its answer cost about 700 bytes.
    """

    hosts: tuple[str, ...]
    ca_file: Path | None = None
    token: str = field(default="", repr=False)
    deadline_sec: float = 6 * 3600.0
    min_bytes_per_sec: float = 4096.0
    window_sec: float = 60.0
    timeout_sec: float = 30.0
    attempts: int = 5
    pause_sec: float = 1.0
    gap_bytes: int = 4 << 10


class Source:
    """An open image, a common.image.origin.Origin; fetched_bytes: of all bodies, with what was dropped."""

    def __init__(self, url: str, rules: Rules, cancel: threading.Event) -> None:
        self._first = self._address = Address(url)
        self._rules = rules
        self._cancel = cancel
        self._require_listed(self._first)
        self._context = httpwire.tls_context(rules.ca_file) if self._first.secure else None
        self._pace = httpwire.Pace(
            deadline_sec=rules.deadline_sec,
            min_bytes_per_sec=rules.min_bytes_per_sec,
            window_sec=rules.window_sec,
            timeout_sec=rules.timeout_sec,
        )
        self._connection: connection.Connection | None = None
        self._answer: HTTPResponse | None = None
        self._sent: deque[Span] = deque()  # requests without an answer yet
        self._broken = 0
        self.fetched_bytes = 0
        self.name = self._first.name
        self._state = State()
        for _ in self._transfer(0, 1, []):
            pass

    @property
    def size_bytes(self) -> int:
        return self._state.size_bytes

    @property
    def etag(self) -> str:
        """Its strong entity tag, "" if the server gives none."""
        return self._state.etag

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` on, in memory as a whole. Raises as `stream`."""
        data = bytearray()
        for _, piece in self.stream([(offset, length)], gap_bytes=0):
            data += piece
        return bytes(data)

    def fetcher(self, ranges: Iterable[tuple[int, int]]) -> Fetcher:
        """Raises as `stream`."""
        pieces = self.stream(ranges, gap_bytes=self._rules.gap_bytes)
        start, piece = 0, memoryview(b"")

        def fetch(view: memoryview, offset: int) -> int:
            nonlocal start, piece
            while start + len(piece) <= offset:
                start, piece = next(pieces, (self.size_bytes, memoryview(b"")))
                if not piece:
                    break
            if not start <= offset < start + len(piece):
                raise InvalidArgument(f"Byte {offset} of {self.name} is in none of the ranges to fetch.")
            part = piece[offset - start :][: len(view)]
            view[: len(part)] = part
            return len(part)

        return fetch

    def cost(self, ranges: Iterable[tuple[int, int]]) -> int:
        """Bytes of the bodies, gaps included. Raises InvalidArgument for a range outside the image."""
        spans = map(whole, self._groups(ranges, self._rules.gap_bytes))
        return sum(end - start for start, end in spans)

    def finish(self) -> None:
        """Nothing is left to do: each answer was compared with the first one."""

    def stream(
        self, ranges: Iterable[tuple[int, int]], *, gap_bytes: int
    ) -> Iterator[tuple[int, memoryview]]:
        """(offset, bytes) of all ranges (offset, length), which have to be ascending and apart.

        Ranges at most gap_bytes apart are one request, within reason; what lies between is dropped. Some are
        taken ahead of what is needed, see common.image.ranges. The bytes are valid up to the next step only,
        and end where a range ends.

        Raises InvalidArgument for a range that is not in the image, ChecksumMismatch if the image on the
        server changes, Cancelled, DownloadFailed.
        """
        for group, ahead in with_next(self._groups(ranges, gap_bytes)):
            yield from self._wanted(group, ahead)

    def close(self) -> None:
        """Close the connection; the next read opens another one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._sent.clear()

    def _groups(self, ranges: Iterable[tuple[int, int]], gap_bytes: int) -> Iterator[list[Span]]:
        return grouped(ranges, gap_bytes, size_bytes=self.size_bytes, name=self.name)

    def _wanted(self, group: list[Span], ahead: list[Span]) -> Iterator[tuple[int, memoryview]]:
        """What the spans of one request want."""
        pending = iter(group)
        start, end = next(pending)
        for position, piece in self._transfer(*whole(group), ahead):
            after = position + len(piece)
            while start < after:
                until = min(end, after)
                yield start, piece[start - position : until - position]
                start = until
                if start == end:
                    start, end = next(pending, (self.size_bytes, self.size_bytes))

    def _transfer(self, position: int, end: int, ahead: list[Span]) -> Iterator[tuple[int, memoryview]]:
        """Bytes up to `end`; an interrupted transfer goes on where it was. ahead: what comes next."""
        buffer = memoryview(bytearray(min(CHUNK_BYTES, end - position)))
        failures, progress = 0, 0
        while position < end:
            check(self._cancel)
            try:
                with self._response([(position, end), *ahead]) as response:
                    while position < end:
                        check(self._cancel)
                        count = self._receive(response, buffer[: end - position])
                        yield position, buffer[:count]
                        position += count
                        progress += count
            except Transient as error:
                if progress >= CHUNK_BYTES:
                    failures = 0
                failures, progress = failures + 1, 0
                self._broken += bool(ahead)
                ahead = []
                if failures >= self._rules.attempts:
                    raise DownloadFailed(
                        f"{self.name} cannot be downloaded: {error}; check the server and try again."
                    ) from error
                self._address = self._first
                pause_sec = max(error.pause_sec, self._rules.pause_sec * (2 ** (failures - 1) - 1))
                if not self._pace.allows(pause_sec):
                    raise DownloadFailed(
                        f"{self.name} cannot be downloaded in time: {error}, and the next attempt would be "
                        f"in {pause_sec:.0f} s; try again later."
                    ) from error
                self._cancel.wait(pause_sec)

    def _receive(self, response: HTTPResponse, view: memoryview) -> int:
        with httpwire.transport(self._address, self._pace):
            count = response.readinto(view)
        if not count:
            raise Transient("the connection ended early")
        self.fetched_bytes += count
        return count

    @contextmanager
    def _response(self, spans: list[Span]) -> Iterator[HTTPResponse]:
        """The checked answer to the first of several requests; the connection is kept if all was read."""
        try:
            for _ in range(MAX_REDIRECTS + 1):
                response = self._ask(spans)
                if response.status not in _REDIRECTS:
                    break
                self._address = self._redirected(response)
                self.close()
            else:
                raise DownloadFailed(
                    f"The server of {self.name} redirects more than {MAX_REDIRECTS} times; check it."
                )
            self._state = judge(response, *spans[0], self._state, name=self.name, host=self._address.host)
            yield response
            if not response.isclosed() or response.will_close:
                self.close()
        except BaseException:
            self.close()
            raise

    def _ask(self, spans: list[Span]) -> HTTPResponse:
        """Send the requests that were not sent yet; the answer to the first one."""
        address = self._address
        unread = self._answer is not None and not self._answer.isclosed()
        if unread or list(self._sent) != spans[: len(self._sent)]:
            self.close()  # somebody stopped reading, and asks for the rest when he goes on
        with httpwire.transport(address, self._pace):
            if self._connection is None:
                self._connection = connection.connect(address, self._context, self._pace)
            was_ahead = bool(self._sent)
            new = spans[len(self._sent) :] if self._broken < _MAX_BROKEN else spans[len(self._sent) : 1]
            self._connection.send(b"".join(self._request(address, *span) for span in new))
            self._sent.extend(new)
            self._answer = self._connection.answer()
        self._sent.popleft()
        if was_ahead:
            self._broken = 0
        return self._answer

    def _request(self, address: Address, position: int, end: int) -> bytes:
        lines = [
            f"GET {address.target} HTTP/1.1",
            f"Host: {address.authority}",
            f"Range: bytes={position}-{end - 1}",
            "Accept-Encoding: identity",
            "User-Agent: hypernet",
        ]
        if self.etag:
            lines.append(f"If-Range: {self.etag}")
        if self._rules.token and address.secure and address.origin == self._first.origin:
            lines.append(f"Authorization: Bearer {self._rules.token}")
        return "\r\n".join([*lines, "", ""]).encode("ascii")

    def _redirected(self, response: HTTPResponse) -> Address:
        try:
            address = Address(urljoin(self._address.url, response.getheader("Location", "")))
        except (InvalidArgument, ValueError) as error:
            raise DownloadFailed(f"The server of {self.name} redirects to no valid address.") from error
        if not (address.secure and self._address.secure):
            raise DownloadFailed(
                f"The server of {self.name} redirects without https, which is not followed; name the final "
                "address itself."
            )
        self._require_listed(address)
        return address

    def _require_listed(self, address: Address) -> None:
        if not address.is_listed(self._rules.hosts):
            raise InvalidArgument(
                f"{address.host}:{address.port} is not one of the configured hosts, so {address.name} is "
                "not downloaded from there; add it to the configuration first."
            )


@contextmanager
def opened(url: str, rules: Rules, *, cancel: threading.Event | None = None) -> Iterator[Source]:
    """The image at `url`; one request for its first byte tells its size and whether there are ranges.

    Raises InvalidArgument for an address that is not allowed, Cancelled, NoSuchFile, DownloadFailed,
    AgentError for unusable rules.
    """
    source = Source(url, rules, cancel or threading.Event())
    try:
        yield source
    finally:
        source.close()
