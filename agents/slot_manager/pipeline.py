# SPDX-License-Identifier: Apache-2.0
"""The write path of an install: four threads pass a ring of buffers on, so that reading, hashing, writing
and reading back overlap.

    reader: source -> buffer    checker: hash, or compare with the hash tree    writer: buffer -> medium
    prover: flush, read back from the medium, compare with the buffer, give it back to the reader

The prover (the caller's thread) works in batches, for the sake of the flush. A buffer is kept until its
bytes came back from the medium, so the bytes that were checked are the bytes on the medium, with one hash,
whatever the size of the payload and with the memory of the ring. With the proof in the writer's thread an
install onto a disk takes about a fifth longer: the disk then never reads and writes at once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol

from agents.slot_manager.errors import ChecksumMismatch, Truncated
from agents.slot_manager.medium import ALIGNMENT, Buffer, Medium, zero_runs
from common.errors import AgentError, Internal
from common.image.hashtree import HASH_BYTES, HashTree
from common.image.stream import Advance, check

BUFFER_BYTES = 2 << 20
RING_BUFFERS = 12
BATCH_BUFFERS = 4
"""At most half of the ring: while one batch is flushed and read back, the next ones are filled."""

ZERO_RUN_BYTES = 1 << 20
"""Zeros of this length, in one buffer, are punched and not written."""

_ZERO_STEP_BYTES = 64 << 10


class Source(Protocol):
    """Where the payload comes from. `name` is for messages."""

    name: str

    def read(self, view: memoryview, offset: int) -> int:
        """Fill `view` (or only its start) with the bytes at `offset`; their number, 0 at the end.

        May raise AgentError and OSError.
        """

    def finish(self) -> None:
        """Called after the last byte. Raises AgentError if what was read cannot have been one state."""


Check = Callable[[memoryview, int], None]
"""Called with each piece of the payload and its offset, in order, before it is written; may raise
AgentError.
"""


class FileSource:
    """`size` bytes from `offset` on of a file that is open as `fd`."""

    def __init__(self, fd: int, offset: int, size: int, *, name: str) -> None:
        self.name = name
        self._fd, self._offset, self._size = fd, offset, size
        self._identity = self._look()

    def read(self, view: memoryview, offset: int) -> int:
        return os.preadv(self._fd, [view[: max(0, self._size - offset)]], self._offset + offset)

    def finish(self) -> None:
        """Raises ChecksumMismatch if the file was written to meanwhile."""
        if self._look() != self._identity:
            raise ChecksumMismatch(f"{self.name} was changed while it was read; copy or download it again.")

    def _look(self) -> tuple[int, int]:
        status = os.fstat(self._fd)
        return status.st_size, status.st_mtime_ns


class StreamCheck:
    """Hashes the payload as one stream."""

    def __init__(self) -> None:
        self._digest = sha256()

    def __call__(self, view: memoryview, offset: int) -> None:
        self._digest.update(view)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


class LeafCheck:
    """Compares each block of the payload with the hash tree that vouches for it: nothing wrong is written.

    The payload has whole blocks of 4096 bytes. Raises ChecksumMismatch, NotAnImage.
    """

    def __init__(self, tree: HashTree, *, name: str) -> None:
        self._tree, self._name = tree, name

    def __call__(self, view: memoryview, offset: int) -> None:
        first, count = offset // ALIGNMENT, len(view) // ALIGNMENT
        expected = self._tree.leaves(first, count)
        found = b"".join(
            [sha256(view[at : at + ALIGNMENT]).digest() for at in range(0, len(view), ALIGNMENT)]
        )
        if found != expected:
            wrong = next(
                at
                for at in range(0, len(found), HASH_BYTES)
                if found[at : at + HASH_BYTES] != expected[at : at + HASH_BYTES]
            )
            at = offset + wrong // HASH_BYTES * ALIGNMENT
            raise ChecksumMismatch(
                f"{self._name} differs from its hash tree at byte {at}; copy or download it again."
            )


@dataclass(frozen=True, slots=True)
class Report:
    """What was done: bytes written, bytes made zero without a write, and whether past the page cache."""

    written_bytes: int
    zero_bytes: int
    direct: bool


def transfer(
    source: Source,
    target: Path,
    size: int,
    *,
    check_piece: Check,
    cancel: threading.Event,
    advance: Advance = lambda count: None,
) -> Report:
    """Bring the first `size` bytes of a source to the start of a device or file, checked and read back.

    advance is called with bytes that are proven to be on the medium. The first error of any thread ends all
    of them and is raised: Truncated, ChecksumMismatch, NoSpace, ReadBackMismatch, SlotBooted, Cancelled,
    else AgentError. The target then holds a part of the payload.
    """
    with Medium(target) as medium:
        run = _Run(source, size, check_piece, cancel)
        for _ in range(RING_BUFFERS):
            run.free.put(Buffer(BUFFER_BYTES))
        writer = _Writer(run, medium, advance)
        threads = [
            threading.Thread(target=run.guard, args=(work,), name=name)
            for name, work in (
                ("install-read", run.read),
                ("install-check", run.check),
                ("install-write", writer.write),
            )
        ]
        for thread in threads:
            thread.start()
        try:
            run.guard(writer.prove)
        finally:
            for thread in threads:
                thread.join()
        run.raise_error()
        return Report(writer.written_bytes, writer.zero_bytes, medium.direct)


@dataclass(slots=True)
class _Piece:
    """A filled buffer: `size` bytes that belong at `offset` of the target."""

    buffer: Buffer
    offset: int
    size: int


class _Stopped(Exception):
    """Another thread failed."""


class _Run:
    """What the threads share: a queue before each of them, and the first error."""

    def __init__(self, source: Source, size: int, check_piece: Check, cancel: threading.Event) -> None:
        self.free: SimpleQueue[Buffer | None] = SimpleQueue()
        self.filled: SimpleQueue[_Piece | None] = SimpleQueue()
        self.checked: SimpleQueue[_Piece | None] = SimpleQueue()
        self.written: SimpleQueue[_Piece | None] = SimpleQueue()
        self.size = size
        self.error: AgentError | None = None
        self._source, self._check_piece, self._cancel = source, check_piece, cancel
        self._lock = threading.Lock()

    def guard(self, work: Callable[[], None]) -> None:
        """Do the work of a thread; if it fails, wake and end the others."""
        try:
            work()
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
        error, self.error = self.error, None
        try:
            if error is not None:
                raise error
        finally:
            del error

    def step(self) -> None:
        """Raises Cancelled, or _Stopped if another thread failed."""
        if self.error is not None:
            raise _Stopped
        check(self._cancel)

    def read(self) -> None:
        for offset in range(0, self.size, BUFFER_BYTES):
            buffer = self.free.get()
            self.step()
            if buffer is None:
                raise _Stopped
            size = min(BUFFER_BYTES, self.size - offset)
            self._fill(buffer.view[:size], offset)
            self.filled.put(_Piece(buffer, offset, size))
        self._source.finish()

    def check(self) -> None:
        for _ in range(0, self.size, BUFFER_BYTES):
            piece = self.filled.get()
            self.step()
            if piece is None:
                raise _Stopped
            self._check_piece(piece.buffer.view[: piece.size], piece.offset)
            self.checked.put(piece)

    def _fill(self, view: memoryview, offset: int) -> None:
        done = 0
        while done < len(view):
            self.step()
            try:
                count = self._source.read(view[done:], offset + done)
            except OSError as error:
                raise AgentError(
                    f"{self._source.name} cannot be read at byte {offset + done}: {error.strerror}."
                ) from error
            if not count:
                raise Truncated(
                    f"{self._source.name} ends at byte {offset + done}, {self.size - offset - done} bytes "
                    "early; copy or download it again."
                )
            done += count

    def _fail(self, error: AgentError) -> None:
        with self._lock:
            if self.error is None:
                self.error = error
        self.free.put(None)
        self.filled.put(None)
        self.checked.put(None)
        self.written.put(None)


class _Writer:
    """Writes pieces, and proves in batches what was written; each with a thread of its own."""

    def __init__(self, run: _Run, medium: Medium, advance: Advance) -> None:
        self.written_bytes = self.zero_bytes = 0
        self._run, self._medium, self._advance = run, medium, advance
        self._scratch, self._zeros = Buffer(BUFFER_BYTES), Buffer(_ZERO_STEP_BYTES)

    def write(self) -> None:
        for _ in range(0, self._run.size, BUFFER_BYTES):
            piece = self._run.checked.get()
            self._run.step()
            if piece is None:
                raise _Stopped
            self._put(piece)
            self._run.written.put(piece)

    def prove(self) -> None:
        """The work of the caller's thread."""
        batch: list[_Piece] = []
        for _ in range(0, self._run.size, BUFFER_BYTES):
            piece = self._run.written.get()
            self._run.step()
            if piece is None:
                raise _Stopped
            batch.append(piece)
            if len(batch) == BATCH_BUFFERS:
                self._prove(batch)
        self._prove(batch)

    def _put(self, piece: _Piece) -> None:
        done = 0
        for offset, length in zero_runs(
            piece.buffer, piece.size, self._zeros, step=_ZERO_STEP_BYTES, least=ZERO_RUN_BYTES
        ):
            if self._medium.punch(piece.offset + offset, length):
                self._write(piece, done, offset)
                self.zero_bytes += length
                done = offset + length
        self._write(piece, done, piece.size)

    def _write(self, piece: _Piece, begin: int, end: int) -> None:
        if begin < end:
            self._medium.write(piece.buffer.view[begin:end], piece.offset + begin)
            self.written_bytes += end - begin

    def _prove(self, batch: list[_Piece]) -> None:
        if batch:
            self._medium.flush()
        for piece in batch:
            self._run.step()
            self._medium.compare(piece.buffer, piece.size, piece.offset, self._scratch)
            self._run.free.put(piece.buffer)
            self._advance(piece.size)
        batch.clear()
