# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from agents.boot_health import report
from agents.boot_health.engine import CheckResult, Result
from agents.boot_health.errors import ReportInvalid
from agents.boot_health.report import Report
from agents.boot_health.verdict import State


def test_a_report_that_was_written_is_read_back_unchanged(tmp_path: Path) -> None:
    check = CheckResult(
        "api", False, Result.TIMEOUT, 10.25, 2, 'a "b"\nä', "no answer within 5 s", "x.service"
    )
    written = Report(State.DEGRADED, "Why.", "a" * 32, False, (check,), 1_700_000_000_000_000, 2)
    report.write(tmp_path / "health.json", written)
    assert report.read(tmp_path / "health.json") == written


def test_everyone_may_read_the_report(tmp_path: Path) -> None:
    report.write(tmp_path / "health.json", Report())
    assert (tmp_path / "health.json").stat().st_mode & 0o777 == 0o644


def test_no_report_is_an_unknown_state(tmp_path: Path) -> None:
    assert report.read(tmp_path / "health.json").state is State.UNKNOWN


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"state": "x"}', "{", '{"state": "healthy", "checks": 1}']
)
def test_a_report_that_cannot_be_understood_is_an_error_with_a_next_step(tmp_path: Path, text: str) -> None:
    (tmp_path / "health.json").write_text(text, encoding="utf-8")
    with pytest.raises(ReportInvalid, match="systemctl restart hypernet-boot-health"):
        report.read(tmp_path / "health.json")
