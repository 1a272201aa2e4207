# SPDX-License-Identifier: Apache-2.0
"""The progress of an install."""

import io

import pytest

from agents.admin.cli import Json
from agents.admin.model import Job
from agents.admin.progress import Bar, Lines, Rate, bar_text, bytes_text, progress

MIB = 1 << 20


def job(stage: str, done: int = 0, total: int = 0, share: float = 0.0) -> Job:
    return Job("b", stage, share, done, total, "", "", "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


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


def test_bar_shows_stage_percent_bytes_and_rate() -> None:
    line = bar_text(job("write", 512 * MIB, 1024 * MIB, 0.5), 100.0 * MIB, 120)

    assert line == (
        "Writing         [####################....................]  50.0%"
        "  512.0 MiB of 1.0 GiB  100.0 MiB/s"
    )


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 200])
def test_bar_never_fills_the_last_column(columns: int) -> None:
    line = bar_text(job("readback", 5 * MIB, 9 * MIB, 0.7), 3.0 * MIB, columns)

    assert len(line) < columns
    assert line.startswith("Reading back")


def test_rate_is_that_of_the_last_seconds() -> None:
    clock = Clock()
    rate = Rate(clock)
    rate.add(0)
    for second in range(1, 11):
        clock.now = 100.0 + second
        measured = rate.add(second * 10 if second < 6 else 50 + (second - 5) * 100)

    assert measured == pytest.approx(100.0)


def test_rate_starts_again_with_a_stage_that_counts_from_zero() -> None:
    clock = Clock()
    rate = Rate(clock)
    rate.add(1000)
    clock.now += 1

    assert rate.add(10) == 0.0


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 40, "3.0 TiB"), (1 << 53, "8192.0 TiB")],
)
def test_sizes_have_binary_units(count: int, text: str) -> None:
    assert bytes_text(count) == text
