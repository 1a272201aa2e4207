# SPDX-License-Identifier: Apache-2.0
"""Lines, tables, times and counts for people. No control character of a value reaches the terminal."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def timestamp(usec: int) -> str:
    """Return a time (microseconds since 1970 UTC) as systemctl shows it, in the local time zone."""
    try:
        moment = datetime.fromtimestamp(usec / 1_000_000, tz=UTC).astimezone()
    except (OverflowError, ValueError):
        return f"@{usec}"  # a clock that was far off; systemd writes times that are no dates like this

    return moment.strftime("%a %Y-%m-%d %H:%M:%S %Z")


def span(seconds: float) -> str:
    """Return a time span in one or two units: "45 s", "3 min 20 s", "2 h 5 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (0 if hours else rest, "s")]
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or "0 s"


def size(count_bytes: float) -> str:
    """Return a number of bytes with a binary unit: "1.5 GiB"."""
    for unit in _UNITS[:-1]:
        if count_bytes < 1024:
            return f"{count_bytes:.0f} {unit}" if unit == "B" else f"{count_bytes:.1f} {unit}"
        count_bytes /= 1024

    return f"{count_bytes:.1f} {_UNITS[-1]}"


def count(number: int, one: str, many: str) -> str:
    """Return "1 try", "3 tries"."""
    return f"{number} {one if number == 1 else many}"


def fields(values: Iterable[tuple[str, str]]) -> str:
    """Return labels and values as aligned lines, without a line break at the end."""
    return "\n".join(f"{label:>15}: {clean(value)}" for label, value in values)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of equal length as lines with aligned columns, with a line break at the end."""
    cleaned = [[clean(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cleaned, strict=True)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n"
        for row in cleaned
    )


def clean(value: str) -> str:
    """Replace control characters: texts of checks, tools and images must not steer the terminal."""
    return "".join(character if character.isprintable() else " " for character in value)
