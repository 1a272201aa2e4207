# SPDX-License-Identifier: Apache-2.0
"""The verbs: a failed unit and a test become alerts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agents.alerter.__main__ import main
from agents.alerter.places import Places

from .conftest import Journal


@pytest.fixture(autouse=True)
def no_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("UNIT", "SERVICE_RESULT", "EXIT_CODE", "EXIT_STATUS", "INVOCATION_ID"):
        monkeypatch.delenv(f"MONITOR_{key}", raising=False)
    monkeypatch.setattr("common.journal.setup", lambda program: None)


def raised(places: Places) -> dict[str, Any]:
    (file,) = places.inbox.iterdir()
    content: dict[str, Any] = json.loads(file.read_bytes())
    return content


def test_a_failed_unit_is_told_with_what_systemd_knows(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONITOR_UNIT", "app.service")
    monkeypatch.setenv("MONITOR_SERVICE_RESULT", "exit-code")
    monkeypatch.setenv("MONITOR_EXIT_CODE", "exited")
    monkeypatch.setenv("MONITOR_EXIT_STATUS", "3")

    assert main(["unit-failed", "app.service"]) == 0

    alert = raised(places)
    assert (alert["kind"], alert["summary"]) == (
        "unit-failed",
        "The unit app.service has failed (exit-code).",
    )
    assert alert["details"] == {
        "unit": "app.service",
        "result": "exit-code",
        "exit": "exited",
        "status": "3",
        "more": "journalctl --unit=app.service",
    }


def test_facts_of_another_unit_are_left_out(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONITOR_UNIT", "other.service")
    monkeypatch.setenv("MONITOR_SERVICE_RESULT", "oom-kill")

    assert main(["unit-failed", "app.service"]) == 0

    assert raised(places)["summary"] == "The unit app.service has failed."


@pytest.mark.parametrize("argv", [["test"], ["unit-failed", "test"]])
def test_a_test_is_an_alert_of_its_own_kind(places: Places, argv: list[str]) -> None:
    assert main(argv) == 0

    assert raised(places)["kind"] == "test"


def test_what_cannot_be_raised_is_a_failure(places: Places, sent: Journal) -> None:
    places.inbox.parent.mkdir()
    places.inbox.touch()

    assert main(["test"]) == 1
    assert "Nobody can be told" in sent.text


def test_a_unit_whose_start_never_began_is_not_told_as_a_success(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    # systemd 252 gives the result of the last start, although the job failed for another unit's sake.
    monkeypatch.setenv("MONITOR_UNIT", "app.service")
    monkeypatch.setenv("MONITOR_SERVICE_RESULT", "success")

    assert main(["unit-failed", "app.service"]) == 0

    assert raised(places)["summary"] == (
        "The unit app.service has failed (a unit that it requires failed, or it took too long to start)."
    )
