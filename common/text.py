# SPDX-License-Identifier: Apache-2.0
"""Values for people, as every program of ours prints them. No control character reaches the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def timestamp(usec: int) -> str:
    """Return a time (microseconds since 1970 UTC) as systemctl shows it, in the local time zone."""
    try:
        moment = datetime.fromtimestamp(usec / 1_000_000, tz=UTC).astimezone()
    except (OverflowError, ValueError):
        return f"@{usec}"  # a clock that was far off; systemd writes times that are no dates like this

    return moment.strftime("%a %Y-%m-%d %H:%M:%S %Z")


def size(count_bytes: float) -> str:
    """Return a number of bytes with a binary unit: "1.5 GiB"."""
    for unit in _UNITS[:-1]:
        if count_bytes < 1024:
            return f"{count_bytes:.0f} {unit}" if unit == "B" else f"{count_bytes:.1f} {unit}"
        count_bytes /= 1024

    return f"{count_bytes:.1f} {_UNITS[-1]}"


def fields(values: Iterable[tuple[str, str]]) -> str:
    """Return labels and values as aligned lines, without a line break at the end."""
    return "\n".join(f"{label:>15}: {clean(value)}" for label, value in values)


def clean(value: str) -> str:
    """Replace control characters: texts of checks, tools and images must not steer the terminal."""
    return "".join(character if character.isprintable() else " " for character in value)
