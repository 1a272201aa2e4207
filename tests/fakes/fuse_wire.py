# SPDX-License-Identifier: Apache-2.0
"""The messages of FUSE that a small file server needs (linux/fuse.h, protocol 7.31), as plain values."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

MAJOR, MINOR = 7, 31
BIG_WRITES = 1 << 5
DIRECT_IO = 1 << 0
"""Open flag: each read and write goes to the server, none is answered by the page cache."""

SET_MODE, SET_SIZE = 1 << 0, 1 << 3
RENAME_NOREPLACE = 1

_IN = struct.Struct("<IIQQIIIHH")
_OUT = struct.Struct("<IiQ")
_ATTR = struct.Struct("<6Q10I")


class Op(IntEnum):
    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    MKDIR = 9
    UNLINK = 10
    RENAME = 12
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    CREATE = 35
    INTERRUPT = 36
    BATCH_FORGET = 42
    FALLOCATE = 43
    RENAME2 = 45


UNANSWERED = (Op.FORGET, Op.INTERRUPT, Op.BATCH_FORGET)


@dataclass(frozen=True, slots=True)
class Request:
    """`op` is the raw number, which may be one that this module does not know."""

    op: int
    unique: int
    node: int
    body: memoryview

    def unpack(self, layout: str) -> tuple[int, ...]:
        return struct.unpack_from("<" + layout, self.body)

    def names(self, offset: int = 0) -> list[str]:
        """The strings that end the message."""
        return [part.decode() for part in bytes(self.body[offset:]).split(b"\0")[:-1]]


def parse(raw: bytes) -> Request:
    _, op, unique, node, *_ = _IN.unpack_from(raw)
    return Request(op, unique, node, memoryview(raw)[_IN.size :])


def reply(unique: int, body: bytes = b"", *, error: int = 0) -> bytes:
    """An answer; `error` is an errno, or 0."""
    body = b"" if error else body
    return _OUT.pack(_OUT.size + len(body), -error, unique) + body


def init(max_write: int) -> bytes:
    return struct.pack("<IIIIHHIIHHI7I", MAJOR, MINOR, 0, BIG_WRITES, 16, 12, max_write, 1, 0, 0, *[0] * 8)


def attributes(node: int, mode: int, size: int) -> bytes:
    return _ATTR.pack(node, size, (size + 511) // 512, *[0] * 6, mode, 1, 0, 0, 0, 4096, 0)


def entry(node: int, mode: int, size: int) -> bytes:
    return struct.pack("<QQQQII", node, 0, 0, 0, 0, 0) + attributes(node, mode, size)


def attribute_answer(node: int, mode: int, size: int) -> bytes:
    return struct.pack("<QII", 0, 0, 0) + attributes(node, mode, size)


def opened(flags: int) -> bytes:
    return struct.pack("<QII", 0, flags, 0)


def listing(entries: list[tuple[int, str, bool]], first: int) -> bytes:
    """Directory entries (node, name, is a folder) from position `first` on."""
    answer = b""
    for position, (node, name, folder) in enumerate(entries[first:], first + 1):
        raw = name.encode()
        answer += struct.pack("<QQII", node, position, len(raw), 4 if folder else 8)
        answer += raw + bytes(-len(raw) % 8)
    return answer


def space(total: int, free: int) -> bytes:
    """Answer to statfs(2); sizes in bytes."""
    blocks, unused = total // 4096, free // 4096
    return struct.pack("<5Q4I6I", blocks, unused, unused, 1000, 1000, 4096, 255, 4096, 0, *[0] * 6)
