# SPDX-License-Identifier: Apache-2.0
"""Which facts about slots become alerts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents.slot_manager import attempts, lifecycle, tell
from agents.slot_manager.machine import Machine
from common.errors import AgentError, Busy, Cancelled
from tests.fakes.slot_lab import Lab


def alerts_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in sorted(folder.glob("*.json"))]


def go_back(lab: Lab) -> None:
    """The loader starts slot a again."""
    lab.boot("a", selected="hypernet_1.0.0.efi")


def test_a_failed_trial_is_told_once_from_the_slot_that_runs_again(trying: Lab, raised: Path) -> None:
    lifecycle.mark_bad(trying.machine, "b", "check web failed")
    go_back(trying)
    assert alerts_in(raised) == []

    for _ in range(3):
        lifecycle.bless(trying.machine)

    (alert,) = alerts_in(raised)
    assert alert["kind"] == "rolled-back"
    assert alert["summary"] == "The machine went back from 2.0.0 to 1.0.0: check web failed"
    assert alert["details"] == {
        "from": "2.0.0 (slot b)",
        "to": "1.0.0 (slot a)",
        "reason": "check web failed",
    }


def test_a_rollback_by_order_is_told_after_the_reboot(both_good: Lab, raised: Path) -> None:
    lifecycle.rollback(both_good.machine, "too slow")
    assert alerts_in(raised) == []
    go_back(both_good)

    lifecycle.bless(both_good.machine)

    assert [alert["summary"] for alert in alerts_in(raised)] == [
        "The machine went back from 2.0.0 to 1.0.0: too slow"
    ]


def test_what_could_not_be_told_is_told_by_the_next_good_boot(both_good: Lab, raised: Path) -> None:
    lifecycle.rollback(both_good.machine, "too slow")
    go_back(both_good)
    raised.touch()
    lifecycle.bless(both_good.machine)
    raised.unlink()

    lifecycle.bless(both_good.machine)

    assert len(alerts_in(raised)) == 1


@pytest.mark.parametrize(
    "step",
    [lifecycle.rearm, lambda machine: lifecycle.mark_good(machine, "a")],
    ids=["its tries are given back", "an administrator calls it good"],
)
def test_a_rollback_into_a_slot_that_comes_up_degraded_is_told_there(
    both_good: Lab, raised: Path, at_login: Path, step: Callable[[Machine], object]
) -> None:
    lifecycle.rollback(both_good.machine, "too slow")
    go_back(both_good)

    step(both_good.machine)

    assert [alert["details"]["reason"] for alert in alerts_in(raised)] == ["too slow"]
    assert "went back from 2.0.0 to 1.0.0" in at_login.read_text()


def test_a_failed_trial_is_known_before_the_boot_that_follows_has_a_verdict(
    trying: Lab, raised: Path, at_login: Path
) -> None:
    lifecycle.mark_bad(trying.machine, "b", "check web failed")
    go_back(trying)

    assert not attempts.count_attempt(trying.machine, "the next boot")

    record = trying.machine.store.load()
    assert record.last_rollback is not None
    assert record.last_rollback.reason == "check web failed"
    tell.rolled_back(trying.machine.store, record, "a")
    lifecycle.bless(trying.machine)
    assert len(alerts_in(raised)) == 1
    assert "check web failed" in at_login.read_text()


def test_a_slot_that_runs_because_there_is_nothing_better_is_no_way_back_before_its_verdict(
    trying: Lab,
) -> None:
    lifecycle.mark_bad(trying.machine, "b", "check failed")
    (trying.linux / "hypernet_1.0.0.efi").rename(trying.linux / "hypernet_1.0.0+0-5.efi")
    trying.try_once("hypernet_2.0.0+0-2.efi", "b")

    attempts.count_attempt(trying.machine, "the next boot")

    assert trying.machine.store.load().last_rollback is None


def test_a_machine_that_never_went_back_tells_nothing(trying: Lab, raised: Path) -> None:
    lifecycle.bless(trying.machine)

    assert alerts_in(raised) == []


def test_a_failed_update_is_told_with_its_source_and_owner(raised: Path) -> None:
    tell.update_failed("/media/hypernet.img", "root", AgentError("The image is damaged."))

    (alert,) = alerts_in(raised)
    assert alert["kind"] == "update-failed"
    assert alert["summary"] == "An update could not be installed: The image is damaged."
    assert alert["details"] == {
        "source": "/media/hypernet.img",
        "started by": "root",
        "error": "io.hypernet.Error.Failed",
    }


@pytest.mark.parametrize("error", [Cancelled("Cancelled."), Busy("Wait.")])
def test_who_ended_an_update_is_not_told_so(raised: Path, error: AgentError) -> None:
    tell.update_failed("/media/hypernet.img", "root", error)

    assert alerts_in(raised) == []
