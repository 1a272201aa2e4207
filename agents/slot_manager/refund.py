# SPDX-License-Identifier: Apache-2.0
"""Gives a trial its try back when somebody shut the machine down before there was a verdict.

A trial has few tries, and they are for boots that went wrong. An administrator who reboots or powers off
during one must not use them up: the slot would be condemned and nobody would know why. Two such boots in one
trial are forgiven, no more: a system whose own units reboot it looks the same from here.

hypernet-slot-manager-attempt.service runs this when it is stopped. A panic, a hang, a reset and a reboot by
force stop no unit, so none of them gets here.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from agents.slot_manager import messages
from agents.slot_manager.machine import Machine
from agents.slot_manager.record import Record
from agents.slot_manager.state import State, is_exhausted_boot
from common import files, journal, paths, process
from common.errors import AgentError

MAX_REFUNDS = 2
REPORT = paths.RUNTIME / "health.json"
MAX_REPORT_BYTES = 4 << 20

_NO_VERDICT = ("unknown", "checking", "healthy")
"""States of the health report with no verdict against the slot; a healthy one is not blessed yet."""


def is_shutting_down() -> bool:
    """Whether systemd stops everything, to reboot or to power off. Raises ProcessError."""
    # Not over the system bus, which is being stopped, too: systemctl speaks to systemd directly.
    done = process.run(["systemctl", "list-jobs", "--no-legend", "--plain"], timeout_sec=10)
    jobs = [line.split()[1:3] for line in done.stdout.decode("utf-8", "replace").splitlines()]
    return ["shutdown.target", "start"] in jobs


def is_undecided(report: Path = REPORT) -> bool:
    """Whether boot-health has no verdict against this boot; a report that cannot be read is no verdict for
    it either.

    A boot that is degraded because of checks of which none is required is good, and is blessed, too.
    """
    try:
        known = json.loads(files.read_bounded(report, MAX_REPORT_BYTES))
        if known["state"] != "degraded":
            return known["state"] in _NO_VERDICT
        failed = [check["required"] for check in known["checks"] if check["result"] != "passed"]
    except files.FileMissing:
        return True
    except (AgentError, ValueError, KeyError, TypeError, RecursionError):
        return False
    return bool(failed) and not any(failed)


def refund(machine: Machine, boot_id: str) -> bool:
    """Take this boot of a trial out of the loader's count and ours; the caller holds the machine's lock.

    Returns whether that was done. Raises AgentError if slots or record cannot be read or written.
    """
    view = machine.view()
    booted, root_hash = view.booted, view.booted.root_hash
    entry = booted.entry
    if booted.state is not State.TRYING or entry is None or is_exhausted_boot(view.facts):
        return False
    given = view.record.refunds.get(root_hash, 0)
    if given >= MAX_REFUNDS:
        journal.send(
            f"The machine is shut down before the trial of {booted.version} (slot {booted.name}) has a "
            f"verdict, and {MAX_REFUNDS} such boots were forgiven already: this one is a failed try.",
            priority=journal.WARNING,
            message_id=messages.TRY_KEPT,
            slot=booted.name,
            version=booted.version,
        )
        return False
    # The record first: a power cut between the two must not make room for one more.
    machine.store.save(_with_refund(view.record, root_hash, boot_id))
    if view.facts.counted and entry.tries_done:
        machine.loader.set_tries(entry, entry.tries_left + 1, entry.tries_done - 1)
    journal.send(
        f"The machine is shut down before the trial of {booted.version} (slot {booted.name}) has a verdict; "
        "this boot of it does not count.",
        priority=journal.NOTICE,
        message_id=messages.TRY_GIVEN_BACK,
        slot=booted.name,
        version=booted.version,
    )
    return True


def _with_refund(record: Record, root_hash: str, boot_id: str) -> Record:
    refunds = {**record.refunds, root_hash: record.refunds.get(root_hash, 0) + 1}
    attempts = dict(record.attempts)
    if record.attempt_boot_id == boot_id and attempts.get(root_hash):
        attempts[root_hash] -= 1
    return replace(record, refunds=refunds, attempts=attempts)
