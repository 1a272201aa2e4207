# SPDX-License-Identifier: Apache-2.0
"""Time spans as administrators write them in units, see systemd.time(7), "Parsing Time Spans"."""

from __future__ import annotations

import re
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
