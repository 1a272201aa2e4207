# SPDX-License-Identifier: Apache-2.0
"""Reading with a bound, and writing that survives a power cut.

A write is durable when the function has returned: data and directory entry were flushed (fsync(2)).
All functions but `read_at` raise FileError, which is an AgentError, never a bare OSError.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from common.errors import ERROR_PREFIX, AgentError

if TYPE_CHECKING:
    import ctypes

_AT_FDCWD: Final = -100
_RENAME_NOREPLACE: Final = 1


class FileError(AgentError):
    """A file or directory could not be read or written. ``errno``: the system's error number, 0 if none."""

    def __init__(self, sentence: str, *, error: OSError | None = None) -> None:
        super().__init__(sentence)
        self.errno = (error.errno or 0) if error else 0


class FileUnreadable(FileError):
    """The file exists but cannot be read, or is not a regular file."""


class FileMissing(FileUnreadable):
    """There is no such file."""


class FileTooLarge(FileError):
    """The file is larger than the reader accepts."""


class FileUnwritable(FileError):
    """The file or directory cannot be written, renamed, removed or flushed."""


class FileSystemFull(FileUnwritable):
    """The file system has no space left."""

    dbus_name = ERROR_PREFIX + "NoSpace"
    exit_status = 18


def read_at(fd: int, size: int, offset: int) -> bytes:
    """`size` bytes at `offset`, fewer only at the end of the file.

    pread(2) may give fewer anywhere on a network file system, 9p or FUSE. Raises OSError, as it does.
    """
    data = os.pread(fd, size, offset)
    if len(data) == size or not data:
        return data
    parts, done = [data], len(data)
    while done < size and (data := os.pread(fd, size - done, offset + done)):
        parts.append(data)
        done += len(data)
    return b"".join(parts)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder for temporary files (TMPDIR or /tmp), removed at the end. Raises FileUnwritable."""
    import tempfile  # here: few programs need it, all would pay for it

    try:
        folder = tempfile.TemporaryDirectory(prefix="hypernet-", ignore_cleanup_errors=True)
    except OSError as error:
        raise FileUnwritable(
            f"A folder for temporary files cannot be made: {error.strerror}; make room in /tmp, or set "
            "TMPDIR.",
            error=error,
        ) from error
    with folder as name:
        yield Path(name)


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Return the whole content of a regular file.

    Raises FileMissing, FileUnreadable, or FileTooLarge if there are more than max_bytes. The size that
    stat(2) reports is not trusted (sysfs and efivarfs report other sizes).
    """
    try:
        # O_NONBLOCK: opening a FIFO that somebody put here must not block.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with open(fd, "rb") as stream:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise FileUnreadable(f"Cannot read {path}: it is not a regular file.")
            data = stream.read(max_bytes + 1)
    except FileNotFoundError as error:
        raise FileMissing(f"Cannot read {path}: there is no such file.", error=error) from error
    except OSError as error:
        raise FileUnreadable(f"Cannot read {path}: {error.strerror}.", error=error) from error
    if len(data) > max_bytes:
        raise FileTooLarge(f"Cannot read {path}: it is larger than {max_bytes} bytes.")
    return data


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write path so that after a power cut it holds either its old content or all of data.

    The new file has the permission bits of mode whatever the umask is. One writer at a time: of two at once,
    one gets FileUnwritable. Raises FileSystemFull or FileUnwritable; then path is as it was.
    """
    # A fixed name: what a power cut leaves behind is removed by the next write.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fchmod(fd, mode)
                os.fsync(fd)
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _unwritable("write", path, error) from error
    sync_directory(path.parent)


def rename_durable(old: Path, new: Path) -> None:
    """Rename within one file system; refuse to overwrite new (FileUnwritable with errno EEXIST)."""
    result = _libc().renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), _RENAME_NOREPLACE)
    if result != 0:
        raise _unwritable(f"rename {old} to", new, _last_error())
    sync_directory(new.parent)
    if old.parent != new.parent:
        sync_directory(old.parent)


def remove_durable(path: Path) -> None:
    """Remove a file; it is no error if it does not exist."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable("remove", path, error) from error
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Flush the entries of a directory (fsync(2)); does nothing if the directory does not exist."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unwritable("flush", path, error) from error
    try:
        os.fsync(fd)
    except OSError as error:
        raise _unwritable("flush", path, error) from error
    finally:
        os.close(fd)


def sync_filesystem(path: Path) -> None:
    """Flush the whole file system that holds path (syncfs(2)); write errors are reported."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _unwritable("flush", path, error) from error
    try:
        if _libc().syncfs(fd) != 0:
            raise _unwritable("flush the file system of", path, _last_error())
    finally:
        os.close(fd)


def _libc() -> ctypes.CDLL:
    # Imported here: few programs rename or flush, all pay for the import.
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def _last_error() -> OSError:
    import ctypes

    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def _unwritable(verb: str, path: Path, error: OSError) -> FileUnwritable:
    kind = FileSystemFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else FileUnwritable
    return kind(f"Cannot {verb} {path}: {error.strerror}.", error=error)
