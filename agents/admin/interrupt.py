# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C while an update runs, and the one question that it leads to."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator

_QUESTION = "Cancel the update? [y/N] "


class Interrupts:
    """The first Ctrl-C sets `asked`, the second one cancels the running task and sets `given_up`."""

    def __init__(self) -> None:
        self.asked = False
        self.given_up = False


@contextlib.contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Count Ctrl-C for the task that enters this context."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    seen = Interrupts()
    # asyncio's own, which ends the main task. The interpreter's would interrupt the loop itself, and what
    # the tasks do then on a closed connection ends in tracebacks.
    usual = signal.getsignal(signal.SIGINT)

    def handle() -> None:
        if not seen.asked:
            seen.asked = True
        elif task is not None:
            seen.given_up = True
            task.cancel()

    loop.add_signal_handler(signal.SIGINT, handle)
    try:
        yield seen
    finally:
        if loop.remove_signal_handler(signal.SIGINT):
            signal.signal(signal.SIGINT, usual)


class Question:
    """Asks on the terminal whether to cancel. `answer` is None until a line was typed."""

    def __init__(self) -> None:
        self.answer: bool | None = None
        self._input = sys.stdin.fileno()
        print(_QUESTION, end="", file=sys.stderr, flush=True)
        asyncio.get_running_loop().add_reader(self._input, self._on_line)

    def close(self) -> None:
        """Stop waiting for an answer."""
        asyncio.get_running_loop().remove_reader(self._input)
        if self.answer is None:
            print(file=sys.stderr)

    def _on_line(self) -> None:
        # Without a line (end of file) nothing is cancelled.
        self.answer = os.read(self._input, 1024).strip().lower() in (b"y", b"yes")
        self.close()


def can_ask() -> bool:
    """Whether a person sits there: both ends of the question are a terminal."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()
