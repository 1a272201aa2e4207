# SPDX-License-Identifier: Apache-2.0
"""The target of an install: written past the page cache, punched where it shall be zero, read back and
compared.

O_DIRECT (open(2)) moves bytes between an aligned buffer and the device itself, so a read cannot be answered
by what was just written. Where the file system or the driver refuses it, the page cache is used, and its
pages are dropped before a read.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Self

from agents.slot_manager.errors import NoSpace, ReadBackMismatch, SlotBooted
from common.errors import AgentError

ALIGNMENT = 4096
"""Of addresses, offsets and lengths with O_DIRECT, in bytes: right for sectors of 512 and of 4096 bytes."""

_PUNCH_HOLE = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, linux/falloc.h
_GONE = (errno.EIO, errno.ENODEV, errno.ENXIO)


class Buffer:
    """`size` bytes of page-aligned memory; `view` is all of it. It is given back with the last reference."""

    def __init__(self, size: int) -> None:
        self._memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._memory.madvise(mmap.MADV_DONTFORK)  # a fork amid direct I/O would part us from our pages
        with contextlib.suppress(OSError):  # a kernel without huge pages
            self._memory.madvise(mmap.MADV_HUGEPAGE)
        self.view = memoryview(self._memory)
        self._anchor = ctypes.c_char.from_buffer(self._memory)
        self._address = ctypes.addressof(self._anchor)

    def same(self, offset: int, other: Buffer, other_offset: int, size: int) -> bool:
        """Whether `size` bytes at `offset` are those of `other`. Other threads run meanwhile."""
        return not _memcmp()(self._address + offset, other._address + other_offset, size)


class Medium:
    """A block device or file, open for writing and reading back; a context manager.

    direct: whether the page cache is kept out. Raises SlotBooted if a device is mounted or mapped, else
    AgentError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        flags = os.O_RDWR | os.O_EXCL | os.O_CLOEXEC | os.O_NOCTTY
        try:
            self._fd = _open_direct(path, flags)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise SlotBooted(
                    f"{path} is in use (mounted or mapped), so it is not written; release it first."
                ) from error
            raise AgentError(f"{path} cannot be opened for writing: {error.strerror}.") from error
        self.direct = bool(self._flags() & os.O_DIRECT)
        self._punches = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def write(self, view: memoryview, offset: int) -> None:
        """Write aligned memory to an aligned offset; only the end of a payload may have an odd length.

        Raises NoSpace, AgentError.
        """
        whole = len(view) - len(view) % ALIGNMENT
        done = 0
        try:
            while done < whole:
                done += self._write_some(view[done:whole], offset + done)
            if whole < len(view):
                self._write_tail(view[whole:], offset + whole)
        except OSError as error:
            raise _failure(error, self.path, f"cannot be written at byte {offset + done}") from error

    def punch(self, offset: int, size: int) -> bool:
        """Make a range read as zeros without writing it; False if the target cannot, and nothing was done.

        Block devices discard it only if they then promise zeros (unlike BLKDISCARD), see fallocate(2).
        """
        if not self._punches:
            return False
        if _fallocate()(self._fd, _PUNCH_HOLE, offset, size) == 0:
            return True
        number = ctypes.get_errno()
        if number in (errno.EOPNOTSUPP, errno.ENODEV, errno.EINVAL, errno.ENOSYS):
            self._punches = False
            return False
        error = OSError(number, os.strerror(number))
        raise _failure(error, self.path, f"cannot be zeroed at byte {offset}")

    def flush(self) -> None:
        """Bring everything written so far to the medium. Raises NoSpace, AgentError."""
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise _failure(error, self.path, "could not be flushed") from error

    def compare(self, written: Buffer, size: int, offset: int, scratch: Buffer) -> None:
        """Read `size` bytes at `offset` back into `scratch` and compare them with the start of `written`.

        Raises ReadBackMismatch, AgentError.
        """
        if not self.direct:
            os.posix_fadvise(self._fd, offset, size, os.POSIX_FADV_DONTNEED)
        done = 0
        # With O_DIRECT the length is rounded up; the end of the target cuts it again.
        room = (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
        while done < size:
            try:
                count = os.preadv(self._fd, [scratch.view[done:room]], offset + done)
            except OSError as error:
                raise _failure(error, self.path, f"cannot be read back at byte {offset + done}") from error
            if done + count < size:
                count -= count % ALIGNMENT
                if not count:
                    raise ReadBackMismatch(
                        f"{self.path} ends at byte {offset + done}, before everything was read back."
                    )
            done += count
        if not written.same(0, scratch, 0, size):
            raise ReadBackMismatch(
                f"{self.path} gave back other bytes than were written between {offset} and {offset + size}; "
                "check the disk."
            )

    def _flags(self) -> int:
        return fcntl.fcntl(self._fd, fcntl.F_GETFL)

    def _write_some(self, view: memoryview, offset: int) -> int:
        try:
            count = os.pwritev(self._fd, [view], offset)
        except OSError as error:
            if not self.direct or error.errno != errno.EINVAL:
                raise
            fcntl.fcntl(self._fd, fcntl.F_SETFL, self._flags() & ~os.O_DIRECT)
            self.direct = False
            return 0
        aligned = count - count % ALIGNMENT
        if not aligned:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return aligned

    def _write_tail(self, view: memoryview, offset: int) -> None:
        """Through the page cache, as the length fits no sector."""
        flags = self._flags()
        fcntl.fcntl(self._fd, fcntl.F_SETFL, flags & ~os.O_DIRECT)
        try:
            while view:
                count = os.pwritev(self._fd, [view], offset)
                if not count:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                view, offset = view[count:], offset + count
        finally:
            fcntl.fcntl(self._fd, fcntl.F_SETFL, flags)


def zero_runs(buffer: Buffer, size: int, zeros: Buffer, *, step: int, least: int) -> list[tuple[int, int]]:
    """Offset and length of the runs of zeros in the first `size` bytes, sought in pieces of `step` bytes.

    zeros is a buffer of at least `step` zeros; runs shorter than `least` bytes are left out.
    """
    runs: list[tuple[int, int]] = []
    begin = -1
    for offset in range(0, size, step):
        piece = min(step, size - offset)
        if piece == step and buffer.same(offset, zeros, 0, step):
            begin = offset if begin < 0 else begin
            continue
        if begin >= 0:
            runs.append((begin, offset - begin))
        begin = -1
    if begin >= 0:
        runs.append((begin, size - begin))
    return [(offset, length) for offset, length in runs if length >= least]


def _open_direct(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return os.open(path, flags)  # this file system knows no O_DIRECT


def _failure(error: OSError, path: Path, what: str) -> AgentError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"{path} {what}: there is no space left; the image is larger than its target.")
    if error.errno in _GONE:
        return AgentError(
            f"{path} {what}: the device failed or is gone ({error.strerror}); check the disk and its "
            "cabling, then install again."
        )
    return AgentError(f"{path} {what}: {error.strerror}; check the disk.")


@cache
def _memcmp() -> Callable[[int, int, int], int]:
    function = ctypes.CDLL(None).memcmp
    function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    return function


@cache
def _fallocate() -> Callable[[int, int, int, int], int]:
    function = ctypes.CDLL(None, use_errno=True).fallocate64
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return function
