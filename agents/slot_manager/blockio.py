# SPDX-License-Identifier: Apache-2.0
"""Bytes to the disk and back: cancellable, and never answered by the page cache on the way back."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import threading
from collections.abc import Callable
from pathlib import Path

from agents.slot_manager.errors import ReadBackMismatch, SlotBooted
from common.errors import AgentError
from common.image.stream import CHUNK_BYTES, Advance, check, chunks, write_all

__all__ = [
    "ALIGNMENT",
    "CHUNK_BYTES",
    "Advance",
    "check",
    "chunks",
    "digest_from_medium",
    "flush",
    "open_exclusively",
    "write_all",
]

ALIGNMENT = 4096


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
