# SPDX-License-Identifier: Apache-2.0
"""TCP connections by host name whose every step ends in time, the resolution of the name included."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Final

MAX_PLACES: Final = 8
"""Addresses of one host that are tried."""


def connect(host: str, port: int, patience_sec: Callable[[], float]) -> socket.socket:
    """A connection without Nagle's delay (tcp(7)); patience_sec tells how long the next step may take.

    Raises OSError (socket.gaierror among them), UnicodeError for what is no host name.
    """
    failure = OSError("no address")
    for family, kind, protocol, _, place in _places(host, port, patience_sec())[:MAX_PLACES]:
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:  # IPv6 may be switched off
            failure = error
            continue
        try:
            sock.settimeout(patience_sec())
            sock.connect(place)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            failure = error
            sock.close()
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure


def _places(host: str, port: int, timeout_sec: float) -> list[Any]:
    """What getaddrinfo(3) says, which cannot be interrupted and may hang: then its thread is abandoned."""
    answer: SimpleQueue[list[Any] | Exception] = SimpleQueue()

    def ask() -> None:
        try:
            answer.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except Exception as error:
            answer.put(error)

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        found = answer.get(timeout=timeout_sec)
    except Empty:
        raise socket.gaierror(socket.EAI_AGAIN, "its name is not resolved in time") from None
    if isinstance(found, Exception):
        raise found
    return found
