# SPDX-License-Identifier: Apache-2.0
"""Why the slots are as they are and what follows from it, in sentences. No I/O, no clock."""

from dataclasses import dataclass

from agents.admin import text
from agents.admin.model import Health, Rollback, Slot, Slots
from common.errors import EXIT_STATUS_BY_NAME

_SLOT_STATES = {
    "empty": "empty",
    "installing": "an image is being written to it",
    "staged": "verified, but not armed: no boot starts it yet",
    "approved": "approved, but not armed: no boot starts it yet",
    "armed": "armed: the next boot tries it",
    "trying": "on trial",
    "good": "good",
    "bad": "bad",
}
_HEALTH_STATES = {
    "unknown": "unknown: this boot has not been judged",
    "checking": "the checks of this boot are still running",
    "healthy": "healthy",
    "degraded": "degraded",
    "failed": "failed",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `status --check` says of the machine: an error's name ("" if all is well) and a sentence."""

    name: str
    message: str

    @property
    def exit_status(self) -> int:
        """The exit status that the name stands for."""
        return EXIT_STATUS_BY_NAME[self.name] if self.name else 0


def slot_state(slot: Slot) -> str:
    """Return the state of a slot in words, with tries and reason."""
    words = _SLOT_STATES.get(slot.state, slot.state)
    if slot.state == "armed" and slot.reason:
        words = f"armed: {slot.reason}"
    if slot.state == "good" and slot.tries_left == 0:
        words += ", and lets the older slot go first"
    elif slot.tries_left >= 0 and slot.state in ("armed", "trying", "good"):
        words += f", {text.count(slot.tries_left, 'try', 'tries')} left"
    if slot.tries_done > 0 and slot.state == "trying":
        words += f", {slot.tries_done} used"
    if slot.reason and slot.state in ("bad", "empty"):
        words += f": {slot.reason}"
    return words


def why(slot: Slot, slots: Slots) -> str:
    """Return the reason that was recorded when the slot came into its state; empty if there is none."""
    for last in reversed(slots.transitions):
        if last.slot == slot.name:
            same = (last.state, last.version) == (slot.state, slot.version) and last.reason != slot.reason
            return last.reason if same else ""

    return ""


def next_boot(slots: Slots) -> str:
    """Return what the next boot starts, and what becomes of a new system in the other slot."""
    waiting = next((slot for slot in slots.slots if slot.state in ("staged", "approved")), None)
    left = ""
    if waiting:
        left = f"; {named(waiting)} is {waiting.state} and is not started before 'hypernet-admin arm'"
    slot = slots.find(slots.default) if slots.default else None
    if slot is None:
        return f"neither slot can be started: install an image before the next reboot{left}"

    what = f"starts {named(slot)}"
    back = next((other for other in slots.slots if other.name != slot.name and other.state == "good"), None)
    tries = f", {text.count(slot.tries_left, 'try', 'tries')} left" if slot.tries_left >= 0 else ""
    otherwise = f"; if it does not prove good, {named(back)} is started again" if back else ""
    if slot.state == "armed":
        what = f"tries {named(slot)}{tries}{otherwise}"
    elif slot.state == "trying":
        what += f", still on trial{tries}{otherwise}"
    elif slot.state == "bad":
        what += ", which is bad, because there is nothing better"
    elif slot.booted:
        what += " again"
    return what + left


def rollback(last: Rollback) -> str:
    """Return what was rolled back, from where to where, why and when, on one line."""
    line = f"from {_version(last.from_version, last.from_slot)} to {_version(last.to_version, last.to_slot)}"
    if last.reason:
        line += f": {last.reason}"
    if last.since_usec:
        line += f" ({text.timestamp(last.since_usec)})"
    return line


def health_line(health: Health) -> str:
    """Return the verdict on this boot in one line."""
    line = _HEALTH_STATES.get(health.state, health.state)
    failed = [check.name for check in health.checks if check.result in ("failed", "timeout")]
    if health.reason:
        line += f": {health.reason}"
    elif failed and health.state != "healthy":
        line += f": failed checks: {', '.join(failed)}"
    elif health.state == "checking" and health.deadline_usec:
        line += f", until {text.timestamp(health.deadline_usec)} at the latest"
    if health.trial:
        line += " (this boot is a trial)"
    return line


def failures_line(health: Health) -> str:
    """Return how many boots in a row were not good; empty if the last one was."""
    count = health.consecutive_failures
    if health.state == "checking":  # this boot is not counted yet
        return f"{count} in a row before this one" if count else ""
    return f"{count} in a row, this one included" if count > 1 else "this one" if count else ""


def judge(slots: Slots, health: Health) -> Verdict:
    """Judge the machine: not healthy comes before an armed slot, and that before the last rollback."""
    if health.state != "healthy":
        line = health_line(health).rstrip(".")
        return Verdict("Unhealthy", f"This boot is not healthy: {line}; see 'hypernet-admin health'.")

    for slot in slots.slots:
        if slot.state == "armed" and not slot.booted:
            message = f"A reboot is needed: {named(slot)} waits to be started; run 'systemctl reboot'."
            return Verdict("RebootNeeded", message)

    last, good = slots.last_rollback, slots.last_good
    # The slot that was gone back to proves good again after a reboot; that ends nothing.
    if last is not None and (
        good is None or good.since_usec < last.since_usec or good.version == last.to_version
    ):
        message = f"The machine went back {rollback(last)}; install a newer version."
        return Verdict("RolledBack", message)

    booted = slots.find("booted")
    return Verdict("", f"All is well: {named(booted) if booted else 'this machine'} runs and is healthy.")


def named(slot: Slot) -> str:
    """Return "slot b (version 0.2.0)"."""
    return f"slot {slot.name} (version {slot.version})" if slot.version else f"slot {slot.name}"


def _version(version: str, slot: str) -> str:
    return f"{version or 'an unknown version'} (slot {slot})"
