# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from agents.boot_health.engine import CheckResult, Result
from agents.boot_health.verdict import State, judge


def check(name: str, result: Result, *, required: bool = True) -> CheckResult:
    return CheckResult(
        name, required, result, 1.0, 3, "", "exit status 7" if result is Result.FAILED else ""
    )


GOOD = check("good", Result.PASSED)
WANTED = check("wanted", Result.FAILED, required=False)
REQUIRED = check("required", Result.FAILED)


@pytest.mark.parametrize(
    ("results", "trial", "state", "good"),
    [
        ([], True, State.HEALTHY, True),
        ([GOOD], True, State.HEALTHY, True),
        ([GOOD], False, State.HEALTHY, True),
        ([GOOD, WANTED], True, State.DEGRADED, True),
        ([GOOD, WANTED], False, State.DEGRADED, True),
        ([GOOD, REQUIRED], True, State.FAILED, False),
        ([GOOD, REQUIRED], False, State.DEGRADED, False),
        ([WANTED, REQUIRED], True, State.FAILED, False),
        ([check("slow", Result.TIMEOUT)], True, State.FAILED, False),
        ([check("late", Result.SKIPPED)], True, State.FAILED, False),
    ],
)
def test_the_verdict_follows_the_table(
    results: list[CheckResult], trial: bool, state: State, good: bool
) -> None:
    verdict = judge(results, trial=trial)
    assert (verdict.state, verdict.good) == (state, good)


def test_the_reason_names_the_required_checks_with_their_ends() -> None:
    verdict = judge([WANTED, REQUIRED, GOOD], trial=True)
    assert verdict.reason == "Required check failed: required (exit status 7, 3 attempts)."


def test_a_healthy_boot_has_no_reason() -> None:
    assert judge([GOOD], trial=True).reason == ""
