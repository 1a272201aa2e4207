# SPDX-License-Identifier: Apache-2.0
"""Our own count of the boots of a slot on trial, beside the boot loader's.

Loaders were seen that start an entry without taking a try (systemd-boot 258 and 259), so a trial that never
reaches a verdict would go on for ever. A slot that was good once is not counted: quick power cuts say
nothing about it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from agents.slot_manager import lifecycle
from agents.slot_manager.loader import TRIAL_TRIES
from agents.slot_manager.machine import Machine, View
from agents.slot_manager.state import State
from common import files, journal

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id(path: Path = BOOT_ID) -> str:
    """The name of this boot, 32 hex digits. Raises FileError."""
    return files.read_bounded(path, 64).decode("ascii", errors="replace").strip().replace("-", "")


def count_attempt(machine: Machine, boot_id: str) -> bool:
    """Count this boot if it is one of a trial, once for each `boot_id`; else see whether it follows a trial
    that failed. The caller holds the machine's lock.

    True: the slot has used up its budget, it was marked bad and the other one is the default, so reboot now.
    Raises AgentError if slots or record cannot be read or written.
    """
    view = machine.view()
    root_hash = view.booted.root_hash
    if not _is_on_trial(view):
        lifecycle.close_failed_trial(machine, view)
        return False
    record = view.record
    if record.attempt_boot_id != boot_id:
        count = record.attempts.get(root_hash, 0) + 1
        record = replace(record, attempts={**record.attempts, root_hash: count}, attempt_boot_id=boot_id)
        machine.store.save(record)
    count = record.attempts.get(root_hash, 0)
    if count <= TRIAL_TRIES:
        return False
    if view.other.state is not State.GOOD:
        journal.send(
            f"Slot {view.booted.name} was started {count} times without a good verdict, and slot "
            f"{view.other.name} is '{view.other.state}': there is nowhere to go back to.",
            priority=journal.WARNING,
            slot=view.booted.name,
        )
        return False
    lifecycle.rollback(
        machine,
        f"was started {count} times without a good verdict, {TRIAL_TRIES} are allowed; the boot loader had "
        f"counted {view.booted.tries_done}",
    )
    return True


def _is_on_trial(view: View) -> bool:
    """Whether the running slot has no verdict yet, however the loader came to start it."""
    booted, pending = view.booted, view.record.pending
    if booted.state is State.TRYING:
        return True
    expected = pending is not None and pending.root_hash == booted.root_hash != ""
    return booted.state is State.BAD and expected and booted.root_hash not in view.record.reasons
