# SPDX-License-Identifier: Apache-2.0
"""Where images on web servers are, the pace at which they have to come, and what can go wrong meanwhile."""

from __future__ import annotations

import ssl
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from common.errors import AgentError, InvalidArgument
from common.image.errors import DownloadFailed

MAX_URL_CHARS: Final = 2048


class TooSlow(Exception):
    """The server did not keep the pace."""


class Transient(Exception):
    """What may go better at the next attempt; the text completes "NAME cannot be downloaded: ".

    pause_sec: how long the server asks to wait before it.
    """

    def __init__(self, text: str, *, pause_sec: float = 0.0) -> None:
        super().__init__(text)
        self.pause_sec = pause_sec


class DeadlinePassed(DownloadFailed):
    """The time for the whole download is over."""


class Pace:
    """A total deadline, and a minimum rate over a sliding window of the time spent on waiting for a server.

    What the caller does between two reads does not count against the rate.
    """

    def __init__(
        self, *, deadline_sec: float, min_bytes_per_sec: float, window_sec: float, timeout_sec: float
    ) -> None:
        self._deadline_sec = deadline_sec
        self._ends = time.monotonic() + deadline_sec
        self._min_bytes_per_sec = min_bytes_per_sec
        self._window_sec = window_sec
        self._timeout_sec = timeout_sec
        self._waited_sec = 0.0
        self._received: deque[tuple[float, int]] = deque()
        self._in_window = 0

    def patience_sec(self, name: str) -> float:
        """How long one socket operation may take. Raises DeadlinePassed."""
        left = self._ends - time.monotonic()
        if left <= 0:
            raise DeadlinePassed(
                f"{name} did not come within {self._deadline_sec:g} s; check the network and try again."
            )
        return min(left, self._timeout_sec)

    def allows(self, pause_sec: float) -> bool:
        """Whether a pause would end before the deadline."""
        return time.monotonic() + pause_sec < self._ends

    def restart(self) -> None:
        """Begin a new window, for a new connection."""
        self._waited_sec = 0.0
        self._received.clear()
        self._in_window = 0

    def received(self, count: int, took_sec: float) -> None:
        """Count bytes that took so long to come. Raises TooSlow."""
        self._waited_sec += took_sec
        self._in_window += count
        slice_sec = self._window_sec / 16  # few entries, however small the pieces
        if self._received and self._waited_sec - self._received[-1][0] < slice_sec:
            begun, so_far = self._received[-1]
            self._received[-1] = (begun, so_far + count)
        else:
            self._received.append((self._waited_sec, count))
        if self._waited_sec < self._window_sec:
            return
        while self._received and self._received[0][0] < self._waited_sec - self._window_sec:
            self._in_window -= self._received.popleft()[1]
        if self._in_window < self._min_bytes_per_sec * self._window_sec:
            raise TooSlow


class Address:
    """A checked http(s) URL: scheme, host, port and path with query. Raises InvalidArgument."""

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise InvalidArgument(f"The address of the image is no valid URL: {error}.") from error
        printable = all("!" <= char <= "~" for char in url) and len(url) <= MAX_URL_CHARS
        if parts.scheme not in ("http", "https") or not parts.hostname or not printable:
            raise InvalidArgument(
                "The address of an image has to be an http or https URL of printable ASCII characters."
            )
        if "@" in parts.netloc:
            raise InvalidArgument("The address of an image must not hold a user name or password.")
        self.url = url
        self.secure = parts.scheme == "https"
        self.host = parts.hostname
        self.port = port or (443 if self.secure else 80)
        self.target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self.name = parts.path.rpartition("/")[2] or self.host

    @property
    def authority(self) -> str:
        """Host, and port unless it is the usual one."""
        usual = self.port == (443 if self.secure else 80)
        return self._bracketed if usual else f"{self._bracketed}:{self.port}"

    @property
    def _bracketed(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def origin(self) -> tuple[bool, str, int]:
        return self.secure, self.host, self.port

    def is_listed(self, hosts: tuple[str, ...]) -> bool:
        """Whether the host is one of `hosts`: "name" for the usual port, "name:port" for another one."""
        listed = {item.lower() for item in hosts}
        return f"{self._bracketed}:{self.port}" in listed or self.authority in listed


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """TLS 1.2 or later with checked certificates; ca_file replaces the system's authorities.

    Raises AgentError if it cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise AgentError(
            f"{ca_file} cannot be used as certificate authority: {error.strerror or error}; put a PEM "
            "file there."
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


@contextmanager
def transport(address: Address, pace: Pace) -> Iterator[None]:
    """Turn the errors of a connection into Transient, or DownloadFailed where no attempt can help."""
    host = address.host
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise DownloadFailed(
            f"The certificate of {host} is not accepted: {error.verify_message}; check the clock and the "
            "configured authorities."
        ) from error
    except TimeoutError as error:
        pace.patience_sec(address.name)
        raise Transient(f"{host} does not answer") from error
    except TooSlow as error:
        raise Transient(f"{host} sends too slowly") from error
    except ssl.SSLError as error:
        raise Transient(f"there is no TLS connection to {host} ({error.reason})") from error
    except OSError as error:
        raise Transient(f"{host} cannot be reached ({error.strerror or 'connection lost'})") from error
    except (HTTPException, ValueError) as error:
        raise Transient(f"{host} does not answer as a web server should") from error
