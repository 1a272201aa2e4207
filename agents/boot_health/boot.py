# SPDX-License-Identifier: Apache-2.0
"""Facts about the running boot: how long it has taken, and what the boot loader says about it.

systemd-boot leaves EFI variables of the vendor 4a67b082-..., see https://systemd.io/BOOT_LOADER_INTERFACE:
four bytes of attributes, then UTF-16LE with a closing NUL.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Final

from common import files

EFIVARS: Final = Path("/sys/firmware/efi/efivars")
PROC: Final = Path("/proc")
_LOADER: Final = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
_MAX_VARIABLE_BYTES: Final = 4096
_MAX_COMMAND_LINE_BYTES: Final = 64 << 10
_ROOT_HASH: Final = re.compile(r"(?:roothash|hypernet\.rootsha256)=([0-9a-f]{64})")
_NO_TRIES_LEFT: Final = re.compile(r"\+0(-[0-9]+)?(\.efi|\.conf)?", re.IGNORECASE)


def counted(efivars: Path = EFIVARS) -> bool:
    """Whether the boot loader took one try from the entry that it started."""
    return _variable(efivars, "LoaderBootCountPath") is not None


def exhausted(efivars: Path = EFIVARS) -> bool:
    """Whether the entry had no tries left before this boot, so that the loader had nothing better to start.

    LoaderEntrySelected keeps the name from before the loader took its try. From systemd 258 on it holds no
    counter, and this is always False.
    """
    selected = _variable(efivars, "LoaderEntrySelected") or ""
    return (
        _NO_TRIES_LEFT.fullmatch(selected[selected.rfind("+") :]) is not None if "+" in selected else False
    )


def boot_id(proc: Path = PROC) -> str:
    """Return the id of this boot, 32 hex digits; empty if the kernel does not tell."""
    try:
        data = files.read_bounded(proc / "sys/kernel/random/boot_id", 64)
    except files.FileError:
        return ""
    return data.decode("ascii", "replace").strip().replace("-", "")


def root_hash(proc: Path = PROC) -> str:
    """Return the root hash of the booted system, 64 hex digits as on the kernel command line; empty if there
    is none.
    """
    try:
        data = files.read_bounded(proc / "cmdline", _MAX_COMMAND_LINE_BYTES)
    except files.FileError:
        return ""
    found = filter(None, map(_ROOT_HASH.fullmatch, data.decode("utf-8", "replace").split()))
    return next((match[1] for match in found), "")


def elapsed_sec(proc: Path = PROC) -> float:
    """Return the seconds since PID 1 started, time in suspend included; no wall clock is involved.

    That is the age of the kernel on a machine, and the age of the container in a container
    (proc_pid_stat(5), field 22).
    """
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    try:
        stat = files.read_bounded(proc / "1/stat", 4096).decode("ascii", "replace")
        started = int(stat.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    except (files.FileError, IndexError, ValueError):
        return now
    return max(0.0, now - started)


def _variable(efivars: Path, name: str) -> str | None:
    try:
        data = files.read_bounded(efivars / f"{name}-{_LOADER}", _MAX_VARIABLE_BYTES)
    except files.FileError:
        return None
    return data[4:].decode("utf-16-le", "replace").rstrip("\0")
