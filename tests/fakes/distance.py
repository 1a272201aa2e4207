# SPDX-License-Identifier: Apache-2.0
"""A network between us and a server on loopback: all bytes arrive late, none is held up by others."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue


@contextmanager
def distant(port: int, round_trip_sec: float) -> Iterator[int]:
    """The port under which the server at `port` is that far away."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, port, round_trip_sec / 2), daemon=True).start()
        yield listener.getsockname()[1]


def _accept(listener: socket.socket, port: int, delay_sec: float) -> None:
    with suppress(OSError):
        while True:
            near, _ = listener.accept()
            far = socket.create_connection(("127.0.0.1", port))
            for source, target in ((near, far), (far, near)):
                target.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                late: SimpleQueue[tuple[float, bytes]] = SimpleQueue()
                threading.Thread(target=_take, args=(source, late, delay_sec), daemon=True).start()
                threading.Thread(target=_give, args=(target, late), daemon=True).start()


def _take(source: socket.socket, late: SimpleQueue[tuple[float, bytes]], delay_sec: float) -> None:
    data = b"x"
    while data:
        try:
            data = source.recv(1 << 16)
        except OSError:
            data = b""
        late.put((time.monotonic() + delay_sec, data))


def _give(target: socket.socket, late: SimpleQueue[tuple[float, bytes]]) -> None:
    with suppress(OSError), target:
        while True:
            due, data = late.get()
            time.sleep(max(0.0, due - time.monotonic()))
            if not data:
                target.shutdown(socket.SHUT_RDWR)
                return
            target.sendall(data)
