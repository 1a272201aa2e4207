# SPDX-License-Identifier: Apache-2.0
"""``boot-health decide``: what to do about a boot that did not reach boot-complete.target.

hypernet-boot-failed.service runs it. If it fails, that unit's OnFailure= hands over to a shell script.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from agents.boot_health import boot, config, decision, messages, report, slots
from agents.boot_health.decision import Action, Decision, Facts
from agents.boot_health.places import Places
from agents.boot_health.report import Report
from agents.boot_health.verdict import State
from common import journal, units
from common.errors import ERROR_PREFIX, AgentError

NO_VERDICT: Final = "The boot reached no verdict within the time limit."


@dataclass(frozen=True, slots=True)
class Hands:
    """What this command does to the machine."""

    query: Callable[[], tuple[slots.Slots | None, str]] = slots.query_or_none
    mark_booted_bad: Callable[[str], None] = slots.mark_booted_bad
    give_back_the_try: Callable[[], None] = slots.mark_booted_good
    reboot: Callable[[], None] = units.reboot
    failed_units: Callable[[], tuple[str, ...]] = units.failed_units


def run(places: Places, hands: Hands = Hands()) -> int:
    """Decide, act, explain; return the exit status. Raises AgentError if the reboot cannot be started."""
    last = _last_report(places)
    reason = why(last, hands.failed_units)
    health = config.load(places.admin_config, places.image_config)
    known, problem = hands.query()
    if known is None:
        journal.send(f"Cannot ask slot-manager about the slots: {problem}", priority=journal.WARNING)
    counted = boot.counted(places.efivars)
    outcome = decision.decide(
        Facts(
            exhausted=boot.exhausted(places.efivars),
            counted=counted,
            trial=known.trial if known is not None else counted,
            other_good=known.other_good if known is not None else None,
            trial_failure=health.trial_failure,
        )
    )
    if outcome.action is Action.ROLLBACK:
        outcome = _mark_bad(reason, outcome, hands, counted=counted)
    _log(reason, outcome)
    if outcome.action is Action.STAY:
        _stay(places, last, reason)
        if known is not None and known.rearmed:
            _give_back_the_try(hands)
    else:
        hands.reboot()
    return 0


def why(last: Report, failed_units: Callable[[], tuple[str, ...]]) -> str:
    """Return one sentence on why boot-complete.target was not reached."""
    if last.state in (State.UNKNOWN, State.CHECKING):
        return NO_VERDICT
    if last.required_failed:
        return last.reason
    try:
        names = ", ".join(failed_units()[:10])
    except AgentError:
        names = ""
    return "All required checks passed, but another unit kept boot-complete.target from being reached" + (
        f"; failed units: {names}." if names else "."
    )


def _last_report(places: Places) -> Report:
    try:
        last = report.read(places.report)
    except AgentError as error:
        journal.send(str(error), priority=journal.WARNING)
        return Report()
    return last if last.boot_id == boot.boot_id(places.proc) else Report()


def _mark_bad(reason: str, planned: Decision, hands: Hands, *, counted: bool) -> Decision:
    try:
        hands.mark_booted_bad(reason)
    except AgentError as error:
        journal.send(f"Cannot mark the booted slot bad: {error}", priority=journal.ERR)
        if error.dbus_name == ERROR_PREFIX + "OtherSlotNotGood":
            return Decision(Action.STAY, "the other slot is not good either")
        if not counted:
            return Decision(
                Action.STAY,
                "slot-manager could not mark the slot and the boot loader did not count this boot,"
                " so that a reboot would lead nowhere",
            )
        return Decision(
            Action.REBOOT, "slot-manager could not mark the slot, so the boot loader counts the tries"
        )
    return planned


def _give_back_the_try(hands: Hands) -> None:
    """The loader's tries are for what userspace cannot judge; this boot was judged, and stays.

    Without this, a good slot would lose its place after some degraded boots, whatever was decided in them.
    """
    try:
        hands.give_back_the_try()
    except AgentError as error:
        journal.send(f"Cannot give back the try of this boot: {error}", priority=journal.WARNING)


def _stay(places: Places, last: Report, reason: str) -> None:
    degraded = replace(
        last, state=State.DEGRADED, reason=reason, boot_id=last.boot_id or boot.boot_id(places.proc)
    )
    try:
        report.write(places.report, degraded)
        report.write_motd(places.motd, degraded)
    except AgentError as error:
        journal.send(str(error), priority=journal.WARNING)


def _log(reason: str, outcome: Decision) -> None:
    what, message_id = {
        Action.STAY: ("The machine stays in this boot, degraded", messages.DECISION_STAY),
        Action.REBOOT: ("The machine reboots", messages.DECISION_REBOOT),
        Action.ROLLBACK: ("The machine goes back to the other slot", messages.DECISION_ROLLBACK),
    }[outcome.action]
    sentence = f"{what}: {outcome.because}. {reason}"
    journal.send(
        sentence, priority=journal.CRIT, message_id=message_id, reason=reason, because=outcome.because
    )
    # Standard output of the unit is the console, for whoever stands in front of the machine.
    print(f"hypernet: {sentence}", flush=True)
