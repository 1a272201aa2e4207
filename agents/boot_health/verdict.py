# SPDX-License-Identifier: Apache-2.0
"""From the results of checks to the verdict on a boot.

=================  ==================  ========  ===========================
required checks    other checks        trial     verdict
=================  ==================  ========  ===========================
all passed         all passed          any       healthy
all passed         one did not         any       degraded, and the boot counts as good
one did not        any                 no        degraded, and the boot is not blessed
one did not        any                 yes       failed
=================  ==================  ========  ===========================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from agents.boot_health.engine import CheckResult, Result


class State(StrEnum):
    """The property State of io.hypernet.BootHealth1."""

    UNKNOWN = "unknown"
    CHECKING = "checking"
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Verdict:
    """state is healthy, degraded or failed; reason is one sentence, empty when healthy; good says whether
    boot-complete.target may be reached."""

    state: State
    reason: str
    good: bool


def judge(results: Sequence[CheckResult], *, trial: bool) -> Verdict:
    """Apply the table above."""
    bad = [result for result in results if result.result is not Result.PASSED]
    required = [result for result in bad if result.required]
    if not bad:
        return Verdict(State.HEALTHY, "", good=True)
    if not required:
        return Verdict(State.DEGRADED, _sentence(bad), good=True)
    return Verdict(State.FAILED if trial else State.DEGRADED, _sentence(required), good=False)


def _sentence(bad: Sequence[CheckResult]) -> str:
    kind = "Required check" if bad[0].required else "Check"
    plural = "s" if len(bad) > 1 else ""
    return f"{kind}{plural} failed: {'; '.join(map(describe, bad))}."


def describe(result: CheckResult) -> str:
    """Return half a sentence on a check that did not pass."""
    if result.attempts == 0:
        return f"{result.name} ({result.detail})"
    times = "1 attempt" if result.attempts == 1 else f"{result.attempts} attempts"
    return f"{result.name} ({result.detail}, {times})"
