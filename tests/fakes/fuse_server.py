# SPDX-License-Identifier: Apache-2.0
"""The server behind tests.fakes.faulty_disk: files in memory, served through /dev/fuse."""

from __future__ import annotations

import errno
import fnmatch
import os
import select
import signal
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from tests.fakes import fuse_wire as wire
from tests.fakes.fuse_wire import Op, Request

MAX_WRITE_BYTES = 8 << 10
"""Longer writes come in pieces of this size, each of them one step that a power cut can follow."""

_DISCARDING = 0x02 | 0x10  # FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that was done: write, zero, resize, create, remove, rename or flush.

    path: relative to the mount point, as it was named then; new: its name after a rename. node: the file,
    whatever it is called. offset of a resize is the new size.
    """

    kind: str
    path: str
    node: int
    offset: int = 0
    data: bytes = b""
    new: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with files whose path matches `path` (fnmatch).

    op: read, write, flush, create, rename, remove, or change for all but the first. effect: `error` (fails
    with `number`), `lose` (is said to be done and is not), `flip` (bits are wrong), `gone` (from then on
    nothing answers, on no path). after: so many such calls go well first. start, end: only calls that touch
    these bytes.
    """

    path: str
    op: str
    effect: str = "error"
    number: int = errno.EIO
    after: int = 0
    start: int = 0
    end: int = 1 << 62


@dataclass(slots=True)
class _Node:
    number: int
    data: bytearray | None
    children: dict[str, _Node] = field(default_factory=dict)

    @property
    def mode(self) -> int:
        return stat.S_IFDIR | 0o755 if self.data is None else stat.S_IFREG | 0o600


class _Failure(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Server:
    def __init__(self, fd: int, connection: Connection, files: Mapping[str, bytes], room_bytes: int) -> None:
        self._fd, self._connection, self._room_bytes = fd, connection, room_bytes
        self._root = _Node(1, None)
        self._nodes = {1: self._root}
        self._paths = {1: ""}
        self._events: list[Event] = []
        self._faults: Sequence[Fault] = ()
        self._counts: dict[Fault, int] = {}
        self._hits = 0
        for path, data in files.items():
            node = self._root
            *folders, name = path.split("/")
            for folder in folders:
                node = node.children.get(folder) or self._add(node, folder, None)
            self._add(node, name, bytearray(data))

    def serve(self) -> None:
        """Until the question "stop" comes."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        waiting = [self._fd, self._connection.fileno()]
        while waiting:
            ready, _, _ = select.select(waiting, [], [])
            if self._fd in ready and not self._next_request():
                waiting.remove(self._fd)
                os.close(self._fd)
            if self._connection.fileno() in ready and not self._next_question():
                return

    def _next_request(self) -> bool:
        try:
            raw = os.read(self._fd, MAX_WRITE_BYTES + 8192)
        except OSError as error:
            return error.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN)
        request = wire.parse(raw)
        if request.op in wire.UNANSWERED:
            return True
        try:
            answer = wire.reply(request.unique, self._answer(request))
        except _Failure as failure:
            answer = wire.reply(request.unique, error=failure.number)
        try:
            os.write(self._fd, answer)
        except OSError as error:
            return error.errno == errno.ENOENT  # the caller did not wait
        return True

    def _next_question(self) -> bool:
        verb, *rest = self._connection.recv()
        answer: Any = None
        if verb == "fail":
            self._faults, self._counts, self._hits = rest[0], {}, 0
        elif verb == "events":
            answer = self._events
        elif verb == "hits":
            answer = self._hits
        elif verb == "content":
            answer = bytes(self._find(rest[0]))
        elif verb == "replace":
            self._find(rest[0])[rest[1] : rest[1] + len(rest[2])] = rest[2]
        self._connection.send(answer)
        return bool(verb != "stop")

    def _answer(self, request: Request) -> bytes:
        if request.op == Op.INIT:
            return wire.init(MAX_WRITE_BYTES)
        if request.op in (Op.FLUSH, Op.RELEASE, Op.RELEASEDIR):
            return b""
        try:
            handler = getattr(self, "_" + Op(request.op).name.lower())
        except (ValueError, AttributeError):
            raise _Failure(errno.ENOSYS) from None
        answer: bytes = handler(request, self._nodes[request.node])
        return answer

    def _lookup(self, request: Request, node: _Node) -> bytes:
        return self._entry(self._child(node, request.names()[0]))

    def _getattr(self, request: Request, node: _Node) -> bytes:
        return wire.attribute_answer(node.number, node.mode, len(node.data or b""))

    def _setattr(self, request: Request, node: _Node) -> bytes:
        valid, _, _, size = request.unpack("IIQQ")
        if valid & wire.SET_SIZE:
            self._struck("write", node)
            data = _bytes(node)
            del data[size:]
            data.extend(bytes(size - len(data)))
            self._log("resize", node, offset=size)
        return self._getattr(request, node)

    def _unlink(self, request: Request, node: _Node) -> bytes:
        name = request.names()[0]
        child = self._child(node, name)
        self._struck("remove", child)
        self._log("remove", child)
        del node.children[name]
        return b""

    def _rename2(self, request: Request, node: _Node) -> bytes:
        folder, flags, _ = request.unpack("QII")
        old, new = request.names(16)
        return self._move(node, old, self._nodes[folder], new, flags)

    def _rename(self, request: Request, node: _Node) -> bytes:
        (folder,) = request.unpack("Q")
        old, new = request.names(8)
        return self._move(node, old, self._nodes[folder], new, 0)

    def _move(self, node: _Node, old: str, folder: _Node, new: str, flags: int) -> bytes:
        child = self._child(node, old)
        if flags & wire.RENAME_NOREPLACE and new in folder.children:
            raise _Failure(errno.EEXIST)
        self._struck("rename", child)
        path = f"{self._paths[folder.number]}/{new}".lstrip("/")
        self._log("rename", child, new=path)
        folder.children[new] = node.children.pop(old)
        self._paths[child.number] = path
        return b""

    def _open(self, request: Request, node: _Node) -> bytes:
        return wire.opened(wire.DIRECT_IO)

    def _opendir(self, request: Request, node: _Node) -> bytes:
        return wire.opened(0)

    def _create(self, request: Request, node: _Node) -> bytes:
        name = request.names(16)[0]
        path = f"{self._paths[node.number]}/{name}".lstrip("/")
        self._struck("create", node, path=path)
        child = self._add(node, name, bytearray())
        self._log("create", child)
        return self._entry(child) + wire.opened(wire.DIRECT_IO)

    def _read(self, request: Request, node: _Node) -> bytes:
        _, offset, size = request.unpack("QQI")
        data = bytes(_bytes(node)[offset : offset + size])
        fault = self._struck("read", node, offset, size)
        if fault and fault.effect == "flip":
            changed = bytearray(data)
            for place in range(0, len(changed), 4096):
                changed[place] ^= 1
            return bytes(changed)
        return data

    def _write(self, request: Request, node: _Node) -> bytes:
        _, offset, size = request.unpack("QQI")
        data = bytes(request.body[40 : 40 + size])
        fault = self._struck("write", node, offset, size)
        if fault and fault.effect == "flip":
            data = bytes([data[0] ^ 1]) + data[1:]
        if not (fault and fault.effect == "lose"):
            content = _bytes(node)
            content.extend(bytes(max(0, offset + len(data) - len(content))))
            content[offset : offset + len(data)] = data
            self._log("write", node, offset=offset, data=data)
        return len(data).to_bytes(8, "little")

    def _fallocate(self, request: Request, node: _Node) -> bytes:
        _, offset, size, mode = request.unpack("QQQI")
        if not mode & _DISCARDING:
            raise _Failure(errno.EOPNOTSUPP)
        self._struck("write", node, offset, size)
        _bytes(node)[offset : offset + size] = bytes(size)
        self._log("zero", node, offset=offset, data=bytes(size))
        return b""

    def _fsync(self, request: Request, node: _Node) -> bytes:
        self._struck("flush", node)
        self._log("flush", node)
        return b""

    _fsyncdir = _fsync

    def _readdir(self, request: Request, node: _Node) -> bytes:
        _, offset, size = request.unpack("QQI")
        entries = [(child.number, name, child.data is None) for name, child in node.children.items()]
        answer = wire.listing(entries, offset)
        if len(answer) > size:
            raise _Failure(errno.EINVAL)
        return answer

    def _statfs(self, request: Request, node: _Node) -> bytes:
        return wire.space(self._room_bytes, max(0, self._room_bytes - self._used()))

    def _used(self) -> int:
        """Bytes in all files that are in folders."""
        return sum(len(node.data or b"") for node in self._nodes.values() if "/" in self._paths[node.number])

    def _entry(self, node: _Node) -> bytes:
        return wire.entry(node.number, node.mode, len(node.data or b""))

    def _child(self, node: _Node, name: str) -> _Node:
        try:
            return node.children[name]
        except KeyError:
            raise _Failure(errno.ENOENT) from None

    def _add(self, parent: _Node, name: str, data: bytearray | None) -> _Node:
        node = _Node(len(self._nodes) + 1, data)
        parent.children[name] = self._nodes[node.number] = node
        self._paths[node.number] = f"{self._paths[parent.number]}/{name}".lstrip("/")
        return node

    def _find(self, path: str) -> bytearray:
        node = self._root
        for name in path.split("/"):
            node = node.children[name]
        return _bytes(node)

    def _log(self, kind: str, node: _Node, *, offset: int = 0, data: bytes = b"", new: str = "") -> None:
        self._events.append(Event(kind, self._paths[node.number], node.number, offset, data, new))

    def _struck(
        self, op: str, node: _Node, offset: int = 0, size: int = 1 << 62, *, path: str = ""
    ) -> Fault | None:
        """The fault that strikes this call, if it is none that raises."""
        path = path or self._paths[node.number]
        for fault in self._faults:
            if fault.op != op and (fault.op != "change" or op == "read"):
                continue
            if not fnmatch.fnmatchcase(path, fault.path):
                continue
            if offset >= fault.end or offset + size <= fault.start:
                continue
            self._counts[fault] = self._counts.get(fault, 0) + 1
            if self._counts[fault] <= fault.after:
                continue
            self._hits += 1
            if fault.effect == "gone":
                self._faults = tuple(Fault("*", op, number=fault.number) for op in ("read", "change"))
            if fault.effect in ("error", "gone"):
                raise _Failure(fault.number)
            return fault
        return None


def _bytes(node: _Node) -> bytearray:
    if node.data is None:
        raise _Failure(errno.EISDIR)
    return node.data
