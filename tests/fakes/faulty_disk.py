# SPDX-License-Identifier: Apache-2.0
"""Files that fail when asked to, and remember what was done to them in order: a small FUSE file system.

Block devices for tests are loop devices over such a file, or such a file itself. The server is a process of
its own, so that a kernel that waits for it never waits for the test.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from common import process
from tests.fakes.fuse_server import Event, Fault, Server

__all__ = ["Event", "Fault", "FaultyDisk"]

_MS_NOSUID_NODEV = 2 | 4


class FaultyDisk:
    """Files by their paths, mounted at `folder`; a context manager. Needs root."""

    def __init__(self, folder: Path, files: Mapping[str, bytes], *, room_bytes: int = 1 << 40) -> None:
        self.folder = folder
        self._files = files
        self._room_bytes = room_bytes

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={fd},rootmode=40000,user_id=0,group_id=0".encode()
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"faulty", os.fsencode(self.folder), b"fuse", _MS_NOSUID_NODEV, options):
            number = ctypes.get_errno()
            os.close(fd)
            raise OSError(number, os.strerror(number), str(self.folder))
        context = multiprocessing.get_context("fork")
        self._connection, theirs = context.Pipe()
        server = Server(fd, theirs, self._files, self._room_bytes)
        self._process = context.Process(target=server.serve, daemon=True)
        self._process.start()
        os.close(fd)
        theirs.close()
        return self

    def __exit__(self, *_: object) -> None:
        process.run(["umount", "--lazy", str(self.folder)], timeout_sec=30, success=None)
        self._ask("stop")
        self._connection.close()
        self._process.join(20)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def fail(self, *faults: Fault) -> None:
        """From now on these faults, and no others."""
        self._ask("fail", faults)

    def events(self) -> list[Event]:
        """All that was done so far."""
        found: list[Event] = self._ask("events")
        return found

    def content(self, path: str) -> bytes:
        """What a file really holds."""
        found: bytes = self._ask("content", path)
        return found

    def replace(self, path: str, offset: int, data: bytes) -> None:
        """Change a file behind the back of everybody."""
        self._ask("replace", path, offset, data)

    def hits(self) -> int:
        """How often a fault struck since the last call of `fail`."""
        found: int = self._ask("hits")
        return found

    def _ask(self, *message: object) -> Any:
        self._connection.send(message)
        return self._connection.recv()
