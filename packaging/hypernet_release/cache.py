# SPDX-License-Identifier: Apache-2.0
"""Finished steps of a build, kept as files named after everything that went into them.

The cache only saves time: a build without one gives the same bytes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from common import files


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder of step results; each is `<step>-<digest of its inputs>`."""

    folder: Path

    def get(self, step: str, inputs: Iterable[str], make: Callable[[Path], None]) -> Path:
        """The file of a step, made by `make(path)` unless these very inputs were built before.

        A step that fails leaves nothing behind: it works on a temporary name, and only what has reached the
        disk gets its final one.
        """
        digest = hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:20]
        result = self.folder / f"{step}-{digest}"
        if not result.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            part = self.folder / f".{result.name}.{os.getpid()}"
            try:
                make(part)
                with part.open("rb") as stream:
                    os.fsync(stream.fileno())
                part.rename(result)
            finally:
                part.unlink(missing_ok=True)
            files.sync_directory(self.folder)
        return result


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tree_digest(folder: Path) -> str:
    """SHA-256 (hex) over names, modes and contents of all files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if "__pycache__" in path.parts:
            continue
        digest.update(f"{path.relative_to(folder)}\0{path.lstat().st_mode:o}\0".encode())
        if path.is_symlink():
            digest.update(os.readlink(path).encode())
        elif path.is_file():
            digest.update(file_digest(path).encode())
    return digest.hexdigest()
