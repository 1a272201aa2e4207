# SPDX-License-Identifier: Apache-2.0
"""Compressed frames of earlier builds: most of what a release holds was in the one before it.

The cache only saves time: a build without one gives the same bytes.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

import zstandard

KEPT_SEC: Final = 60 * 86400.0
"""A frame that no build used for so long is removed."""


@dataclass(frozen=True, slots=True)
class FrameCompressor:
    """zstd frames of a level; those that were made before are read from `folder`, unless that is None.

    Threads may share it.
    """

    level: int
    folder: Path | None = None

    def compress(self, content: bytes) -> bytes:
        """The frame of a content; its head has the size of the content. Raises OSError."""
        if self.folder is None:
            return self._compress(content)
        recipe = f"{zstandard.ZSTD_VERSION} {self.level} ".encode()
        key = sha256(recipe + content).hexdigest()
        path = self.folder / key[:2] / key
        frame = _read(path)
        # A power cut may have left anything; decompressing is quick.
        if _content(frame, len(content)) == content:
            return frame
        frame = self._compress(content)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{key}.{os.getpid()}.{threading.get_ident()}")
        part.write_bytes(frame)
        part.rename(path)
        return frame

    def prune(self) -> None:
        """Remove what was not used for KEPT_SEC. Raises OSError."""
        if self.folder is not None:
            oldest_sec = time.time() - KEPT_SEC
            for path in self.folder.glob("??/*"):
                with suppress(FileNotFoundError):
                    if path.stat().st_mtime < oldest_sec:
                        path.unlink()

    def _compress(self, content: bytes) -> bytes:
        parameters = zstandard.ZstdCompressionParameters.from_level(self.level, source_size=len(content))
        return zstandard.ZstdCompressor(compression_params=parameters).compress(content)


def _read(path: Path) -> bytes:
    """The file, marked as used; nothing if there is none."""
    try:
        frame = path.read_bytes()
        os.utime(path)
    except FileNotFoundError:
        return b""
    return frame


def _content(frame: bytes, size_bytes: int) -> bytes:
    try:
        if zstandard.get_frame_parameters(frame).content_size == size_bytes:
            return zstandard.ZstdDecompressor().decompress(frame)
    except zstandard.ZstdError:
        pass
    return b""
