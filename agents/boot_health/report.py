# SPDX-License-Identifier: Apache-2.0
"""The report on this boot, /run/hypernet/health.json, and the line that a login shows.

The file is written by ``boot-health check`` and by ``boot-health decide``; it is replaced as a whole, and
readable by everyone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from agents.boot_health.engine import CheckResult, Result
from agents.boot_health.errors import ReportInvalid
from agents.boot_health.verdict import State
from common import files

MAX_REPORT_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Report:
    """What is known about the health of one boot. boot_id: 32 hex digits, empty before the first check.
    deadline_usec: when the checks have to be done, on CLOCK_REALTIME, 0 if that is not known.
    consecutive_failures: boots in a row, this one included, that were not good.
    """

    state: State = State.UNKNOWN
    reason: str = ""
    boot_id: str = ""
    trial: bool = False
    checks: tuple[CheckResult, ...] = ()
    deadline_usec: int = 0
    consecutive_failures: int = 0

    @property
    def required_failed(self) -> bool:
        """Whether a required check did not pass."""
        return any(check.required and check.result is not Result.PASSED for check in self.checks)


def read(path: Path) -> Report:
    """Return the report; the default Report if there is none. Raises ReportInvalid, FileError."""
    try:
        data = files.read_bounded(path, MAX_REPORT_BYTES)
    except files.FileMissing:
        return Report()
    try:
        return _report(json.loads(data))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ReportInvalid(
            f"The health report {path} cannot be understood;"
            " 'systemctl restart hypernet-boot-health' writes a new one."
        ) from error


def write(path: Path, report: Report) -> None:
    """Replace the report. Raises FileError."""
    text = json.dumps(asdict(report), ensure_ascii=False, indent=1)
    files.write_atomic(path, text.encode("utf-8", "replace") + b"\n")


def write_motd(path: Path, report: Report) -> None:
    """Write what pam_motd(8) shows at a login, or remove it when all is well. Raises FileError."""
    if report.state in (State.HEALTHY, State.CHECKING, State.UNKNOWN):
        files.remove_durable(path)
        return
    text = f"This boot is {report.state}. {report.reason}\n'hypernet-admin health' shows the checks.\n"
    files.write_atomic(path, text.encode("utf-8", "replace"))


def _report(data: Mapping[str, Any]) -> Report:
    return Report(
        state=State(data["state"]),
        reason=str(data["reason"]),
        boot_id=str(data["boot_id"]),
        trial=bool(data["trial"]),
        checks=tuple(_check(item) for item in data["checks"]),
        deadline_usec=int(data["deadline_usec"]),
        consecutive_failures=int(data["consecutive_failures"]),
    )


def _check(item: Mapping[str, Any]) -> CheckResult:
    return CheckResult(
        name=str(item["name"]),
        required=bool(item["required"]),
        result=Result(item["result"]),
        duration_sec=float(item["duration_sec"]),
        attempts=int(item["attempts"]),
        output=str(item["output"]),
        detail=str(item["detail"]),
        unit=str(item["unit"]),
    )
