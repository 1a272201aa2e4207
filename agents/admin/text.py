# SPDX-License-Identifier: Apache-2.0
"""Tables, time spans and counts for people, beside what common.text has for all programs."""

from collections.abc import Sequence

from common.text import clean, fields, size, timestamp

__all__ = ["clean", "count", "fields", "size", "span", "table", "timestamp"]


def span(seconds: float) -> str:
    """Return a time span in one or two units: "45 s", "3 min 20 s", "2 h 5 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (0 if hours else rest, "s")]
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or "0 s"


def count(number: int, one: str, many: str) -> str:
    """Return "1 try", "3 tries"."""
    return f"{number} {one if number == 1 else many}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of equal length as lines with aligned columns, with a line break at the end."""
    cleaned = [[clean(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cleaned, strict=True)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n"
        for row in cleaned
    )
