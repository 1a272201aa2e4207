# SPDX-License-Identifier: Apache-2.0
"""``boot-health check``: run the checks once and report the verdict. hypernet-boot-health.service.

Exit status 0 lets boot-complete.target be reached; 1 makes its job fail, which starts
hypernet-boot-failed.service.
"""

from __future__ import annotations

from collections.abc import Callable

from agents.boot_health import boot, config, messages, report, slots
from agents.boot_health.engine import CheckResult, Engine, Result
from agents.boot_health.places import Places
from agents.boot_health.report import Report
from agents.boot_health.verdict import State, Verdict, describe, judge
from common import journal
from common.errors import AgentError

QuerySlots = Callable[[], tuple[slots.Slots | None, str]]


def run(places: Places, *, engine: Engine | None = None, query: QuerySlots = slots.query_or_none) -> int:
    """Run all checks, write the report and the journal, return the exit status. Raises FileError."""
    engine = engine or Engine()
    boot_id = boot.boot_id(places.proc)
    again = bool(boot_id) and _read(places).boot_id == boot_id
    trial = is_trial(places, query)
    report.write(places.report, Report(State.CHECKING, boot_id=boot_id, trial=trial))
    health = config.load(places.admin_config, places.image_config)
    # Run again after this boot had its verdict or was given up: the deadline counts from now.
    elapsed_sec = 0.0 if again else boot.elapsed_sec(places.proc)
    results = (
        *(
            CheckResult(config.CONFIGURATION, True, Result.FAILED, 0.0, 1, text, text)
            for text in health.errors
        ),
        *engine.run(health.checks, limit_sec=health.deadline_sec - elapsed_sec),
    )
    verdict = judge(results, trial=trial)
    final = Report(verdict.state, verdict.reason, boot_id, trial, results)
    report.write(places.report, final)
    _log(final, verdict)
    try:
        report.write_motd(places.motd, final)
    except AgentError as error:
        journal.send(str(error), priority=journal.WARNING)
    return 0 if verdict.good else 1


def is_trial(places: Places, query: QuerySlots) -> bool:
    """Whether the booted slot has yet to prove itself; the boot loader's word counts if slot-manager is
    silent.
    """
    known, problem = query()
    if known is not None:
        return known.trial
    counted = boot.counted(places.efivars)
    journal.send(
        f"Cannot ask slot-manager whether this boot is a trial: {problem.rstrip('.')};"
        f" the boot loader {'counts' if counted else 'does not count'} it.",
        priority=journal.WARNING,
    )
    return counted


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
