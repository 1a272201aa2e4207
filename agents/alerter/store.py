# SPDX-License-Identifier: Apache-2.0
"""Small files that outlive a reboot if the disk allows, and this boot if it does not.

A disk that is full or read-only is one more thing to tell about. What it does not take lies in a directory
in /run, where a file goes before the one of the same name on the disk, and an empty one means that it is
removed.
"""

from __future__ import annotations

import os
from pathlib import Path

from common import files, journal


class Store:
    """Files by names such as "history.json" and "spool/ID.json". Methods raise FileError if /run is full."""

    def __init__(self, disk: Path, memory: Path) -> None:
        self._disk = disk
        self._memory = memory
        self._complained = False

    def names(self, folder: str) -> list[str]:
        """What is in a folder, hidden files left out, sorted."""
        found = {*_visible(self._disk / folder), *_visible(self._memory / folder)}
        names = [f"{folder}/{name}" for name in sorted(found)]
        return [name for name in names if not _is_removal(self._memory / name)]

    def read(self, name: str, max_bytes: int) -> bytes:
        """The content of a file."""
        try:
            return files.read_bounded(self._memory / name, max_bytes)
        except files.FileMissing:
            return files.read_bounded(self._disk / name, max_bytes)

    def write(self, name: str, data: bytes) -> None:
        """Write a file; it survives a power cut if the disk takes it."""
        try:
            _write(self._disk / name, data)
        except files.FileError as error:
            self._complain(error)
            _write(self._memory / name, data)
        else:
            (self._memory / name).unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Remove a file; it is no error if it does not exist."""
        try:
            if os.path.lexists(self._disk / name):  # or a read-only disk would refuse
                files.remove_durable(self._disk / name)
        except files.FileError as error:
            self._complain(error)
            _write(self._memory / name, b"")
        else:
            (self._memory / name).unlink(missing_ok=True)

    def settle(self) -> None:
        """Bring to the disk what it did not take before."""
        for path in sorted(self._memory.rglob("[!.]*")):
            if path.is_file() and not self._complained:
                name, data = str(path.relative_to(self._memory)), path.read_bytes()
                if data:
                    self.write(name, data)
                else:
                    self.remove(name)

    def _complain(self, error: files.FileError) -> None:
        """Once is enough."""
        if not self._complained:
            journal.send(f"Alerts are kept in {self._memory} only: {error}", priority=journal.WARNING)
        self._complained = True


def _visible(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError:  # missing, or on a disk that has failed
        return []


def _is_removal(path: Path) -> bool:
    try:
        return path.stat().st_size == 0
    except OSError:
        return False


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise files.FileUnwritable(f"Cannot make {path.parent}: {error.strerror}.", error=error) from error
    files.write_atomic(path, data, mode=0o600)
