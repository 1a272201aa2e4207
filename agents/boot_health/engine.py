# SPDX-License-Identifier: Apache-2.0
"""Runs health checks side by side until a deadline: waits for the units they come after, tries them again.

Each check has a thread of its own. A built-in check runs in it; a command runs as a transient unit that the
thread waits for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from agents.boot_health.commands import STOP_SEC, Attempt, Commands, TransientCommands
from agents.boot_health.config import Check
from common import journal, transient
from common.errors import AgentError

MAX_OUTPUT_BYTES: Final = 4096
_MAX_PARALLEL: Final = 16
_POLL_SEC: Final = 0.2
_TOO_LATE: Final = "the deadline was over before it began"
_SLACK_SEC: Final = STOP_SEC + 15.0
"""How long after the deadline a check may end that keeps its own limits, systemd's work included."""


class Result(StrEnum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    TIMEOUT = "timeout"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The outcome of one check. duration_sec: all attempts and the time between them. output: the last 4
    KiB of the last attempt. detail: half a sentence on how the last attempt ended, empty when it
    passed. unit: the transient unit of the last attempt, empty for a built-in check without a command.
    """

    name: str
    required: bool
    result: Result
    duration_sec: float = 0.0
    attempts: int = 0
    output: str = ""
    detail: str = ""
    unit: str = ""


class Engine:
    """Runs checks until a deadline. Everything outside is a parameter: commands, clock in seconds, sleep.

    label: part of the names of the units, so that runs at the same time do not take each other's.
    """

    def __init__(
        self,
        *,
        commands: Commands | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        label: str = "",
    ) -> None:
        self._commands = commands or TransientCommands()
        self._clock = clock
        self._sleep = sleep
        self._label = label
        self._turns = threading.BoundedSemaphore(_MAX_PARALLEL)

    def run(
        self, checks: Sequence[Check], *, limit_sec: float, after: Sequence[str] = ()
    ) -> tuple[CheckResult, ...]:
        """Run all checks and return their results in the same order, at the latest some seconds after
        limit_sec. after: units that all of them come after.
        """
        deadline = self._clock() + limit_sec
        runs = [_Run(check) for check in checks]
        # Asked once for all, and not in each thread.
        if waiting := self._wait(after, deadline):
            return tuple(replace(run.result, detail=waiting) for run in runs)
        # Threads that nobody waits for at the end: a built-in check that hangs must not hang the verdict.
        threads = [
            threading.Thread(target=self._thread, args=(run, deadline), name=run.check.name, daemon=True)
            for run in runs
        ]
        for thread in threads:
            thread.start()
        end = time.monotonic() + max(deadline - self._clock(), 0.0) + _SLACK_SEC
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        return self._with_outputs(runs)

    def _thread(self, run: _Run, deadline: float) -> None:
        try:
            run.result = self._repeat(run, deadline)
        except Exception as error:  # A fault of ours is a failed check, and no reason for no verdict.
            run.result = replace(run.result, result=Result.FAILED, detail=f"internal error: {error!r}")

    def _repeat(self, run: _Run, deadline: float) -> CheckResult:
        check, started = run.check, self._clock()
        waiting = self._wait(check.after, deadline)
        if waiting:
            return replace(run.result, detail=waiting, duration_sec=round(self._clock() - started, 3))
        last = run.result
        for attempt in range(1, check.retries + 2):
            with self._turns:
                left_sec = deadline - self._clock()
                if left_sec <= 0:
                    break
                last = self._attempt(run, attempt, min(check.timeout_sec, left_sec), started)
            if last.result is Result.PASSED:
                break
            if attempt <= check.retries:
                self._sleep(max(0.0, min(check.interval_sec, deadline - self._clock())))
        return last

    def _wait(self, units: Sequence[str], deadline: float) -> str:
        """Wait until no unit is starting any more; return half a sentence if that took too long."""
        for unit in units:
            while self._busy(unit):
                left_sec = deadline - self._clock()
                if left_sec <= 0:
                    return f"{unit} was still starting at the deadline"
                self._sleep(min(_POLL_SEC, left_sec))
        return ""

    def _busy(self, unit: str) -> bool:
        try:
            return self._commands.busy(unit)
        except AgentError as error:
            # The check itself will tell what is wrong.
            journal.send(str(error), priority=journal.WARNING)
            return False

    def _attempt(self, run: _Run, number: int, limit_sec: float, started: float) -> CheckResult:
        check = run.check
        run.result = replace(run.result, result=Result.TIMEOUT, attempts=number, detail="it hangs")
        if check.probe is not None:
            outcome = check.probe(limit_sec)
            attempt = Attempt(outcome.passed, detail="" if outcome.passed else _half_sentence(outcome.text))
            run.result = replace(run.result, output=tail(outcome.text.encode("utf-8", "replace")))
        else:
            unit = f"hypernet-check-{self._label}{check.name}-{number}.service"
            try:
                attempt = self._commands.run(unit, check, limit_sec)
            except AgentError as error:
                attempt = Attempt(False, detail=_half_sentence(str(error)))
            run.result = replace(run.result, unit=unit)
            run.start = attempt.start
        if attempt.timed_out:
            result, detail = Result.TIMEOUT, f"no answer within {limit_sec:.3g} s"
        else:
            result, detail = (Result.PASSED if attempt.passed else Result.FAILED), attempt.detail
        return replace(
            run.result, result=result, detail=detail, duration_sec=round(self._clock() - started, 3)
        )

    def _with_outputs(self, runs: Sequence[_Run]) -> tuple[CheckResult, ...]:
        """Read what the last attempt of each command said, all at once, as each reading costs time."""
        results = [run.result for run in runs]
        started = {run.result.unit: run.start for run in runs if run.start is not None}
        failed = any(run.start is not None and run.result.result is not Result.PASSED for run in runs)
        try:
            outputs = self._commands.outputs(started, sync=failed)
        except AgentError as error:
            journal.send(f"Cannot read what the checks said: {error}", priority=journal.WARNING)
            outputs = {}
        return tuple(
            replace(result, output=tail(outputs[result.unit])) if result.unit in outputs else result
            for result in results
        )


class _Run:
    """A check that is being run, and what is known of it so far."""

    def __init__(self, check: Check) -> None:
        self.check = check
        self.result = CheckResult(check.name, check.required, Result.SKIPPED, detail=_TOO_LATE)
        self.start: transient.Start | None = None


def tail(output: bytes) -> str:
    """Return the last 4 KiB as text that a terminal and D-Bus can take: no control characters, valid
    UTF-8.
    """
    text = output.rstrip()[-MAX_OUTPUT_BYTES:].decode("utf-8", "replace")
    return "".join(
        char if char in "\n\t" or char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text
    )


def _half_sentence(text: str) -> str:
    """Return the first line without its full stop, to stand in parentheses."""
    lines = text.strip().splitlines()
    if not lines:
        return "it does not say why"
    more = f" and {len(lines) - 1} more" if len(lines) > 1 else ""
    return tail(lines[0].encode("utf-8", "replace")).rstrip(".") + more
