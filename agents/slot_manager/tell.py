# SPDX-License-Identifier: Apache-2.0
"""What the alerter is told of, for people who look at no screen: hypernet-alerter.service(8)."""

from __future__ import annotations

from typing import Final

from agents.slot_manager import motd
from agents.slot_manager.record import Record, Store
from common import files, journal
from common.alerts import Kind, raise_alert
from common.errors import AgentError, Busy, Cancelled, Internal

_TOLD: Final = "rollback-told"


def rolled_back(store: Store, record: Record, booted: str) -> None:
    """Show the last rollback at login, and raise one alert for it in the slot that it led to, since what is
    raised before may get lost.
    """
    try:
        motd.write(record)
    except AgentError as error:
        journal.send(str(error), priority=journal.WARNING)
    last = motd.current_rollback(record)
    if last is None or last.to_slot != booted:
        return
    told = store.folder / _TOLD
    mark = str(last.since_usec).encode()
    try:
        if told.exists() and files.read_bounded(told, 64) == mark:
            return
        details = {
            "from": f"{last.from_version} (slot {last.from_slot})",
            "to": f"{last.to_version} (slot {last.to_slot})",
            "reason": last.reason,
        }
        summary = f"The machine went back from {last.from_version} to {last.to_version}: {last.reason}"
        if raise_alert(Kind.ROLLED_BACK, summary, details):
            files.write_atomic(told, mark, mode=0o600)
    except AgentError as error:
        journal.send(f"The rollback may be told of twice: {error}", priority=journal.WARNING)


def not_blessed(error: Exception) -> None:
    """Tell of a good boot that could not be recorded: in a trial, the boot loader goes on counting."""
    told = error if isinstance(error, AgentError) else Internal("slot-manager")
    raise_alert(Kind.BOOT_DEGRADED, f"This boot is good, but that could not be recorded: {told}")


def update_failed(source: str, owner: str, error: AgentError) -> None:
    """Tell of an install that failed or was refused; who cancels one, or gets told to wait, knows that."""
    if isinstance(error, Cancelled | Busy):
        return
    details = {"source": source, "started by": owner, "error": error.dbus_name}
    raise_alert(Kind.UPDATE_FAILED, f"An update could not be installed: {error}", details)
