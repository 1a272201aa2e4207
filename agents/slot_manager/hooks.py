# SPDX-License-Identifier: Apache-2.0
"""The part of other units in an update: targets that systemd reaches for us before and after it; reboots.

Units hang themselves on hypernet-pre-update.target and hypernet-post-update.target; see the files of both.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Final

from agents.slot_manager import messages
from agents.slot_manager.errors import PreUpdateFailed
from common import bus, journal
from common.errors import AgentError, Cancelled

PRE_UPDATE: Final = "hypernet-pre-update.target"
POST_UPDATE: Final = "hypernet-post-update.target"

POLL_SEC = 0.25
"""How soon a cancelled job is noticed."""

_SYSTEMD: Final = "org.freedesktop.systemd1"
_PATH: Final = "/org/freedesktop/systemd1"
_MANAGER: Final = "org.freedesktop.systemd1.Manager"
_UNIT: Final = "org.freedesktop.systemd1.Unit"

_DONE: Final = "done"


async def pre_update(client: bus.Client, cancelled: threading.Event) -> None:
    """Reach PRE_UPDATE, which takes as long as its units do. Raises PreUpdateFailed, Cancelled."""
    try:
        result = await _reach(client, PRE_UPDATE, cancelled)
        if result == _DONE:
            return
        failed = await _failed_units(client, PRE_UPDATE)
    except Cancelled:
        raise
    except AgentError as error:
        raise PreUpdateFailed(
            f"{PRE_UPDATE} could not be started, so nothing was written: {error}"
        ) from error
    if failed:
        raise PreUpdateFailed(
            f"{_listed(failed)} failed before the update, so nothing was written; see 'systemctl status "
            f"{' '.join(failed)}' and try again."
        )
    raise PreUpdateFailed(
        f"{PRE_UPDATE} was not reached ({result}), so nothing was written; see 'systemctl list-dependencies "
        f"{PRE_UPDATE}' and try again."
    )


async def post_update(client: bus.Client, slot: str) -> None:
    """Reach POST_UPDATE; the update stands whatever happens, so a failure is only logged."""
    try:
        result = await _reach(client, POST_UPDATE, threading.Event())
        if result == _DONE:
            return
        failed = await _failed_units(client, POST_UPDATE)
        what = _listed(failed) if failed else POST_UPDATE
        reason = f"{what} failed ({result})."
    except AgentError as error:
        reason = str(error)
    journal.send(
        f"Work after the update of slot {slot} failed, the update itself stands: {reason}",
        priority=journal.WARNING,
        message_id=messages.POST_UPDATE_FAILED,
        slot=slot,
        reason=reason,
    )


async def reboot(client: bus.Client) -> None:
    """Queue an orderly reboot, as 'systemctl reboot' does. Raises AgentError."""
    await client.call(_SYSTEMD, _PATH, _MANAGER, "StartUnit", "ss", "reboot.target", "replace-irreversibly")


async def _reach(client: bus.Client, target: str, cancelled: threading.Event) -> str:
    """Start a target and wait; returns the result of its job as JobRemoved tells it."""
    async with client.subscribe(_MANAGER, "JobRemoved", _PATH, sender=_SYSTEMD) as removed:
        (job,) = await client.call(_SYSTEMD, _PATH, _MANAGER, "StartUnit", "ss", target, "replace")
        while not cancelled.is_set():
            try:
                signal = await asyncio.wait_for(removed.get(), POLL_SEC)
            except TimeoutError:
                continue
            _, path, _, result = signal.args
            if path == job:
                return str(result)
        await client.call(_SYSTEMD, _PATH, _MANAGER, "StopUnit", "ss", target, "replace")
    raise Cancelled("The installation was cancelled before anything was written.")


async def _failed_units(client: bus.Client, target: str) -> list[str]:
    """Names of the failed units that a target requires; if there are none, of those that it only wants."""
    (path,) = await client.call(_SYSTEMD, _PATH, _MANAGER, "LoadUnit", "s", target)
    values = await client.get_all(_SYSTEMD, path, _UNIT)
    for keys in (("Requires", "Requisite", "BindsTo"), ("Wants",)):
        names = sorted({name for key in keys for name in values.get(key, ())})
        (units,) = await client.call(_SYSTEMD, _PATH, _MANAGER, "ListUnitsByNames", "as", names)
        failed = [str(unit[0]) for unit in units if unit[3] == "failed"]
        if failed:
            return failed
    return []


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
