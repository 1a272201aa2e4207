# SPDX-License-Identifier: Apache-2.0
"""Bytes from image to disk and back: chunked, cancellable, and never answered by the page cache on the way
back.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from agents.slot_manager.errors import NoSpace, ReadBackMismatch, SlotBooted, Truncated
from common.errors import AgentError, Cancelled

CHUNK_BYTES = 1 << 20
ALIGNMENT = 4096

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
                raise NoSpace(f"There is no space left to write {name}.") from error
            raise AgentError(f"{name} cannot be written: {error.strerror}; check the disk.") from error


def open_exclusively(device: Path) -> int:
    """Descriptor for writing a device that nobody has mounted or mapped.

    Raises SlotBooted, else AgentError.
    """
    try:
        return os.open(device, os.O_WRONLY | os.O_EXCL | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise SlotBooted(
                f"{device} is in use (mounted or mapped), so it is not written; release it first."
            ) from error
        raise AgentError(f"{device} cannot be opened for writing: {error.strerror}.") from error


def flush(fd: int, *, name: str) -> None:
    """Flush to the medium and drop the cached pages. Raises AgentError if the medium reported an error."""
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError as error:
        raise AgentError(f"{name} could not be flushed: {error.strerror}; check the disk.") from error


def digest_from_medium(path: Path, size: int, *, cancel: threading.Event, advance: Advance) -> str:
    """SHA-256 (hex) of the first `size` bytes, read with O_DIRECT where the file system allows it.

    Raises ReadBackMismatch if there are fewer bytes or they cannot be read, Cancelled.
    """
    digest = hashlib.sha256()
    whole = size - size % ALIGNMENT
    with mmap.mmap(-1, CHUNK_BYTES) as buffer:
        for offset, end, flags in ((0, whole, os.O_DIRECT), (whole, size, 0)):
            _digest_range(path, offset, end, flags, memoryview(buffer), digest.update, cancel, advance)
    return digest.hexdigest()


def _digest_range(
    path: Path,
    offset: int,
    end: int,
    flags: int,
    buffer: memoryview,
    update: Callable[[memoryview], None],
    cancel: threading.Event,
    advance: Advance,
) -> None:
    if offset >= end:
        buffer.release()
        return
    try:
        fd = _open_uncached(path, flags)
        try:
            while offset < end:
                check(cancel)
                count = os.preadv(fd, [buffer[: min(CHUNK_BYTES, end - offset)]], offset)
                if not count:
                    raise ReadBackMismatch(f"{path} ends at byte {offset}, before everything was read back.")
                update(buffer[:count])
                offset += count
                advance(count)
        finally:
            os.close(fd)
    except OSError as error:
        raise ReadBackMismatch(f"{path} cannot be read back: {error.strerror}; check the disk.") from error
    finally:
        buffer.release()


def _open_uncached(path: Path, flags: int) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    except OSError as error:
        if not flags or error.errno != errno.EINVAL:
            raise
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # this file system knows no O_DIRECT
