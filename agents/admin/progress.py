# SPDX-License-Identifier: Apache-2.0
"""The progress of an install: a bar on a terminal, a line for each stage elsewhere, nothing beside JSON."""

import shutil
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol, TextIO

from agents.admin.cli import Json
from agents.admin.model import Job

_STAGES = {
    "check": "Checking",
    "verify": "Verifying",
    "write": "Writing",
    "readback": "Reading back",
    "entry": "Making bootable",
    "done": "Done",
}
_RATE_WINDOW_SEC = 3.0
_CLEAR_LINE = "\r\x1b[K"
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


class Progress(Protocol):
    """Shows how far a job is."""

    def update(self, job: Job) -> None:
        """Show the present state of the job."""

    def close(self) -> None:
        """Leave the terminal ready for the text that follows."""


def progress(stream: TextIO, json: Json) -> Progress:
    """Return the kind of progress that suits `stream` and the output mode."""
    if json.enabled:
        return _Silent()

    return Bar(stream) if stream.isatty() else Lines(stream)


class Lines:
    """One plain line whenever the job enters a new stage: for logs and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._stage = ""

    def update(self, job: Job) -> None:
        if job.stage in ("", "done", self._stage):
            return

        self._stage = job.stage
        print(stage_text(job.stage), file=self._stream, flush=True)

    def close(self) -> None:
        pass


class Bar:
    """Stage, bar, percent, bytes and rate on one line that is drawn again and again."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._rate = Rate(clock)

    def update(self, job: Job) -> None:
        line = bar_text(job, self._rate.add(job.bytes_done), shutil.get_terminal_size().columns)
        print(_CLEAR_LINE + line, end="", file=self._stream, flush=True)

    def close(self) -> None:
        print(_CLEAR_LINE, end="", file=self._stream, flush=True)


class _Silent:
    def update(self, job: Job) -> None:
        pass

    def close(self) -> None:
        pass


class Rate:
    """Bytes a second over the last few seconds. `clock` gives seconds and never goes back."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, bytes_done: int) -> float:
        """Take a sample and return the present rate; 0.0 while there is only one sample."""
        now = self._clock()
        if self._samples and bytes_done < self._samples[-1][1]:
            self._samples.clear()  # a new stage counts from the start again
        self._samples.append((now, bytes_done))
        while len(self._samples) > 2 and now - self._samples[0][0] > _RATE_WINDOW_SEC:
            self._samples.popleft()

        first_time, first_bytes = self._samples[0]
        return (bytes_done - first_bytes) / (now - first_time) if now > first_time else 0.0


def stage_text(stage: str) -> str:
    """Return the name of a stage in words."""
    return _STAGES.get(stage, stage)


def bytes_text(count: float) -> str:
    """Return a number of bytes with a binary unit: "1.5 GiB"."""
    for unit in _UNITS[:-1]:
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024

    return f"{count:.1f} {_UNITS[-1]}"


def bar_text(job: Job, bytes_per_sec: float, columns: int) -> str:
    """Return one line of at most `columns - 1` characters; what does not fit is left out from the right."""
    left = f"{stage_text(job.stage):<15} "
    right = f" {job.progress * 100:5.1f}%"
    extras = []
    if job.bytes_total:
        extras.append(f"  {bytes_text(job.bytes_done)} of {bytes_text(job.bytes_total)}")
    if bytes_per_sec > 0:
        extras.append(f"  {bytes_text(bytes_per_sec)}/s")
    for extra in extras:
        if len(left) + len(right) + len(extra) < columns - 12:
            right += extra

    width = min(40, columns - 1 - len(left) - len(right) - 2)
    if width < 4:
        return (left.rstrip() + right)[: columns - 1]

    filled = int(width * job.progress)
    return f"{left}[{'#' * filled}{'.' * (width - filled)}]{right}"
