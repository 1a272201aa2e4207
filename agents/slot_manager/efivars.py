# SPDX-License-Identifier: Apache-2.0
"""The Boot Loader Interface's EFI variables (systemd.io/BOOT_LOADER_INTERFACE), read and removed as files.

A variable file is four bytes of attributes and the value; efivarfs marks files immutable, which has to be
taken off before a variable can be removed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

from agents.slot_manager.errors import LoaderError
from common import files

VENDOR = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
MAX_BYTES = 4096

_FS_IOC_GETFLAGS = 0x80086601
_FS_IOC_SETFLAGS = 0x40086602
_FS_IMMUTABLE_FL = 0x10


def read_text(folder: Path, name: str) -> str:
    """Value of a UTF-16 variable; empty if it is not set or cannot be read."""
    try:
        raw = files.read_bounded(folder / f"{name}-{VENDOR}", MAX_BYTES)
    except files.FileError:
        return ""
    return raw[4:].decode("utf-16-le", errors="replace").split("\0", 1)[0]


def remove(folder: Path, name: str) -> bool:
    """Remove a variable; False if it was not set. Raises LoaderError."""
    path = folder / f"{name}-{VENDOR}"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise LoaderError(f"The EFI variable {name} cannot be opened: {error.strerror}.") from error
    try:
        _make_mutable(fd)
        path.unlink()
    except OSError as error:
        raise LoaderError(
            f"The EFI variable {name} overrules the choice of slots and cannot be removed: "
            f"{error.strerror}; "
            f"run 'bootctl set-default \"\"' and 'bootctl set-oneshot \"\"'."
        ) from error
    finally:
        os.close(fd)
    return True


def _make_mutable(fd: int) -> None:
    flags = bytearray(8)
    try:
        fcntl.ioctl(fd, _FS_IOC_GETFLAGS, flags)
    except OSError as error:
        if error.errno == errno.ENOTTY:  # a file system without such flags has nothing to take off
            return
        raise
    (value,) = struct.unpack_from("=L", flags)
    if value & _FS_IMMUTABLE_FL:
        fcntl.ioctl(fd, _FS_IOC_SETFLAGS, struct.pack("=Lxxxx", value & ~_FS_IMMUTABLE_FL))
