# SPDX-License-Identifier: Apache-2.0
"""An image on a web server, read by ranges (RFC 9110, section 14) over one kept connection.

Nothing that comes from here is trusted: a range is only known to be what the server says that it is. What is
bounded is what a bad server could cost: time, memory and bytes.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import urljoin

from common.errors import AgentError, InvalidArgument
from common.image import httpwire
from common.image.errors import ChecksumMismatch
from common.image.httpwire import Address, Transient
from common.image.stream import check

CHUNK_BYTES: Final = 1 << 20
MAX_REDIRECTS: Final = 3
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")
_STRONG_TAG: Final = re.compile(r'"[!#-~]{0,256}"')


@dataclass(frozen=True, slots=True)
class Rules:
    """Where images may come from and what a download may take.

    hosts: allowed hosts, "name" or "name:port". ca_file: PEM certificates that replace the system's
    authorities. token: bearer token, sent to the host of the first URL over https only. min_bytes_per_sec is
    taken over window_sec of waiting; timeout_sec bounds one socket operation; attempts is how often an
    interrupted transfer may fail before CHUNK_BYTES of progress.
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


class Source:
    """An open image: its size in bytes and its strong entity tag ("" if the server gives none)."""

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
        self._connection: HTTPConnection | None = None
        self._buffer = memoryview(bytearray(CHUNK_BYTES))
        self.name = self._first.name
        self.size_bytes = 0
        self.etag = ""
        for _ in self._transfer(0, 1):
            pass

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` on, in memory as a whole. Raises as `stream`."""
        return b"".join(bytes(piece) for _, piece in self.stream([(offset, length)], gap_bytes=0))

    def stream(
        self, ranges: Iterable[tuple[int, int]], *, gap_bytes: int
    ) -> Iterator[tuple[int, memoryview]]:
        """(offset, bytes) of all ranges (offset, length), which have to be ascending and apart.

        Ranges at most gap_bytes apart are one request; what lies between is dropped. The bytes are valid up
        to the next step only, and end where a range ends.

        Raises InvalidArgument for a range that is not in the image, ChecksumMismatch if the image on the
        server changes, Cancelled, AgentError.
        """
        group: list[tuple[int, int]] = []
        end = 0
        for offset, length in ranges:
            if length <= 0 or offset < end or offset + length > self.size_bytes:
                raise InvalidArgument(
                    f"{self.name} has {self.size_bytes} bytes, so {length} at byte {offset} cannot be read."
                )
            if group and offset - end > gap_bytes:
                yield from self._wanted(group)
                group = []
            end = offset + length
            group.append((offset, end))
        if group:
            yield from self._wanted(group)

    def close(self) -> None:
        """Close the connection; the next read opens another one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _wanted(self, group: list[tuple[int, int]]) -> Iterator[tuple[int, memoryview]]:
        """What the ranges (start, end) of one request want."""
        pending = iter(group)
        start, end = next(pending)
        for position, piece in self._transfer(group[0][0], group[-1][1]):
            after = position + len(piece)
            while start < after:
                until = min(end, after)
                yield start, piece[start - position : until - position]
                start = until
                if start == end:
                    start, end = next(pending, (self.size_bytes, self.size_bytes))

    def _transfer(self, position: int, end: int) -> Iterator[tuple[int, memoryview]]:
        """Bytes up to `end`; an interrupted transfer goes on where it was."""
        failures, progress = 0, 0
        while position < end:
            check(self._cancel)
            try:
                with self._response(position, end) as response:
                    while position < end:
                        check(self._cancel)
                        count = self._receive(response, end - position)
                        yield position, self._buffer[:count]
                        position += count
                        progress += count
            except Transient as error:
                if progress >= CHUNK_BYTES:
                    failures = 0
                failures, progress = failures + 1, 0
                if failures >= self._rules.attempts:
                    raise AgentError(
                        f"{self.name} cannot be downloaded: {error}; check the server and try again."
                    ) from error
                self._address = self._first
                pause_sec = self._rules.pause_sec * (2 ** (failures - 1) - 1)
                self._cancel.wait(min(pause_sec, self._pace.patience_sec(self.name)))

    def _receive(self, response: HTTPResponse, most: int) -> int:
        with httpwire.transport(self._address, self._pace):
            count = response.readinto(self._buffer[: min(most, CHUNK_BYTES)])
        if not count:
            raise Transient("the connection ended early")
        return count

    @contextmanager
    def _response(self, position: int, end: int) -> Iterator[HTTPResponse]:
        """The checked answer to one request; the connection is kept if all of it was read."""
        try:
            for _ in range(MAX_REDIRECTS + 1):
                response = self._ask(position, end)
                if response.status not in _REDIRECTS:
                    break
                self._address = self._redirected(response)
                self.close()
            else:
                raise AgentError(
                    f"The server of {self.name} redirects more than {MAX_REDIRECTS} times; check it."
                )
            self._check(response, position, end)
            yield response
            if not response.isclosed():
                self.close()
        except BaseException:
            self.close()
            raise

    def _ask(self, position: int, end: int) -> HTTPResponse:
        address = self._address
        headers = {
            "Range": f"bytes={position}-{end - 1}",
            "Accept-Encoding": "identity",
            "User-Agent": "hypernet",
        }
        if self.etag:
            headers["If-Range"] = self.etag
        if self._rules.token and address.secure and address.origin == self._first.origin:
            headers["Authorization"] = f"Bearer {self._rules.token}"
        with httpwire.transport(self._address, self._pace):
            if self._connection is None or self._connection.sock is None:
                self._connection = httpwire.connect(address, self._context, self._pace)
            self._connection.request("GET", address.target, headers=headers)
            return self._connection.getresponse()

    def _redirected(self, response: HTTPResponse) -> Address:
        try:
            address = Address(urljoin(self._address.url, response.getheader("Location", "")))
        except (InvalidArgument, ValueError) as error:
            raise AgentError(f"The server of {self.name} redirects to no valid address.") from error
        if not (address.secure and self._address.secure):
            raise AgentError(
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

    def _check(self, response: HTTPResponse, position: int, end: int) -> None:
        """Whether this is the range that was asked for, of the same image as before."""
        status = response.status
        if status >= 500 or status in (408, 425, 429):
            raise Transient(f"{self._address.host} answers with status {status}")
        etag = response.getheader("ETag", "")
        if status in (200, 206) and self.etag and etag and etag != self.etag:
            self._changed()
        if status == 200:
            raise AgentError(
                f"The server of {self.name} ignores ranges; use a server that supports them or download the "
                "image first."
            )
        if status == 416 and self.size_bytes:
            self._changed()
        if status != 206:
            reasons = {
                401: "asks for a login",
                403: "denies access",
                404: "has no such file",
                416: "has an empty file",
            }
            reason = reasons.get(status, f"answers with status {status}")
            raise AgentError(
                f"{self.name} cannot be downloaded: {self._address.host} {reason}; check the address."
            )
        match = _CONTENT_RANGE.fullmatch(response.getheader("Content-Range", ""))
        if match is None:
            self._lied("sent no valid Content-Range")
        first, last, total = (int(text) for text in match.groups())
        if (first, last) != (position, end - 1) or last >= total:
            self._lied("sent another range than it was asked for")
        if response.length != end - position:
            self._lied("sent another number of bytes than its range has")
        if response.getheader("Content-Encoding", "identity").lower() != "identity":
            self._lied("sent an encoded range")
        if self.size_bytes and total != self.size_bytes:
            self._changed()
        if not self.size_bytes:
            self.size_bytes = total
            self.etag = etag if _STRONG_TAG.fullmatch(etag) else ""

    def _changed(self) -> NoReturn:
        raise ChecksumMismatch(f"{self.name} was changed on the server during the download; try again.")

    def _lied(self, what: str) -> NoReturn:
        raise AgentError(f"The server of {self.name} {what}; its ranges cannot be used, tell its operator.")


@contextmanager
def opened(url: str, rules: Rules, *, cancel: threading.Event | None = None) -> Iterator[Source]:
    """The image at `url`; one request for its first byte tells its size and whether there are ranges.

    Raises InvalidArgument for an address that is not allowed, Cancelled, AgentError.
    """
    source = Source(url, rules, cancel or threading.Event())
    try:
        yield source
    finally:
        source.close()
