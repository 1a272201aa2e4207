# SPDX-License-Identifier: Apache-2.0
"""The progress of an install."""

import io
from typing import Any

import pytest

from agents.admin import text
from agents.admin.cli import Json
from agents.admin.model import Job
from agents.admin.progress import Bar, Lines, bar_text, progress

MIB = 1 << 20


def job(stage: str, done: int = 0, total: int = 0, share: float = 0.0, **more: Any) -> Job:
    return Job(slot="b", stage=stage, bytes_done=done, bytes_total=total, progress=share, **more)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_each_stage_is_one_line() -> None:
    stream = io.StringIO()
    shown = progress(stream, Json.OFF)
    for each in (job("check"), job("write", 0, 3 * MIB), job("write", MIB, 3 * MIB), job("done")):
        shown.update(each)
    shown.close()

    assert isinstance(shown, Lines)
    assert stream.getvalue() == "Checking\nWriting\n"


def test_terminal_gets_a_bar_that_is_wiped_at_the_end() -> None:
    stream = Terminal()
    shown = progress(stream, Json.OFF)
    shown.update(job("write", MIB, 2 * MIB, 0.5))
    shown.close()

    assert isinstance(shown, Bar)
    assert " 50.0%" in stream.getvalue()
    assert stream.getvalue().endswith("\r\x1b[K")


def test_json_output_is_not_mixed_with_progress() -> None:
    stream = Terminal()
    shown = progress(stream, Json.SHORT)
    shown.update(job("write", MIB, 2 * MIB, 0.5))
    shown.close()

    assert stream.getvalue() == ""


def test_bar_shows_stage_percent_bytes_rate_and_time_left() -> None:
    writing = job("write", 512 * MIB, 1024 * MIB, 0.5, rate=100 * MIB, remaining_usec=5_120_000)

    assert bar_text(writing, 120) == (
        "Writing         [####################....................]  50.0%"
        "  512.0 MiB of 1.0 GiB  100.0 MiB/s  5 s left"
    )


def test_bar_says_nothing_about_a_rate_and_a_time_that_nobody_knows() -> None:
    assert bar_text(job("write", MIB, 2 * MIB, 0.5), 120).endswith("]  50.0%  1.0 MiB of 2.0 MiB")


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 200])
def test_bar_never_fills_the_last_column(columns: int) -> None:
    line = bar_text(job("write", 5 * MIB, 9 * MIB, 0.7, rate=3 * MIB, remaining_usec=9_000_000), columns)

    assert len(line) < columns
    assert line.startswith("Writing")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (200, "3 min 20 s"), (3600, "1 h"), (7530, "2 h 5 min")],
)
def test_time_spans_have_at_most_two_units(seconds: float, words: str) -> None:
    assert text.span(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 40, "3.0 TiB"), (1 << 53, "8192.0 TiB")],
)
def test_sizes_have_binary_units(count: int, words: str) -> None:
    assert text.size(count) == words
