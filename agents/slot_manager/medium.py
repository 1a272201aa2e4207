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

_DIRECT_BYTES = 128 << 10
_PUNCH_HOLE = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, linux/falloc.h
_GONE = (errno.EIO, errno.ENODEV, errno.ENXIO)


class Buffer:
    """A piece of page-aligned memory; `view` is all of it, `blocks` are its parts of ALIGNMENT bytes."""

    def __init__(self, view: memoryview, address: int) -> None:
        self.view, self._address = view, address
        self.blocks = [view[at : at + ALIGNMENT] for at in range(0, len(view), ALIGNMENT)]

    def same(self, offset: int, other: Buffer, other_offset: int, size: int) -> bool:
        """Whether `size` bytes at `offset` are those of `other`. Other threads run meanwhile."""
        return not _memcmp()(self._address + offset, other._address + other_offset, size)

    def is_zero(self, begin: int, end: int) -> bool:
        """Whether there are only zeros from byte `begin` up to `end`."""
        if self.view[begin] or self.view[end - 1]:
            return False
        return self.same(begin, self, begin + 1, end - begin - 1)


def buffers(count: int, size: int) -> list[Buffer]:
    """`count` buffers of `size` bytes, full of zeros; size is a multiple of ALIGNMENT. Their memory is given
    back with the last reference to any of them.
    """
    memory = mmap.mmap(-1, count * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_DONTFORK)  # a fork amid direct I/O would part us from our pages
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    view = memoryview(memory)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    return [Buffer(view[at : at + size], address + at) for at in range(0, count * size, size)]


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

    def read(self, view: memoryview, offset: int) -> int:
        """Fill aligned memory with the bytes at an aligned offset, past the page cache; how many there are.

        Raises OSError.
        """
        if not self.direct:
            os.posix_fadvise(self._fd, offset, len(view), os.POSIX_FADV_DONTNEED)
        return _read(self._fd, view, offset)

    def compare(self, written: Buffer, begin: int, end: int, offset: int, scratch: Buffer) -> None:
        """Read back what was written from bytes `begin` up to `end` of a buffer, whose start belongs at
        `offset`. begin is aligned; scratch is not smaller than what is compared.

        Raises ReadBackMismatch, AgentError.
        """
        # With O_DIRECT the length is rounded up; the end of the target cuts it again.
        room = -(-(end - begin) // ALIGNMENT) * ALIGNMENT
        try:
            count = self.read(scratch.view[:room], offset + begin)
        except OSError as error:
            raise _failure(error, self.path, f"cannot be read back at byte {offset + begin}") from error
        if count < end - begin:
            raise ReadBackMismatch(
                f"{self.path} ends at byte {offset + begin + count}, before everything was read back."
            )
        if not written.same(begin, scratch, 0, end - begin):
            raise ReadBackMismatch(
                f"{self.path} gave back other bytes than were written between {offset + begin} and "
                f"{offset + end}; check the disk."
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


class Slot:
    """The device of the running system, open for reading only; a context manager.

    Long runs of blocks are read past the page cache, short ones through it: for them the kernel reads ahead.
    Raises AgentError.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._direct = _open_direct(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError as error:
            raise AgentError(f"{path} cannot be opened: {error.strerror}; check the disk.") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._direct)
        os.close(self.fd)

    def read(self, view: memoryview, offset: int) -> int:
        """Fill aligned memory with the bytes at an aligned offset; how many there are. Raises OSError."""
        if len(view) >= _DIRECT_BYTES:
            return _read(self._direct, view, offset)
        count = _read(self.fd, view, offset)
        os.posix_fadvise(self.fd, 0, offset, os.POSIX_FADV_DONTNEED)
        return count


def _read(fd: int, view: memoryview, offset: int) -> int:
    done = 0
    while done < len(view):
        count = os.preadv(fd, [view[done:]], offset + done)
        done += count
        if not count or done % ALIGNMENT:
            break
    return done


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
