# SPDX-License-Identifier: Apache-2.0
"""What the bounded readers of file systems share: paths, symbolic links, limits and errors.

They read the few files that tell what a system image is, without mounting it and without trusting anything
on the disk: every length and offset is checked against the partition, and the work is bounded, too.
"""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Final, Generic, Protocol, TypeVar

from common import files
from common.errors import AgentError

MAX_DIRECTORY_BYTES: Final = 1 << 20
MAX_LINKS: Final = 40
MAX_NAME_BYTES: Final = 255
MAX_PATH_BYTES: Final = 4096
MAX_WORK_BYTES: Final = 64 << 20
"""Bytes that are looked at before a file system is given up as endless; a lint needs 8 MiB."""

_MIN_READ_BYTES = 512  # even a small read costs its time


class FileSystemError(AgentError):
    """The file system is damaged, or stored in a way that its reader does not know."""


class NoSuchFile(FileSystemError):
    """There is no such file in the file system, or it is of another kind."""


class FileTooLong(FileSystemError):
    """The file has more bytes than were asked for."""


class Node(Protocol):
    """An inode: `mode` as in inode(7), `size` in bytes."""

    @property
    def mode(self) -> int: ...
    @property
    def size(self) -> int: ...


class Extent:
    """Some bytes of a file or device, read with bounds and within the budget; `name` is used in errors."""

    def __init__(self, fd: int, *, offset_bytes: int, size_bytes: int, name: str) -> None:
        self.name = name
        self.size = size_bytes
        self._fd = fd
        self._start = offset_bytes
        self._work_left = MAX_WORK_BYTES

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes, all of them inside. Raises FileSystemError."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise self.damaged(f"it refers to byte {offset + size} of {self.size}")
        self.spend(size)
        try:
            raw = files.read_at(self._fd, size, self._start + offset)
        except OSError as error:
            raise FileSystemError(f"{self.name} cannot be read: {error.strerror}.") from error
        if len(raw) != size:
            raise self.damaged(f"it ends before byte {offset + size}")
        return raw

    def spend(self, size: int) -> None:
        """Take from the budget. Raises FileSystemError when it is used up."""
        self._work_left -= max(size, _MIN_READ_BYTES)
        if self._work_left < 0:
            raise self.damaged("it leads in circles")

    def damaged(self, why: str) -> FileSystemError:
        return FileSystemError(f"{self.name} has a damaged file system: {why}; get the image again.")


N = TypeVar("N", bound=Node)


class FileSystem(ABC, Generic[N]):
    """Files by absolute paths; symbolic links are followed inside the file system, the last one, too.

    Every method raises FileSystemError if what it needs is damaged or of an unknown form.
    """

    def __init__(self, extent: Extent) -> None:
        self._extent = extent

    def exists(self, path: str) -> bool:
        """Whether the path leads to something (a dangling or endless symbolic link does not)."""
        return self._walk(path) is not None

    def read(self, path: str, max_bytes: int) -> bytes:
        """Content of a regular file. Raises NoSuchFile, FileTooLong, FileSystemError."""
        node = self._walk(path)
        if node is None or not stat.S_ISREG(node.mode):
            raise NoSuchFile(f"{self._extent.name} has no file {path}.")
        if node.size > max_bytes:
            raise FileTooLong(f"{path} has {node.size} bytes, at most {max_bytes} are allowed.")
        return self._content(node)

    def listdir(self, path: str) -> tuple[str, ...]:
        """Sorted names in a directory, without '.' and '..'; empty if there is no such directory."""
        node = self._walk(path)
        if node is None or not stat.S_ISDIR(node.mode):
            return ()
        names = {name for name, _ in self._entries_of(node)} - {b".", b".."}
        return tuple(sorted(map(os.fsdecode, names)))

    @abstractmethod
    def _root(self) -> N:
        """The root directory."""

    @abstractmethod
    def _node(self, reference: int) -> N:
        """The inode that a directory entry refers to."""

    @abstractmethod
    def _entries(self, node: N) -> Iterator[tuple[bytes, int]]:
        """Names of a directory of at most MAX_DIRECTORY_BYTES, and the references of their inodes."""

    @abstractmethod
    def _content(self, node: N) -> bytes:
        """All bytes of a file or symbolic link, whose size was checked against a limit."""

    def _entries_of(self, node: N) -> Iterator[tuple[bytes, int]]:
        if node.size > MAX_DIRECTORY_BYTES:
            raise self._extent.damaged(f"a directory has {node.size} bytes")
        for name, reference in self._entries(node):
            if not name or len(name) > MAX_NAME_BYTES or b"/" in name or b"\0" in name:
                raise self._extent.damaged("a directory has an entry without a proper name")
            yield name, reference

    def _walk(self, path: str) -> N | None:
        if len(os.fsencode(path)) > MAX_PATH_BYTES:
            return None
        trail = [self._root()]
        todo = os.fsencode(path).split(b"/")[::-1]
        links = 0
        while todo:
            name = todo.pop()
            here = trail[-1]
            if not stat.S_ISDIR(here.mode):
                return None
            if name in (b"", b"."):
                continue
            if name == b"..":
                if len(trail) > 1:
                    trail.pop()
                continue
            reference = next((ref for entry, ref in self._entries_of(here) if entry == name), None)
            if reference is None:
                return None
            node = self._node(reference)
            if not stat.S_ISLNK(node.mode):
                trail.append(node)
                continue
            links += 1
            if links > MAX_LINKS or node.size > MAX_PATH_BYTES:
                return None
            target = self._content(node)
            if target.startswith(b"/"):
                del trail[1:]
            todo += target.split(b"/")[::-1]
        return trail[-1]
