# SPDX-License-Identifier: Apache-2.0
"""The write path of an install: four threads pass pieces of the new system on, so that reading, hashing,
writing and reading back overlap.

    reader: sources -> buffer    checker: hashes    writer: buffer -> medium
    prover: flush, read back from the medium, compare with the buffer, give it back to the reader

The prover (the caller's thread) works in batches, for the sake of the flush. A buffer is kept until its
bytes came back from the medium, so the bytes that were checked are the bytes on the medium, with one hash,
whatever the size of the system and with the memory of the ring. With the proof in the writer's thread an
install onto a disk takes about a fifth longer: the disk then never reads and writes at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Generic, Protocol, TypeVar

from agents.slot_manager.medium import Buffer, Medium, buffers
from common.errors import AgentError, Internal
from common.image.stream import check

BUFFER_BYTES = 2 << 20
RING_BUFFERS = 6
BATCH_BUFFERS = 2
"""At most half of the ring: while one batch is flushed and read back, the next ones are filled."""

Extent = tuple[int, int]
"""Begin and end of a part of a piece, in bytes; the begin is a multiple of 4096."""


@dataclass(slots=True, eq=False)
class Piece:
    """`size` bytes of the new system that belong at `offset` of the target.

    buffer: what they are, None for zeros. write, zero: what of them is to be written, and what is to be
    punched or else written; the rest is on the medium already. punched_bytes: what was really punched.
    """

    offset: int
    size: int
    buffer: Buffer | None = None
    write: list[Extent] = field(default_factory=list)
    zero: list[Extent] = field(default_factory=list)
    punched_bytes: int = 0


def extend(extents: list[Extent], begin: int, end: int) -> None:
    """Add an extent behind the others; two that touch become one."""
    if extents and extents[-1][1] == begin:
        begin = extents.pop()[0]
    extents.append((begin, end))


P = TypeVar("P", bound=Piece)
Lend = Callable[[], Buffer]
"""A free buffer; waits for one."""


class Work(Protocol[P]):
    """What makes, checks and books pieces, each in a thread of its own; any step may raise AgentError."""

    def pieces(self, lend: Lend) -> Iterator[P]:
        """Filled pieces, in the order in which they are to be written."""

    def check(self, piece: P) -> None:
        """Judge a piece; says in `write` and `zero` what is to be brought to the target."""

    def proven(self, piece: P) -> None:
        """Called in the thread of `transfer`, when the piece is on the medium."""


def transfer(work: Work[P], medium: Medium, cancel: threading.Event) -> None:
    """Bring all pieces to the medium and prove it.

    The first error of any thread ends all of them and is raised: those of `work`, NoSpace, ReadBackMismatch,
    Cancelled, AgentError. The target then holds some of the pieces.
    """
    run = _Run(work, medium, cancel)
    threads = [
        threading.Thread(target=run.guard, args=(step,), name=name)
        for name, step in (
            ("install-read", run.read),
            ("install-check", run.check),
            ("install-write", run.write),
        )
    ]
    for thread in threads:
        thread.start()
    try:
        run.guard(run.prove)
    finally:
        for thread in threads:
            thread.join()
    run.raise_error()


class _Stopped(Exception):
    """Another thread failed."""


class _Run(Generic[P]):
    """The threads, a queue before each of them (None is its end), and the first error."""

    def __init__(self, work: Work[P], medium: Medium, cancel: threading.Event) -> None:
        self._work, self._medium, self._cancel = work, medium, cancel
        self._free: SimpleQueue[Buffer | None] = SimpleQueue()
        self._filled: SimpleQueue[P | None] = SimpleQueue()
        self._checked: SimpleQueue[P | None] = SimpleQueue()
        self._written: SimpleQueue[P | None] = SimpleQueue()
        self._error: AgentError | None = None
        self._lock = threading.Lock()
        *ring, self._scratch, self._zeros = buffers(RING_BUFFERS + 2, BUFFER_BYTES)
        for buffer in ring:
            self._free.put(buffer)

    def guard(self, step: Callable[[], None]) -> None:
        """Do the work of a thread; if it fails, wake and end the others."""
        try:
            step()
        except _Stopped:
            pass
        except AgentError as error:
            self._fail(error)
        except BaseException as error:
            failure = Internal("slot-manager")
            failure.__cause__ = error
            self._fail(failure)
            if not isinstance(error, Exception):
                raise

    def raise_error(self) -> None:
        """Raise the first error, if there was one, without a cycle that would keep the buffers alive."""
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error

    def read(self) -> None:
        for piece in self._work.pieces(self._lend):
            self._go_on()
            self._filled.put(piece)
        self._filled.put(None)

    def check(self) -> None:
        for piece in self._taken(self._filled):
            self._work.check(piece)
            (self._checked if piece.write or piece.zero else self._written).put(piece)
        self._checked.put(None)

    def write(self) -> None:
        for piece in self._taken(self._checked):
            for begin, end in piece.zero:
                if self._medium.punch(piece.offset + begin, end - begin):
                    piece.punched_bytes += end - begin
                elif piece.buffer is None:
                    self._write_zeros(piece.offset + begin, piece.offset + end)
                else:
                    self._medium.write(piece.buffer.view[begin:end], piece.offset + begin)
            for begin, end in piece.write:
                assert piece.buffer is not None
                self._medium.write(piece.buffer.view[begin:end], piece.offset + begin)
            self._written.put(piece)
        self._written.put(None)

    def prove(self) -> None:
        """The work of the caller's thread."""
        batch: list[P] = []
        for piece in self._taken(self._written):
            if not (piece.write or piece.zero):
                self._done(piece)
                continue
            batch.append(piece)
            if len(batch) == BATCH_BUFFERS:
                self._prove(batch)
        self._prove(batch)

    def _prove(self, batch: list[P]) -> None:
        if batch:
            self._medium.flush()
        for piece in batch:
            for begin, end in sorted(piece.write + piece.zero):
                if piece.buffer is not None:
                    self._medium.compare(piece.buffer, begin, end, piece.offset, self._scratch)
                    continue
                for at in range(piece.offset + begin, piece.offset + end, BUFFER_BYTES):
                    self._go_on()
                    size = min(BUFFER_BYTES, piece.offset + end - at)
                    self._medium.compare(self._zeros, 0, size, at, self._scratch)
            self._done(piece)
        batch.clear()

    def _done(self, piece: P) -> None:
        self._go_on()
        self._work.proven(piece)
        if piece.buffer is not None:
            self._free.put(piece.buffer)

    def _write_zeros(self, offset: int, end: int) -> None:
        for at in range(offset, end, BUFFER_BYTES):
            self._go_on()
            self._medium.write(self._zeros.view[: min(BUFFER_BYTES, end - at)], at)

    def _lend(self) -> Buffer:
        buffer = self._free.get()
        self._go_on()
        if buffer is None:
            raise _Stopped
        return buffer

    def _taken(self, queue: SimpleQueue[P | None]) -> Iterator[P]:
        while (piece := queue.get()) is not None:
            self._go_on()
            yield piece
        self._go_on()

    def _go_on(self) -> None:
        """Raises Cancelled, or _Stopped if another thread failed."""
        if self._error is not None:
            raise _Stopped
        check(self._cancel)

    def _fail(self, error: AgentError) -> None:
        with self._lock:
            if self._error is None:
                self._error = error
        for queue in (self._free, self._filled, self._checked, self._written):
            queue.put(None)
