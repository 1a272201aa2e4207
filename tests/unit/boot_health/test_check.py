# SPDX-License-Identifier: Apache-2.0
"""The verb check, with real files and commands; only systemd-run and slot-manager are left out."""

from __future__ import annotations

import pytest

from agents.boot_health import check, messages, report
from agents.boot_health.engine import Engine, Result
from agents.boot_health.report import Report
from agents.boot_health.slots import Slots
from agents.boot_health.verdict import State

from .conftest import BOOT_ID, Journal, Tree

ENGINE = Engine(prefix=lambda check, attempt, limit_sec: ())
GOOD = "health_checks:\n  - {name: good, command: 'true'}\n"
BAD = "health_checks:\n  - {name: bad, command: sh -c 'echo no; exit 7', attempts: 1}\n"
WANTED = "health_checks:\n  - {name: wanted, command: 'false', attempts: 1, required: false}\n"


def run(tree: Tree, *, trial: bool | None) -> tuple[int, Report]:
    known = None if trial is None else Slots(trial, other_good=True)
    status = check.run(tree.places, engine=ENGINE, query=lambda: (known, "" if known else "No answer."))
    return status, report.read(tree.places.report)


def test_a_healthy_boot_is_reported_and_lets_the_boot_complete(tree: Tree, sent: Journal) -> None:
    tree.image(GOOD)
    status, written = run(tree, trial=True)
    assert (status, written.state, written.reason) == (0, State.HEALTHY, "")
    assert (written.boot_id, written.trial) == (BOOT_ID, True)
    assert sent.ids == [messages.VERDICT_HEALTHY]
    assert not tree.places.motd.exists()


def test_a_failed_required_check_fails_a_trial(tree: Tree, sent: Journal) -> None:
    tree.image(GOOD)
    tree.admin(BAD)
    status, written = run(tree, trial=True)
    assert (status, written.state) == (1, State.FAILED)
    assert written.reason == "Required check failed: bad (exit status 7, 1 attempt)."
    assert written.checks[1].output == "no"
    assert sent.ids == [messages.CHECK_FAILED, messages.VERDICT_FAILED]


def test_a_failed_required_check_degrades_a_slot_that_was_good_and_the_boot_is_not_complete(
    tree: Tree, sent: Journal
) -> None:
    tree.image(BAD)
    status, written = run(tree, trial=False)
    assert (status, written.state) == (1, State.DEGRADED)
    assert sent.ids == [messages.CHECK_FAILED, messages.VERDICT_DEGRADED]


def test_a_failed_check_that_is_not_required_degrades_a_boot_that_completes(
    tree: Tree, sent: Journal
) -> None:
    tree.image(WANTED)
    status, written = run(tree, trial=True)
    assert (status, written.state) == (0, State.DEGRADED)


def test_the_next_login_is_told_about_a_degraded_boot_until_it_is_healthy(tree: Tree, sent: Journal) -> None:
    tree.image(WANTED)
    run(tree, trial=False)
    text = tree.places.motd.read_text(encoding="utf-8")
    assert text.startswith("This boot is degraded. Check failed: wanted (exit status 1, 1 attempt).\n")
    tree.image(GOOD)
    run(tree, trial=False)
    assert not tree.places.motd.exists()


def test_a_wrong_configuration_is_a_failed_required_check_beside_the_others(
    tree: Tree, sent: Journal
) -> None:
    tree.image(GOOD)
    tree.admin("health_check: []\n")
    status, written = run(tree, trial=True)
    assert (status, written.state) == (1, State.FAILED)
    assert [(item.name, item.result) for item in written.checks] == [
        ("configuration", Result.FAILED),
        ("good", Result.PASSED),
    ]
    assert f"{tree.places.admin_config}:1: health_check: unknown key" in written.reason


@pytest.mark.parametrize("counted", [False, True])
def test_the_boot_loader_tells_whether_it_is_a_trial_when_slot_manager_is_silent(
    tree: Tree, sent: Journal, counted: bool
) -> None:
    tree.image(GOOD)
    if counted:
        tree.efi("LoaderBootCountPath", "\\EFI\\Linux\\hypernet_2.0.0+2-1.efi")
    _, written = run(tree, trial=None)
    assert written.trial is counted
    assert "No answer" in sent.messages[0][1]


def test_checks_that_begin_after_the_deadline_are_skipped(tree: Tree, sent: Journal) -> None:
    tree.image(GOOD)
    (tree.places.proc / "1/stat").write_text("1 (systemd) S" + " 0" * 40, encoding="ascii")
    tree.admin("deadline: 10s\n")
    status, written = run(tree, trial=True)
    assert status == 1
    assert written.reason == "Required check failed: good (the deadline was over before it began)."


def test_the_deadline_of_a_second_run_in_the_same_boot_counts_from_its_start(
    tree: Tree, sent: Journal
) -> None:
    tree.image(GOOD)
    (tree.places.proc / "1/stat").write_text("1 (systemd) S" + " 0" * 40, encoding="ascii")
    tree.admin("deadline: 10s\n")
    run(tree, trial=False)
    status, written = run(tree, trial=False)
    assert (status, written.state) == (0, State.HEALTHY)


def test_a_run_after_the_boot_was_given_up_has_a_deadline_of_its_own(tree: Tree, sent: Journal) -> None:
    tree.image(GOOD)
    (tree.places.proc / "1/stat").write_text("1 (systemd) S" + " 0" * 40, encoding="ascii")
    tree.admin("deadline: 10s\n")
    report.write(tree.places.report, Report(State.DEGRADED, "No verdict.", BOOT_ID, False))
    assert run(tree, trial=False)[0] == 0


def test_a_report_that_cannot_be_understood_is_replaced(tree: Tree, sent: Journal) -> None:
    tree.image(GOOD)
    tree.places.report.write_text("{}", encoding="utf-8")
    assert run(tree, trial=True)[0] == 0


def test_the_report_says_checking_while_the_checks_run(tree: Tree, sent: Journal) -> None:
    tree.image(f"health_checks:\n  - {{name: look, command: cat {tree.places.report}}}\n")
    _, written = run(tree, trial=True)
    assert '"state": "checking"' in written.checks[0].output
