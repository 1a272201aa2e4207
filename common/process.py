# SPDX-License-Identifier: Apache-2.0
"""The only way to start another program: explicit arguments and environment, a time limit, bounded output.

Each program gets a process group of its own, which is killed as a whole when its time is over. There is no
shell, and nothing of our own environment is passed on.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from common.errors import AgentError

BASE_ENVIRONMENT: Final[Mapping[str, str]] = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
}
MAX_STDERR_BYTES: Final = 64 * 1024
"""Of standard error the last part is kept."""

_CHUNK_BYTES: Final = 64 * 1024
_PIPE_BYTES: Final = 1 << 20
_DRAIN_SEC: Final = 5.0


@dataclass(frozen=True, slots=True)
class Completed:
    """A program that has ended. returncode: exit status, or minus the number of the signal that hit it."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: str


class ProcessError(AgentError):
    """A program could not be started, took too long, wrote too much, or ended with an unexpected status.

    ``completed`` is the ended program, None if it could not be started or had to be killed.
    """

    def __init__(self, sentence: str, completed: Completed | None = None) -> None:
        super().__init__(sentence)
        self.completed = completed


def run(
    argv: Sequence[str],
    *,
    timeout_sec: float,
    env: Mapping[str, str] = {},
    stdin: bytes = b"",
    success: Container[int] | None = (0,),
    pass_fds: Sequence[int] = (),
    cwd: Path | None = None,
    max_output_bytes: int = 1 << 20,
) -> Completed:
    """Run a program to its end and return what it said.

    env: added to BASE_ENVIRONMENT. stdin: bytes for its standard input, which is empty otherwise. success:
    exit statuses that are no error, None for any. Raises ProcessError.
    """
    with Feeder(
        argv,
        timeout_sec=timeout_sec,
        env=env,
        pass_fds=pass_fds,
        cwd=cwd,
        max_output_bytes=max_output_bytes,
    ) as feeder:
        feeder.write(stdin)
        completed = feeder.finish()
    if success is not None and completed.returncode not in success:
        raise ProcessError(_failure(completed), completed)
    return completed


class Feeder:
    """A running program that reads a stream from us; a context manager, leaving it ends the program."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        timeout_sec: float,
        env: Mapping[str, str] = {},
        pass_fds: Sequence[int] = (),
        cwd: Path | None = None,
        max_output_bytes: int = 1 << 20,
    ) -> None:
        """Start the program; timeout_sec counts from now to its end. Raises ProcessError if that fails."""
        self.argv = tuple(argv)
        self.broken = False
        """Whether the program stopped reading before all was written."""
        self._command = shlex.join(self.argv)
        self._timeout_sec = timeout_sec
        self._max_output_bytes = max_output_bytes
        self._timed_out = False
        self._too_much = False
        self._stdout = bytearray()
        self._stderr = bytearray()
        try:
            self._process = subprocess.Popen(
                self.argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**BASE_ENVIRONMENT, **env},
                pass_fds=pass_fds,
                cwd=cwd,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            raise ProcessError(f"Cannot start '{self._command}': {error.strerror}.") from error
        self._widen_stdin()
        self._timer = threading.Timer(timeout_sec, self._expire)
        self._timer.daemon = True
        self._readers = [
            threading.Thread(target=self._read, args=(self._process.stdout, self._keep_stdout), daemon=True),
            threading.Thread(target=self._read, args=(self._process.stderr, self._keep_stderr), daemon=True),
        ]
        for thread in (self._timer, *self._readers):
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_stdin()
        self._kill()
        self._reap()

    def write(self, data: bytes | memoryview) -> None:
        """Write all of data; if the program no longer reads, set ``broken`` instead of raising."""
        assert self._process.stdin is not None
        rest = memoryview(data)
        while rest and not self.broken:
            try:
                rest = rest[os.write(self._process.stdin.fileno(), rest) :]
            except BrokenPipeError:
                self.broken = True

    def finish(self) -> Completed:
        """Close the stream, wait for the end and return the result, whatever the exit status is.

        Raises ProcessError if the program took longer than timeout_sec or wrote more than max_output_bytes.
        """
        self._close_stdin()
        self._process.wait()
        self._reap()
        if self._too_much:
            limit = self._max_output_bytes
            raise ProcessError(f"'{self._command}' wrote more than {limit} bytes and was killed.")
        if self._timed_out:
            raise ProcessError(f"'{self._command}' took longer than {self._timeout_sec:g} s and was killed.")
        return Completed(
            self.argv, self._process.returncode, bytes(self._stdout), self._stderr.decode("utf-8", "replace")
        )

    def _widen_stdin(self) -> None:
        """Let the program work on one chunk while we prepare the next; without it the two take turns."""
        assert self._process.stdin is not None
        # Refused above the user's share of pipe buffers (pipe(7)); the program then merely runs slower.
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._process.stdin, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def _reap(self) -> None:
        self._process.wait()
        self._timer.cancel()
        for thread in self._readers:
            # A child that left the process group may still hold the pipe; its output is not waited for.
            thread.join(_DRAIN_SEC)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None and not any(thread.is_alive() for thread in self._readers):
                stream.close()

    def _close_stdin(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _expire(self) -> None:
        self._timed_out = True
        self._kill()

    def _kill(self) -> None:
        # While the leader is not reaped its number cannot be taken by another group.
        if self._process.returncode is None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                return

    def _read(self, stream: IO[bytes], keep: Callable[[bytes], None]) -> None:
        while chunk := stream.read(_CHUNK_BYTES):
            keep(chunk)

    def _keep_stdout(self, chunk: bytes) -> None:
        if len(self._stdout) + len(chunk) > self._max_output_bytes:
            self._too_much = True
            self._kill()
        else:
            self._stdout += chunk

    def _keep_stderr(self, chunk: bytes) -> None:
        self._stderr += chunk
        del self._stderr[:-MAX_STDERR_BYTES]


def _failure(completed: Completed) -> str:
    command = shlex.join(completed.argv)
    if completed.returncode < 0:
        how = f"was killed by {_signal_name(-completed.returncode)}"
    else:
        how = f"failed with status {completed.returncode}"
    lines = [line.strip() for line in completed.stderr.splitlines() if line.strip()]
    return f"'{command}' {how}: {lines[-1].rstrip('.')}." if lines else f"'{command}' {how}."


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
