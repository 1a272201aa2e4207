# SPDX-License-Identifier: Apache-2.0
"""The engine with real processes and threads; tests/integration has it with real units."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from agents.boot_health.builtin import Outcome, Probe
from agents.boot_health.commands import Attempt
from agents.boot_health.config import Check
from agents.boot_health.engine import CheckResult, Engine, Result, tail

from .conftest import Journal
from .local import LocalCommands, NoSystemd


def run(*checks: Check, limit_sec: float = 30) -> tuple[CheckResult, ...]:
    return Engine(commands=LocalCommands()).run(checks, limit_sec=limit_sec)


def python(code: str, retries: int = 0) -> Check:
    return Check("c", (sys.executable, "-c", code), retries=retries, interval_sec=0)


def probe(passed: bool, text: str = "") -> Probe:
    return lambda limit_sec: Outcome(passed, text)


@dataclass
class Simulated(LocalCommands):
    """Attempts that fail after all of their time, on a clock that stands still otherwise."""

    now: float = 0
    limits: list[float] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def run(self, unit: str, check: Check, limit_sec: float) -> Attempt:
        self.limits.append(limit_sec)
        self.now += limit_sec
        return Attempt(False, timed_out=True)

    def engine(self) -> Engine:
        return Engine(commands=self, clock=self.clock, sleep=self.sleep)


def test_status_0_passes_and_the_output_is_kept() -> None:
    (result,) = run(python("print('fine')"))
    assert (result.result, result.output, result.attempts, result.detail) == (Result.PASSED, "fine", 1, "")


def test_another_status_fails_after_all_retries_and_keeps_both_outputs() -> None:
    (result,) = run(python("import sys; print('out'); sys.exit('err')", retries=2))
    assert (result.result, result.attempts, result.detail) == (Result.FAILED, 3, "exit status 1")
    assert result.output == "out\nerr"


def test_a_retry_that_passes_is_enough(tmp_path: Path) -> None:
    (result,) = run(
        python(f"import os; p = {str(tmp_path / 'a')!r}; os.path.exists(p) or os.mkdir(p) or 1/0", 2)
    )
    assert (result.result, result.attempts) == (Result.PASSED, 2)


def test_a_program_that_does_not_exist_fails_with_a_sentence() -> None:
    (result,) = run(Check("c", ("/nonexistent/program",), retries=0))
    assert result.result is Result.FAILED
    assert "/nonexistent/program" in result.detail


def test_a_command_that_takes_too_long_is_a_timeout() -> None:
    (result,) = run(replace(python("import time; time.sleep(60)"), timeout_sec=0.2))
    assert (result.result, result.detail) == (Result.TIMEOUT, "no answer within 0.2 s")


def test_the_deadline_cuts_the_time_of_an_attempt_and_ends_the_retries() -> None:
    commands = Simulated()
    check = Check("c", ("x",), timeout_sec=10, retries=9, interval_sec=2)
    (result,) = commands.engine().run([check], limit_sec=30)
    assert commands.limits == [10, 10, 6]
    assert (result.result, result.attempts, commands.now) == (Result.TIMEOUT, 3, 30)


def test_a_check_whose_deadline_is_over_is_skipped() -> None:
    (result,) = run(python("pass"), limit_sec=-1)
    assert (result.result, result.attempts) == (Result.SKIPPED, 0)
    assert result.detail == "the deadline was over before it began"


def test_checks_run_side_by_side_and_results_keep_their_order() -> None:
    meeting = threading.Barrier(3, timeout=10)

    def meet(limit_sec: float) -> Outcome:
        meeting.wait()
        return Outcome(True, "")

    results = run(*(Check(name, probe=meet) for name in ("one", "two", "three")))
    assert [(result.name, result.result) for result in results] == [
        ("one", Result.PASSED),
        ("two", Result.PASSED),
        ("three", Result.PASSED),
    ]


def test_a_built_in_check_tells_its_findings_and_has_no_unit() -> None:
    (result,) = run(
        Check("c", probe=probe(False, "One is missing.\nTwo is missing."), retries=1, interval_sec=0)
    )
    assert (result.result, result.attempts, result.unit) == (Result.FAILED, 2, "")
    assert result.detail == "One is missing and 1 more"
    assert result.output == "One is missing.\nTwo is missing."


def test_a_built_in_check_is_told_its_time_limit() -> None:
    told = []

    def note(limit_sec: float) -> Outcome:
        told.append(limit_sec)
        return Outcome(True, "")

    run(Check("c", probe=note, timeout_sec=7))
    assert told == [7]


def test_a_built_in_check_that_hangs_does_not_hang_the_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.boot_health.engine._SLACK_SEC", 0.2)
    never = threading.Event()

    def hang(limit_sec: float) -> Outcome:
        never.wait(60)
        return Outcome(True, "")

    begun = time.monotonic()
    hung, other = run(Check("hung", probe=hang), Check("other", probe=probe(True)), limit_sec=0.2)
    never.set()
    assert time.monotonic() - begun < 10
    assert (hung.result, hung.detail, other.result) == (Result.TIMEOUT, "it hangs", Result.PASSED)


def test_a_fault_in_a_built_in_check_is_a_failed_check() -> None:
    def broken(limit_sec: float) -> Outcome:
        raise KeyError("x")

    broke, other = run(Check("broke", probe=broken), Check("other", probe=probe(True)))
    assert (broke.result, broke.detail, other.result) == (
        Result.FAILED,
        "internal error: KeyError('x')",
        Result.PASSED,
    )


def test_a_check_waits_until_the_units_it_comes_after_are_no_longer_starting() -> None:
    commands = LocalCommands(starting={"a.service": 2, "b.service": 1})
    slept: list[float] = []
    check = Check("c", ("true",), after=("a.service", "b.service"))
    (result,) = Engine(commands=commands, sleep=slept.append).run([check], limit_sec=30)
    assert (result.result, len(slept)) == (Result.PASSED, 3)


def test_a_check_whose_units_do_not_come_up_before_the_deadline_is_skipped() -> None:
    commands = Simulated(starting={"a.service": 1000})
    check = Check("c", ("true",), after=("a.service",))
    (result,) = commands.engine().run([check], limit_sec=5)
    assert (result.result, result.attempts) == (Result.SKIPPED, 0)
    assert result.detail == "a.service was still starting at the deadline"


def test_what_all_checks_come_after_is_asked_for_once_and_not_by_each() -> None:
    commands = LocalCommands(starting={"hypernet.target": 2})
    checks = [Check(name, ("true",), retries=0) for name in ("a", "b", "c")]
    engine = Engine(commands=commands, sleep=lambda _: None)
    results = engine.run(checks, limit_sec=30, after=("hypernet.target",))
    assert [result.result for result in results] == [Result.PASSED] * 3
    assert commands.starting == {"hypernet.target": -1}  # asked three times in all


def test_no_check_begins_when_what_all_come_after_is_not_up_before_the_deadline() -> None:
    commands = Simulated(starting={"hypernet.target": 1000})
    checks = [Check("a", ("true",)), Check("b", probe=probe(True), required=False)]
    results = commands.engine().run(checks, limit_sec=5, after=("hypernet.target",))
    assert commands.now == pytest.approx(5)
    assert commands.units == []
    assert [(each.name, each.required, each.result, each.detail) for each in results] == [
        ("a", True, Result.SKIPPED, "hypernet.target was still starting at the deadline"),
        ("b", False, Result.SKIPPED, "hypernet.target was still starting at the deadline"),
    ]


def test_each_attempt_has_a_unit_of_its_own_and_the_last_one_is_named() -> None:
    commands = LocalCommands()
    (result,) = Engine(commands=commands).run([python("exit(1)", retries=1)], limit_sec=30)
    assert commands.units == ["hypernet-check-c-1.service", "hypernet-check-c-2.service"]
    assert result.unit == "hypernet-check-c-2.service"


def test_a_run_with_a_label_has_units_of_its_own() -> None:
    commands = LocalCommands()
    Engine(commands=commands, label="run:").run([python("pass")], limit_sec=30)
    assert commands.units == ["hypernet-check-run:c-1.service"]


@pytest.mark.parametrize("code", ["pass", "exit(1)"])
def test_only_what_a_failed_command_said_is_worth_waiting_for_the_journal(code: str) -> None:
    commands = LocalCommands()
    Engine(commands=commands).run([python(code), Check("b", probe=probe(False), retries=0)], limit_sec=30)
    assert commands.synced == [code != "pass"]


def test_systemd_that_does_not_answer_fails_the_commands_and_only_those(sent: Journal) -> None:
    checks = [Check("c", ("true",), after=("a.service",), retries=0), Check("b", probe=probe(True))]
    command, builtin = Engine(commands=NoSystemd()).run(checks, limit_sec=30)
    assert (command.result, builtin.result) == (Result.FAILED, Result.PASSED)
    assert command.detail == "Cannot run hypernet-check-c-1.service: the system bus cannot be reached"


def test_no_more_than_16_attempts_run_at_the_same_time() -> None:
    lock, running, most = threading.Lock(), 0, 0

    def count(limit_sec: float) -> Outcome:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1
        return Outcome(True, "")

    results = run(*(Check(f"c{number}", probe=count) for number in range(64)))
    assert all(result.result is Result.PASSED for result in results)
    assert 1 < most <= 16


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
