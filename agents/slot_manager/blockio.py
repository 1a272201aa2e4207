# SPDX-License-Identifier: Apache-2.0
"""Past the page cache: what is flushed is on the medium, and what is read comes from there."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import threading
from collections.abc import Callable
from pathlib import Path

from agents.slot_manager.errors import ReadBackMismatch
from common.errors import AgentError
from common.image.stream import CHUNK_BYTES, Advance, check

ALIGNMENT = 4096


def flush(fd: int, *, name: str) -> None:
    """Flush a file to the medium and drop its cached pages. Raises AgentError if the medium reported an
    error.
    """
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError as error:
        raise AgentError(f"{name} could not be flushed: {error.strerror}; check the disk.") from error


def digest_from_medium(
    path: Path, size: int, *, cancel: threading.Event, advance: Advance = lambda count: None
) -> str:
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
