# SPDX-License-Identifier: Apache-2.0
"""``boot-health check``: run the checks once and report the verdict. hypernet-boot-health.service.

Exit status 0 lets boot-complete.target be reached; 1 makes its job fail, which starts
hypernet-boot-failed.service.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from agents.boot_health import boot, config, history, messages, report, slots
from agents.boot_health.engine import CheckResult, Engine, Result
from agents.boot_health.places import Places
from agents.boot_health.report import Report
from agents.boot_health.verdict import State, Verdict, describe, judge
from common import alerts, journal
from common.errors import AgentError, InvalidArgument

QuerySlots = Callable[[], tuple[slots.Slots | None, str]]
STARTED: Final = ("hypernet.target",)
"""What every check comes after. Not by After=, which would wait without an end, whatever the deadline is."""

Alert = Callable[[str, Mapping[str, str | int]], object]


def _announce(places: Places) -> None:
    # Imported here: the verdict must not fail because telling about it does.
    from agents.boot_health import announce

    announce.announce(places)


def _alert(summary: str, details: Mapping[str, str | int]) -> None:
    alerts.raise_alert(alerts.Kind.BOOT_DEGRADED, summary, details)


@dataclass(frozen=True, slots=True)
class Hands:
    """What this command asks and whom it tells."""

    query: QuerySlots = slots.query_or_none
    announce: Callable[[Places], None] = _announce
    alert: Alert = _alert


def run(places: Places, *, engine: Engine | None = None, hands: Hands = Hands()) -> int:
    """Run all checks, write the report and the journal, return the exit status. Raises FileError."""
    engine = engine or Engine()
    boot_id = boot.boot_id(places.proc)
    again = bool(boot_id) and _read(places).boot_id == boot_id
    before = history.load(places.history)
    known = _query(hands.query)
    here = known or slots.guess(places, before.proven)
    health = config.load(places.admin_config, places.image_config)
    # Run again after this boot had its verdict or was given up: the deadline counts from now.
    limit_sec = health.deadline_sec - (0.0 if again else boot.elapsed_sec(places.proc))
    current = Report(
        State.CHECKING,
        boot_id=boot_id,
        trial=here.trial,
        deadline_usec=time.time_ns() // 1000 + int(limit_sec * 1_000_000),
        consecutive_failures=history.counted(before, boot_id, here.root_hash, failed=False).before,
    )
    report.write(places.report, current)
    results = (
        *(
            CheckResult(config.CONFIGURATION, True, Result.FAILED, 0.0, 1, text, text)
            for text in health.errors
        ),
        *engine.run(health.checks, limit_sec=limit_sec, after=STARTED),
    )
    verdict = judge(results, trial=here.trial)
    now = history.counted(before, boot_id, here.root_hash, failed=not verdict.good)
    if known is not None:
        now = history.noted(now, known.root_hash, trial=known.trial)
    final = replace(
        current,
        state=verdict.state,
        reason=verdict.reason,
        checks=results,
        consecutive_failures=now.failures,
    )
    report.write(places.report, final)
    _log(final, verdict)
    # Else there is nothing to remember, and a write costs time.
    if now.failures or before.failures or now.proven != before.proven:
        _remember(places, now)
    _tell(places, final, hands)
    return 0 if verdict.good else 1


def run_one(places: Places, name: str, *, engine: Engine | None = None) -> CheckResult:
    """Run one check now, whatever the verdict on this boot was, which stays what it is.

    The limit is what its attempts may take, at most the deadline. Raises InvalidArgument if there is no such
    check.
    """
    health = config.load(places.admin_config, places.image_config)
    found = [check for check in health.checks if check.name == name]
    if not found:
        wrong = f" ({health.errors[0].rstrip('.')})" if health.errors else ""
        raise InvalidArgument(
            f"There is no health check {name!r} in {places.admin_config} or {places.image_config}{wrong};"
            " 'hypernet-admin health' lists them."
        )
    attempts = found[0].retries + 1
    limit_sec = min(health.deadline_sec, attempts * (found[0].timeout_sec + found[0].interval_sec))
    (result,) = (engine or Engine(label="run:")).run(found, limit_sec=limit_sec)
    return result


def _query(query: QuerySlots) -> slots.Slots | None:
    known, problem = query()
    if known is None:
        journal.send(
            f"Cannot ask slot-manager whether this boot is a trial: {problem.rstrip('.')};"
            " it is one if the boot loader counts it and the system was not known to be good before.",
            priority=journal.WARNING,
        )
    return known


def _tell(places: Places, final: Report, hands: Hands) -> None:
    """Tell the bus, the next login, and whoever alerts.yaml names."""
    hands.announce(places)
    try:
        report.write_motd(places.motd, final)
    except AgentError as error:
        journal.send(str(error), priority=journal.WARNING)
    if final.state is State.DEGRADED:
        hands.alert(
            f"This boot is degraded. {final.reason}",
            {"boot_id": final.boot_id, "consecutive_failures": final.consecutive_failures},
        )


def _remember(places: Places, now: history.History) -> None:
    try:
        history.save(places.history, now)
    except AgentError as error:
        journal.send(f"The outcome of this boot is not counted: {error}", priority=journal.WARNING)


def _read(places: Places) -> Report:
    try:
        return report.read(places.report)
    except AgentError:
        return Report()


def _log(final: Report, verdict: Verdict) -> None:
    trial = "yes" if final.trial else "no"
    for result in final.checks:
        if result.result is not Result.PASSED:
            journal.send(
                f"Health check {'did not run' if result.attempts == 0 else 'failed'}: {describe(result)}.",
                priority=journal.ERR if result.required else journal.WARNING,
                message_id=messages.CHECK_FAILED,
                check=result.name,
                required="yes" if result.required else "no",
                result=result.result,
                attempts=result.attempts,
                output=result.output,
            )
    match verdict.state:
        case State.HEALTHY:
            journal.send(
                f"This boot is healthy: {len(final.checks)} checks passed.",
                priority=journal.NOTICE,
                message_id=messages.VERDICT_HEALTHY,
                trial=trial,
                checks=len(final.checks),
            )
        case State.FAILED:
            journal.send(
                f"This boot failed. {verdict.reason}",
                priority=journal.CRIT,
                message_id=messages.VERDICT_FAILED,
                trial=trial,
                reason=verdict.reason,
            )
        case _:
            journal.send(
                f"This boot is degraded. {verdict.reason}",
                priority=journal.ERR,
                message_id=messages.VERDICT_DEGRADED,
                trial=trial,
                reason=verdict.reason,
            )
