# SPDX-License-Identifier: Apache-2.0
"""Where the files of an erofs file system lie."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from common import erofs
from common.filesystem import Extent, FileSystemError
from common.image.verity import BLOCK_BYTES

_PLAIN, _INLINE = 0, 2  # layouts of inodes whose blocks lie in a row


@dataclass(frozen=True, slots=True)
class Run:
    """`count` blocks of 4096 bytes from `first` on; `path` of the file or folder ("/" at its end) that they
    hold, or "" if they hold none.
    """

    first: int
    count: int
    path: str = ""

    @property
    def end(self) -> int:
        return self.first + self.count


def files(fd: int, *, offset_bytes: int, size_bytes: int, name: str) -> list[Run]:
    """The content of files and folders, as far as it fills blocks of its own: ascending and apart.

    Empty if this is no file system that can be read; `fd` stays the caller's.
    """
    found: list[Run] = []
    try:
        listing = _Listing(_Whole(fd, offset_bytes=offset_bytes, size_bytes=size_bytes, name=name))
        for run in sorted(listing.runs(), key=lambda run: (run.first, run.count)):
            if run.end * BLOCK_BYTES <= size_bytes and run.first >= (found[-1].end if found else 0):
                found.append(run)
    except FileSystemError:
        return []
    return found


class _Whole(Extent):
    """An extent without the budget that a lint has: each inode and each folder is read once."""

    def spend(self, size: int) -> None:
        pass


class _Listing(erofs.FileSystem):
    def runs(self) -> Iterator[Run]:
        todo, seen = [("/", self._root())], set()
        while todo:
            path, node = todo.pop()
            if node.number in seen or self._block_bytes != BLOCK_BYTES:
                continue
            seen.add(node.number)
            is_folder = stat.S_ISDIR(node.mode)
            if (is_folder or stat.S_ISREG(node.mode)) and node.layout in (_PLAIN, _INLINE):
                count, rest = divmod(node.size, BLOCK_BYTES)
                count += bool(rest) and node.layout == _PLAIN
                if count:
                    yield Run(node.block, count, path)
            if is_folder:
                for name, reference in self._entries_of(node):
                    if name not in (b".", b".."):
                        child = self._node(reference)
                        ending = "/" if stat.S_ISDIR(child.mode) else ""
                        todo.append((path + os.fsdecode(name) + ending, child))
