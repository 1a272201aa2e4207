# SPDX-License-Identifier: Apache-2.0
"""The progress of an install: a bar on a terminal, a line for each stage elsewhere, nothing beside JSON."""

import shutil
from typing import Protocol, TextIO

from agents.admin import text
from agents.admin.cli import Json
from agents.admin.model import UNKNOWN_USEC, Job

_STAGES = {
    "check": "Checking",
    "verify": "Verifying",
    "write": "Writing",
    "entry": "Making bootable",
    "done": "Done",
}
_CLEAR_LINE = "\r\x1b[K"


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
    """Stage, bar, percent, bytes, rate and time left on one line that is drawn again and again."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def update(self, job: Job) -> None:
        line = bar_text(job, shutil.get_terminal_size().columns)
        print(_CLEAR_LINE + line, end="", file=self._stream, flush=True)

    def close(self) -> None:
        print(_CLEAR_LINE, end="", file=self._stream, flush=True)


class _Silent:
    def update(self, job: Job) -> None:
        pass

    def close(self) -> None:
        pass


def stage_text(stage: str) -> str:
    """Return the name of a stage in words."""
    return _STAGES.get(stage, stage)


def bar_text(job: Job, columns: int) -> str:
    """Return one line of at most `columns - 1` characters; what does not fit is left out from the right."""
    left = f"{stage_text(job.stage):<15} "
    right = f" {job.progress * 100:5.1f}%"
    extras = []
    if job.bytes_total:
        extras.append(f"  {text.size(job.bytes_done)} of {text.size(job.bytes_total)}")
    if job.rate:
        extras.append(f"  {text.size(job.rate)}/s")
    if job.remaining_usec != UNKNOWN_USEC:
        extras.append(f"  {text.span(job.remaining_usec / 1_000_000)} left")
    for extra in extras:
        if len(left) + len(right) + len(extra) >= columns - 12:
            break
        right += extra

    width = min(40, columns - 1 - len(left) - len(right) - 2)
    if width < 4:
        return (left.rstrip() + right)[: columns - 1]

    filled = int(width * job.progress)
    return f"{left}[{'#' * filled}{'.' * (width - filled)}]{right}"
