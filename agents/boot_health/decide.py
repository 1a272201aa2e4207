# SPDX-License-Identifier: Apache-2.0
"""``boot-health decide``: what to do about a boot that did not reach boot-complete.target.

hypernet-boot-failed.service runs it. If it fails, that unit's OnFailure= hands over to a shell script.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from agents.boot_health import boot, config, decision, history, messages, report, slots
from agents.boot_health.decision import Action, Decision, Facts
from agents.boot_health.places import Places
from agents.boot_health.report import Report
from agents.boot_health.verdict import State
from common import alerts, files, journal, units
from common.errors import ERROR_PREFIX, AgentError

NO_VERDICT: Final = "The boot reached no verdict within the time limit."
CHECKING_UNIT: Final = "hypernet-boot-health.service"
ROLLBACK_TARGET: Final = "hypernet-rollback.target"
ROLLBACK_REASON: Final = "rollback.env"
MAX_REASON_CHARS: Final = 900

_UNSAFE: Final = re.compile(r"[^\w .,:;()/@+=<>-]")
"""All that has, or might get, a meaning between the quotation marks of an environment file."""


def _start_rollback() -> None:
    units.start_unit(ROLLBACK_TARGET)


def _announce(places: Places, before: Report) -> None:
    # Imported here: a boot that goes back or is tried again needs no service for the bus.
    from agents.boot_health import announce

    announce.announce(places, before)


def _alert(summary: str, details: Mapping[str, str]) -> None:
    alerts.raise_alert(alerts.Kind.BOOT_DEGRADED, summary, details)


@dataclass(frozen=True, slots=True)
class Hands:
    """What this command does to the machine."""

    query: Callable[[], tuple[slots.Slots | None, str]] = slots.query_or_none
    mark_booted_bad: Callable[[str], None] = slots.mark_booted_bad
    give_back_the_try: Callable[[], None] = slots.rearm_booted
    start_rollback: Callable[[], None] = _start_rollback
    reboot: Callable[[], None] = units.reboot
    failed_units: Callable[[], tuple[str, ...]] = units.failed_units
    announce: Callable[[Places, Report], None] = _announce
    alert: Callable[[str, Mapping[str, str]], None] = _alert


def run(places: Places, hands: Hands = Hands()) -> int:
    """Decide, act, explain; return the exit status. Raises AgentError if the reboot cannot be started."""
    last = _last_report(places)
    health = config.load(places.admin_config, places.image_config)
    reason = why(last, hands.failed_units, overdue=_overdue(last, places, health.deadline_sec))
    before = history.load(places.history)
    known, problem = hands.query()
    if known is None:
        journal.send(f"Cannot ask slot-manager about the slots: {problem}", priority=journal.WARNING)
    counted = boot.counted(places.efivars)
    here = known or slots.guess(places, before.proven)
    failures = _count_failure(places, before, here.root_hash)
    outcome = decision.decide(
        Facts(
            exhausted=boot.exhausted(places.efivars),
            counted=counted,
            trial=here.trial,
            other_good=here.other_good,
            trial_failure=health.trial_failure,
            failures=failures,
            max_failures=health.max_failed_boots,
        )
    )
    if outcome.action is Action.ROLLBACK:
        outcome = _mark_bad(reason, outcome, hands, counted=counted)
    _log(reason, outcome)
    stays = outcome.action in (Action.STAY, Action.GIVE_UP)
    now = replace(
        last,
        state=State.DEGRADED if stays else State.FAILED,
        reason=reason,
        boot_id=last.boot_id or boot.boot_id(places.proc),
        consecutive_failures=failures,
    )
    _report(places, now)
    if not stays:
        hands.reboot()
        return 0
    if now != last:
        hands.announce(places, last)
    if last.state is not State.DEGRADED:  # else boot-health check has told it
        hands.alert(f"This boot is degraded. {reason}", {"because": outcome.because, "boot_id": now.boot_id})
    if outcome.action is Action.GIVE_UP:
        _give_up(places, hands, f"{failures} boots in a row failed, the last one so: {reason}")
    elif here.rearmed:
        _give_back_the_try(hands)
    return 0


def why(last: Report, failed_units: Callable[[], tuple[str, ...]], *, overdue: bool) -> str:
    """Return one sentence on why boot-complete.target was not reached."""
    if last.state in (State.UNKNOWN, State.CHECKING):
        return NO_VERDICT if overdue else "The boot reached no verdict" + _named(failed_units)
    if last.required_failed:
        return last.reason
    return "All required checks passed, but another unit kept boot-complete.target from being reached" + (
        _named(failed_units)
    )


def _named(failed_units: Callable[[], tuple[str, ...]]) -> str:
    """Return the end of a sentence that names the failed units."""
    try:
        failed = failed_units()
    except AgentError:
        failed = ()
    # The checks were ended for this decision, which is no fault of theirs unless nothing else has failed.
    names = [name for name in failed if name != CHECKING_UNIT] or failed
    return f"; failed units: {', '.join(names[:10])}." if names else "."


def _overdue(last: Report, places: Places, deadline_sec: float) -> bool:
    if last.deadline_usec:
        return time.time_ns() // 1000 >= last.deadline_usec
    return boot.elapsed_sec(places.proc) >= deadline_sec


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


def _give_up(places: Places, hands: Hands, reason: str) -> None:
    """Let slot-manager go back, which it does only if the other slot is good."""
    try:
        _write_rollback_reason(places.report.with_name(ROLLBACK_REASON), reason)
    except AgentError as error:
        journal.send(str(error), priority=journal.WARNING)
    try:
        hands.start_rollback()
    except AgentError as error:
        journal.send(f"The rollback cannot be asked for: {error}", priority=journal.ERR)


def _write_rollback_reason(path: Path, reason: str) -> None:
    """Write what hypernet-rollback.service reads with EnvironmentFile=, see systemd.exec(5)."""
    text = _UNSAFE.sub("'", reason)[:MAX_REASON_CHARS]
    files.write_atomic(path, f'REASON="{text}"\n'.encode("utf-8", "replace"))


def _count_failure(places: Places, before: history.History, root_hash: str) -> int:
    """Count this boot among those in a row that were not good; return how many they are."""
    now = history.counted(before, boot.boot_id(places.proc), root_hash, failed=True)
    if now != before:
        try:
            history.save(places.history, now)
        except AgentError as error:
            journal.send(f"This failed boot is not counted: {error}", priority=journal.WARNING)
    return now.failures


def _report(places: Places, now: Report) -> None:
    """Tell the bus, the login, and slot-manager at the shutdown what was decided."""
    try:
        report.write(places.report, now)
        report.write_motd(places.motd, now)
    except AgentError as error:
        journal.send(str(error), priority=journal.WARNING)


def _log(reason: str, outcome: Decision) -> None:
    what, message_id = {
        Action.STAY: ("The machine stays in this boot, degraded", messages.DECISION_STAY),
        Action.REBOOT: ("The machine reboots", messages.DECISION_REBOOT),
        Action.ROLLBACK: ("The machine goes back to the other slot", messages.DECISION_ROLLBACK),
        Action.GIVE_UP: ("The machine asks for a rollback to the other slot", messages.DECISION_GIVE_UP),
    }[outcome.action]
    sentence = f"{what}: {outcome.because}. {reason}"
    journal.send(
        sentence, priority=journal.CRIT, message_id=message_id, reason=reason, because=outcome.because
    )
    # Standard output of the unit is the console, for whoever stands in front of the machine.
    print(f"hypernet: {sentence}", flush=True)
