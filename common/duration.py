# SPDX-License-Identifier: Apache-2.0
"""Time spans as administrators write them in units (systemd.time(7), "Parsing Time Spans"), and times."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

_SEC_BY_UNIT: Final[dict[str, float]] = {
    **dict.fromkeys(("usec", "us", "µs"), 1e-6),
    **dict.fromkeys(("msec", "ms"), 1e-3),
    **dict.fromkeys(("seconds", "second", "sec", "s", ""), 1.0),
    **dict.fromkeys(("minutes", "minute", "min", "m"), 60.0),
    **dict.fromkeys(("hours", "hour", "hr", "h"), 3600.0),
    **dict.fromkeys(("days", "day", "d"), 86400.0),
    **dict.fromkeys(("weeks", "week", "w"), 604800.0),
}
_PART: Final = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([a-zµ]*)", re.ASCII)
_DAY_SEC: Final = 86400
_TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


def parse_sec(text: str) -> float:
    """Return the seconds of "90", "10s", "5min" or "1h 30min"; a number without a unit is seconds.

    Units are those of systemd.time(7) up to weeks. Raises ValueError.
    """
    position = 0
    seconds = 0.0
    stripped = text.strip()
    while position < len(stripped) or position == 0:
        part = _PART.match(stripped, position)
        if part is None or part[2] not in _SEC_BY_UNIT:
            raise ValueError(f"{text!r} is not a time span")
        seconds += float(part[1]) * _SEC_BY_UNIT[part[2]]
        position = part.end()
    return seconds


def parse_time_sec(text: str, *, end_of_day: bool = False) -> int:
    """Return the seconds since 1970 of "2026-11-23" or "2026-11-23T12:00:00Z", both in UTC.

    A date alone is its first second, or its last one with end_of_day. Raises ValueError.
    """
    stripped = text.strip()
    if _DATE.fullmatch(stripped):
        seconds = _seconds(stripped, "%Y-%m-%d") + (_DAY_SEC - 1 if end_of_day else 0)
    elif _TIME.fullmatch(stripped):
        seconds = _seconds(stripped, _TIME_FORMAT)
    else:
        raise ValueError(f"{text!r} is not a time in UTC")
    if seconds < 0:
        raise ValueError(f"{text!r} lies before 1970")
    return seconds


def format_time(seconds: int) -> str:
    """Return seconds since 1970 as "2026-11-23T12:00:00Z"."""
    return datetime.fromtimestamp(seconds, UTC).strftime(_TIME_FORMAT)


def _seconds(text: str, form: str) -> int:
    return int(datetime.strptime(text, form).replace(tzinfo=UTC).timestamp())
