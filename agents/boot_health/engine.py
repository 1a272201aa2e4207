# SPDX-License-Identifier: Apache-2.0
"""Runs health checks side by side, each attempt as a transient unit of systemd with limits of its own.

There is no shell; systemd-run(1) waits for the unit and passes its output and exit status on. Transient
units are ordered after basic.target only, so that waiting for them cannot wait for a unit that waits for
us.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from agents.boot_health.config import Check
from common import process

MAX_OUTPUT_BYTES: Final = 4096
_MAX_PARALLEL: Final = 16
_STOP_SEC: Final = 5
_SLACK_SEC: Final = 10.0
"""What systemd may need on top of the check's own time to start, stop and collect the unit."""


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
    passed.
    """

    name: str
    required: bool
    result: Result
    duration_sec: float = 0.0
    attempts: int = 0
    output: str = ""
    detail: str = ""


class Runner(Protocol):
    """common.process.run, as far as it is used here."""

    def __call__(self, argv: Sequence[str], *, timeout_sec: float, success: None) -> process.Completed: ...


Prefix = Callable[[Check, int, float], Sequence[str]]
"""(check, number of the attempt, limit in seconds) -> what stands before the check's own command."""


def systemd_run(check: Check, attempt: int, limit_sec: float) -> Sequence[str]:
    """Return the command line that runs an attempt as hypernet-check-NAME-ATTEMPT.service."""
    properties = {
        "RuntimeMaxSec": f"{limit_sec:.3f}s",
        "TimeoutStopSec": f"{_STOP_SEC}s",
        "MemoryMax": "256M",
        "TasksMax": "64",
        "LockPersonality": "yes",
        "NoNewPrivileges": "yes",
        "PrivateTmp": "yes",
        "ProtectSystem": "strict",
        "RestrictSUIDSGID": "yes",
    }
    return (
        "systemd-run",
        "--quiet",
        "--no-ask-password",
        "--wait",
        "--pipe",
        "--collect",
        f"--unit=hypernet-check-{check.name}-{attempt}.service",
        f"--description=Health Check {check.name}",
        *(f"--property={name}={value}" for name, value in properties.items()),
        "--",
    )


class Engine:
    """Runs checks until a deadline. Everything outside is a parameter: clock in seconds, sleep, runner,
    prefix.
    """

    def __init__(
        self,
        *,
        prefix: Prefix = systemd_run,
        run: Runner = process.run,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._prefix = prefix
        self._run = run
        self._clock = clock
        self._sleep = sleep

    def run(self, checks: Sequence[Check], *, limit_sec: float) -> tuple[CheckResult, ...]:
        """Run all checks and return their results in the same order, at the latest some seconds after
        limit_sec.
        """
        deadline = self._clock() + limit_sec
        if not checks:
            return ()
        with ThreadPoolExecutor(min(len(checks), _MAX_PARALLEL), "check") as pool:
            return tuple(pool.map(lambda check: self._repeat(check, deadline), checks))

    def _repeat(self, check: Check, deadline: float) -> CheckResult:
        started = self._clock()
        last = CheckResult(
            check.name, check.required, Result.SKIPPED, detail="the deadline was over before it began"
        )
        for attempt in range(1, check.attempts + 1):
            left_sec = deadline - self._clock()
            if left_sec <= 0:
                break
            last = self._attempt(check, attempt, min(check.timeout_sec, left_sec), started)
            if last.result is Result.PASSED:
                break
            if attempt < check.attempts:
                self._sleep(max(0.0, min(check.interval_sec, deadline - self._clock())))
        return last

    def _attempt(self, check: Check, attempt: int, limit_sec: float, started: float) -> CheckResult:
        argv = (*self._prefix(check, attempt, limit_sec), *map(_literal, check.command))
        begun = self._clock()
        output = b""
        try:
            completed = self._run(argv, timeout_sec=limit_sec + _STOP_SEC + _SLACK_SEC, success=None)
        except process.ProcessError as error:
            detail = str(error).rstrip(".")
            passed = False
        else:
            output = completed.stdout + completed.stderr.encode("utf-8", "replace")
            passed = completed.returncode == 0
            detail = "" if passed else f"exit status {completed.returncode}"
        ended = self._clock()
        result = Result.PASSED if passed else Result.FAILED
        if not passed and ended - begun >= limit_sec:
            result, detail = Result.TIMEOUT, f"no answer within {limit_sec:.3g} s"
        return CheckResult(
            check.name, check.required, result, round(ended - started, 3), attempt, tail(output), detail
        )


def tail(output: bytes) -> str:
    """Return the last 4 KiB as text that a terminal and D-Bus can take: no control characters, valid
    UTF-8.
    """
    text = output[-MAX_OUTPUT_BYTES:].decode("utf-8", "replace").rstrip()
    return "".join(
        char if char in "\n\t" or char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text
    )


def _literal(word: str) -> str:
    # systemd expands $NAME and ${NAME} in the arguments of a transient unit; "$$" is a plain dollar sign.
    return word.replace("$", "$$")
