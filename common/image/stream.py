# SPDX-License-Identifier: Apache-2.0
"""The bytes of an image: read in chunks, bounded, cancellable."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator

from common.errors import AgentError, Cancelled
from common.image.errors import NoSpace, Truncated

CHUNK_BYTES = 1 << 20

Advance = Callable[[int], None]
"""Called with the number of bytes just done."""


def check(cancel: threading.Event) -> None:
    """Raises Cancelled once `cancel` is set."""
    if cancel.is_set():
        raise Cancelled("The installation was cancelled; the running system is untouched.")


def chunks(fd: int, offset: int, size: int, *, name: str, cancel: threading.Event) -> Iterator[memoryview]:
    """`size` bytes of a file from `offset` on, as views into one buffer that is used again for the next
    chunk.

    Raises Truncated if the file ends early, AgentError if it cannot be read, Cancelled.
    """
    buffer = memoryview(bytearray(min(CHUNK_BYTES, size) or 1))
    end = offset + size
    while offset < end:
        check(cancel)
        try:
            count = os.preadv(fd, [buffer[: min(len(buffer), end - offset)]], offset)
        except OSError as error:
            raise AgentError(f"{name} cannot be read at byte {offset}: {error.strerror}.") from error
        if not count:
            raise Truncated(
                f"{name} ends at byte {offset}, {end - offset} bytes early; copy or download it again."
            )
        yield buffer[:count]
        offset += count


def write_all(fd: int, data: memoryview | bytes, *, name: str) -> None:
    """Write everything. Raises NoSpace, else AgentError."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpace(
                    f"There is no space left to write {name}; make room there and try again."
                ) from error
            raise AgentError(f"{name} cannot be written: {error.strerror}; check the disk.") from error
