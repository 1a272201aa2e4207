# SPDX-License-Identifier: Apache-2.0
"""Built-in check ``time-sync``: the kernel's clock follows a time server.

adjtimex(2) is not for sandboxes that protect the clock; systemd-timedated(8) asks it for us, whichever
program keeps the time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from agents.boot_health.builtins.outcome import Outcome, Probe
from common import config

NAME: Final = "org.freedesktop.timedate1"
PATH: Final = "/org/freedesktop/timedate1"
_POLL_SEC: Final = 1.0

Ask = Callable[[], Awaitable[object]]
"""Returns the property NTPSynchronized."""


def build(_section: config.Section) -> Probe:
    """Return the check, which has no options."""

    def probe(limit_sec: float) -> Outcome:
        return asyncio.run(_probe(limit_sec))

    return probe


async def _probe(limit_sec: float) -> Outcome:
    from common import bus

    end = time.monotonic() + limit_sec
    async with bus.connect() as client:
        return await wait(lambda: client.get_property(NAME, PATH, NAME, "NTPSynchronized"), end)


async def wait(ask: Ask, end: float, *, poll_sec: float = _POLL_SEC) -> Outcome:
    """Ask until the clock is synchronised, or until `end` (time.monotonic()). Raises what `ask` raises."""
    while await ask() is not True:
        left_sec = end - time.monotonic()
        if left_sec <= 0:
            return Outcome(False, "The clock is not synchronised; see 'timedatectl timesync-status'.")
        await asyncio.sleep(min(poll_sec, left_sec))
    return Outcome(True, "The clock is synchronised.")
