# SPDX-License-Identifier: Apache-2.0
"""Built-in check ``secrets``: the unit that opens the secrets has not failed."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agents.boot_health.builtins.outcome import Outcome, Probe
from common import config

if TYPE_CHECKING:
    from common.bus import Client

UNIT: Final = "hypernet-secrets-unsealer.service"
_NAME: Final = "org.freedesktop.systemd1"
_PATH: Final = "/org/freedesktop/systemd1"
_POLL_SEC: Final = 0.5


@dataclass(frozen=True, slots=True)
class UnitState:
    """load: not-found, loaded, masked, ... active: active, inactive, activating, failed, ..."""

    load: str
    active: str


def build(_section: config.Section) -> Probe:
    """Return the check, which has no options."""

    def probe(limit_sec: float) -> Outcome:
        return asyncio.run(_probe(limit_sec))

    return probe


def judge(state: UnitState) -> Outcome:
    """Say what the state of the unit means."""
    if state.load == "not-found":
        return Outcome(True, f"This system has no {UNIT}: there are no secrets to open.")
    if state.load != "loaded":
        return Outcome(False, f"{UNIT} cannot be started, it is {state.load}.")
    if state.active in ("active", "inactive"):
        return Outcome(True, f"{UNIT} is {state.active}.")
    return Outcome(False, f"{UNIT} is {state.active}; see 'journalctl -u {UNIT}'.")


async def _probe(limit_sec: float) -> Outcome:
    from common import bus

    end = time.monotonic() + limit_sec
    async with bus.connect() as client:
        (path,) = await client.call(_NAME, _PATH, f"{_NAME}.Manager", "LoadUnit", "s", UNIT)
        while (state := await _state(client, path)).active in ("activating", "reloading", "deactivating"):
            left_sec = end - time.monotonic()
            if left_sec <= 0:
                break
            await asyncio.sleep(min(_POLL_SEC, left_sec))
    return judge(state)


async def _state(client: Client, path: str) -> UnitState:
    interface = f"{_NAME}.Unit"
    return UnitState(
        str(await client.get_property(_NAME, path, interface, "LoadState")),
        str(await client.get_property(_NAME, path, interface, "ActiveState")),
    )
