# SPDX-License-Identifier: Apache-2.0
"""The engine with the real process runner; systemd-run is left out, it needs systemd as PID 1."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from agents.boot_health.config import Check
from agents.boot_health.engine import CheckResult, Engine, Result, systemd_run, tail
from common import process


def no_prefix(check: Check, attempt: int, limit_sec: float) -> Sequence[str]:
    return ()


def run(*checks: Check, limit_sec: float = 30) -> tuple[CheckResult, ...]:
    return Engine(prefix=no_prefix).run(checks, limit_sec=limit_sec)


def python(code: str, attempts: int = 1) -> Check:
    return Check("c", (sys.executable, "-c", code), attempts=attempts, interval_sec=0)


def test_status_0_passes_and_the_output_is_kept() -> None:
    (result,) = run(python("print('fine')"))
    assert (result.result, result.output, result.attempts, result.detail) == (Result.PASSED, "fine", 1, "")


def test_another_status_fails_after_all_attempts_and_keeps_both_outputs() -> None:
    (result,) = run(python("import sys; print('out'); sys.exit('err')", attempts=3))
    assert (result.result, result.attempts, result.detail) == (Result.FAILED, 3, "exit status 1")
    assert result.output == "out\nerr"


def test_a_later_attempt_that_passes_is_enough(tmp_path: Path) -> None:
    code = f"import os; os.mkdir({str(tmp_path / 'a')!r}) or exit(1)"
    script = f"import os, sys; p = {str(tmp_path / 'a')!r}\nif os.path.exists(p): sys.exit(0)\n{code}"
    (result,) = run(python(script, attempts=3))
    assert (result.result, result.attempts) == (Result.PASSED, 2)


def test_a_program_that_does_not_exist_fails_with_a_sentence() -> None:
    (result,) = run(Check("c", ("/nonexistent/program",), attempts=1))
    assert result.result is Result.FAILED
    assert "/nonexistent/program" in result.detail


def test_an_attempt_that_takes_its_whole_time_is_a_timeout() -> None:
    def slow(argv: Sequence[str], *, timeout_sec: float, success: None) -> process.Completed:
        time.sleep(0.2)
        return process.Completed(tuple(argv), 1, b"", "")

    (result,) = Engine(prefix=no_prefix, run=slow).run(
        [Check("c", ("x",), timeout_sec=0.1, attempts=1)], limit_sec=10
    )
    assert (result.result, result.detail) == (Result.TIMEOUT, "no answer within 0.1 s")


def test_the_deadline_cuts_the_time_of_an_attempt_and_ends_the_attempts() -> None:
    now = [0.0]
    limits = []

    def clock() -> float:
        return now[0]

    def fail(argv: Sequence[str], *, timeout_sec: float, success: None) -> process.Completed:
        limits.append(float(argv[0]))
        now[0] += limits[-1]
        return process.Completed(tuple(argv), 1, b"", "")

    def sleep(seconds: float) -> None:
        now[0] += seconds

    engine = Engine(prefix=lambda check, attempt, limit: (str(limit),), run=fail, clock=clock, sleep=sleep)
    (result,) = engine.run([Check("c", ("x",), timeout_sec=10, attempts=10, interval_sec=2)], limit_sec=30)
    assert limits == [10, 10, 6]
    assert (result.result, result.attempts, now[0]) == (Result.TIMEOUT, 3, 30)


def test_a_check_whose_deadline_is_over_is_skipped() -> None:
    (result,) = run(python("pass"), limit_sec=-1)
    assert (result.result, result.attempts) == (Result.SKIPPED, 0)


def test_checks_run_side_by_side_and_results_keep_their_order() -> None:
    meeting = threading.Barrier(3, timeout=10)

    def meet(argv: Sequence[str], *, timeout_sec: float, success: None) -> process.Completed:
        meeting.wait()
        return process.Completed(tuple(argv), 0, b"", "")

    checks = [Check(name, (name,)) for name in ("one", "two", "three")]
    results = Engine(prefix=no_prefix, run=meet).run(checks, limit_sec=30)
    assert [(result.name, result.result) for result in results] == [
        ("one", Result.PASSED),
        ("two", Result.PASSED),
        ("three", Result.PASSED),
    ]


def test_no_shell_and_no_variable_of_systemd_touches_the_command() -> None:
    seen: list[Sequence[str]] = []

    def note(argv: Sequence[str], *, timeout_sec: float, success: None) -> process.Completed:
        seen.append(argv)
        return process.Completed(tuple(argv), 0, b"", "")

    Engine(prefix=no_prefix, run=note).run([Check("c", ("echo", "$HOME", "a;b", "*"))], limit_sec=9)
    assert seen == [("echo", "$$HOME", "a;b", "*")]


def test_each_attempt_is_a_transient_unit_with_limits() -> None:
    argv = systemd_run(Check("api", ("x",)), 2, 7.5)
    assert argv[0] == "systemd-run"
    assert {"--quiet", "--wait", "--pipe", "--collect", "--unit=hypernet-check-api-2.service"} <= set(argv)
    assert {"--property=RuntimeMaxSec=7.500s", "--property=ProtectSystem=strict"} <= set(argv)
    assert argv[-1] == "--"


@pytest.mark.parametrize(
    ("output", "text"),
    [
        (b"x" * 5000, "x" * 4096),
        (b"a\0b\x1b[2Jc", "a\ufffdb\ufffd[2Jc"),
        (b"\xffok\n", "\ufffdok"),
        ("ä".encode() * 3, "äää"),
    ],
)
def test_kept_output_is_short_and_safe_for_a_terminal_and_the_bus(output: bytes, text: str) -> None:
    assert tail(output) == text
