# SPDX-License-Identifier: Apache-2.0
"""The verb check, with real files and commands; only systemd, the bus and slot-manager are left out."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest

from agents.boot_health import check, history, messages, report
from agents.boot_health.engine import Engine, Result
from agents.boot_health.history import History
from agents.boot_health.places import Places
from agents.boot_health.report import Report
from agents.boot_health.slots import Slots
from agents.boot_health.verdict import State
from common.errors import InvalidArgument

from .conftest import BOOT_ID, Journal, Tree
from .local import LocalCommands

ROOT_HASH = "ab" * 32
GOOD = "health_checks:\n  - {name: good, command: 'true'}\n"
BAD = "health_checks:\n  - {name: bad, command: sh -c 'echo no; exit 7', retries: 0}\n"
WANTED = "health_checks:\n  - {name: wanted, command: 'false', retries: 0, required: false}\n"


class Told:
    """Whom the command told."""

    def __init__(self) -> None:
        self.announced: list[State] = []
        self.alerts: list[tuple[str, Mapping[str, str | int]]] = []

    def announce(self, places: Places) -> None:
        self.announced.append(report.read(places.report).state)

    def alert(self, summary: str, details: Mapping[str, str | int]) -> None:
        self.alerts.append((summary, details))


def run(
    tree: Tree, *, trial: bool | None, told: Told | None = None, commands: LocalCommands | None = None
) -> tuple[int, Report]:
    known = None if trial is None else Slots(trial, other_good=True, root_hash=ROOT_HASH)
    told = told or Told()
    hands = check.Hands(lambda: (known, "" if known else "No answer."), told.announce, told.alert)
    status = check.run(tree.places, engine=Engine(commands=commands or LocalCommands()), hands=hands)
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


@pytest.mark.parametrize(("system", "trial"), [(ROOT_HASH, False), ("cd" * 32, True)])
def test_a_rearmed_good_slot_is_no_trial_when_slot_manager_is_silent_and_a_new_one_is(
    tree: Tree, sent: Journal, system: str, trial: bool
) -> None:
    tree.image(BAD)
    run(tree, trial=False)  # slot-manager answers: the system with ROOT_HASH is no trial
    tree.efi("LoaderBootCountPath", "\\EFI\\Linux\\hypernet_2.0.0+4-1.efi")
    tree.cmdline(system)
    _, written = run(tree, trial=None)
    assert (written.trial, written.state) == (trial, State.FAILED if trial else State.DEGRADED)


def test_a_system_that_is_tried_again_is_a_trial_although_it_was_none_before(
    tree: Tree, sent: Journal
) -> None:
    tree.image(GOOD)
    run(tree, trial=False)
    run(tree, trial=True)
    tree.efi("LoaderBootCountPath", "\\EFI\\Linux\\hypernet_2.0.0+1-2.efi")
    tree.cmdline(ROOT_HASH)
    assert run(tree, trial=None)[1].trial


def test_every_check_waits_for_hypernet_target_which_is_asked_for_once(tree: Tree, sent: Journal) -> None:
    tree.image(GOOD)
    tree.admin(WANTED)
    commands = LocalCommands(starting={"hypernet.target": 1})
    run(tree, trial=True, commands=commands)
    assert commands.starting == {"hypernet.target": -1}  # once while it was starting, once after that
    assert len(commands.units) == 2


class NeverUp(LocalCommands):
    """hypernet.target is starting for ever."""

    def busy(self, unit: str) -> bool:
        return unit == "hypernet.target"


def test_a_boot_whose_application_never_comes_up_has_its_verdict_at_the_deadline(
    tree: Tree, sent: Journal
) -> None:
    tree.image(GOOD)
    (tree.places.proc / "1/stat").write_text("1 (systemd) S" + " 0" * 40, encoding="ascii")
    status, written = run(tree, trial=True, commands=NeverUp())
    assert (status, written.state) == (1, State.FAILED)
    assert written.reason == (
        "Required check failed: good (hypernet.target was still starting at the deadline)."
    )


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


def test_the_report_has_the_time_at_which_the_checks_have_to_be_done(tree: Tree, sent: Journal) -> None:
    tree.image(GOOD)
    tree.admin("deadline: 1min\n")
    left_sec = run(tree, trial=True)[1].deadline_usec / 1_000_000 - time.time()
    assert 30 < left_sec <= 60


def test_the_verdict_is_announced_once_and_is_in_the_report_by_then(tree: Tree, sent: Journal) -> None:
    tree.image(BAD)
    told = Told()
    run(tree, trial=True, told=told)
    assert told.announced == [State.FAILED]


@pytest.mark.parametrize(("text", "trial"), [(WANTED, True), (WANTED, False), (BAD, False)])
def test_a_degraded_boot_raises_an_alert(tree: Tree, sent: Journal, text: str, trial: bool) -> None:
    tree.image(text)
    told = Told()
    _, written = run(tree, trial=trial, told=told)
    ((summary, details),) = told.alerts
    assert summary == f"This boot is degraded. {written.reason}"
    assert details["boot_id"] == BOOT_ID


@pytest.mark.parametrize(("text", "trial"), [(GOOD, True), (BAD, True)])
def test_a_healthy_boot_and_a_failed_trial_raise_no_alert(
    tree: Tree, sent: Journal, text: str, trial: bool
) -> None:
    tree.image(text)
    told = Told()
    run(tree, trial=trial, told=told)
    assert told.alerts == []


def earlier(tree: Tree, failures: int) -> None:
    history.save(tree.places.history, History(ROOT_HASH, "f" * 32, failures, 0))


def test_a_boot_that_is_not_good_is_counted_once_however_often_it_is_checked(
    tree: Tree, sent: Journal
) -> None:
    tree.image(BAD)
    earlier(tree, 1)
    assert run(tree, trial=False)[1].consecutive_failures == 2
    assert run(tree, trial=False)[1].consecutive_failures == 2
    assert history.load(tree.places.history).failures == 2


@pytest.mark.parametrize("text", [GOOD, WANTED])
def test_a_boot_in_which_every_required_check_passes_ends_the_count(
    tree: Tree, sent: Journal, text: str
) -> None:
    tree.image(text)
    earlier(tree, 2)
    assert run(tree, trial=False)[1].consecutive_failures == 0
    assert history.load(tree.places.history).failures == 0


def test_a_healthy_boot_after_a_healthy_boot_of_the_same_system_writes_no_history(
    tree: Tree, sent: Journal
) -> None:
    tree.image(GOOD)
    run(tree, trial=True)
    assert not tree.places.history.exists()
    run(tree, trial=False)
    assert history.load(tree.places.history).proven == ROOT_HASH
    tree.places.history.unlink()
    history.save(tree.places.history, History(proven=ROOT_HASH))
    written = tree.places.history.stat()
    run(tree, trial=False)
    assert tree.places.history.stat().st_ino == written.st_ino


@pytest.mark.parametrize(
    ("before", "shown"),
    [
        (History(ROOT_HASH, "f" * 32, 2, 1), 2),
        (History(ROOT_HASH, BOOT_ID, 2, 1), 1),
        (History("cd" * 32, "f" * 32, 2, 1), 0),
    ],
    ids=["of earlier boots", "run again", "of another system"],
)
def test_while_the_checks_run_the_failures_before_this_boot_of_this_system_are_shown(
    tree: Tree, sent: Journal, before: History, shown: int
) -> None:
    tree.image(f"health_checks:\n  - {{name: look, command: cat {tree.places.report}}}\n")
    history.save(tree.places.history, before)
    _, written = run(tree, trial=False)
    assert f'"consecutive_failures": {shown}\n' in written.checks[0].output


def test_a_history_that_cannot_be_written_does_not_change_the_verdict(tree: Tree, sent: Journal) -> None:
    tree.image(BAD)
    tree.places.history.parent.rmdir()
    assert run(tree, trial=False)[0] == 1
    assert any("is not counted" in text for _, text in sent.messages)


def test_one_check_is_run_and_the_verdict_stays_what_it_was(tree: Tree, sent: Journal) -> None:
    tree.image(GOOD)
    run(tree, trial=False)
    tree.admin(BAD)
    result = check.run_one(tree.places, "bad", engine=Engine(commands=LocalCommands()))
    assert (result.result, result.output, result.attempts) == (Result.FAILED, "no", 1)
    assert report.read(tree.places.report).state is State.HEALTHY


def test_a_check_that_does_not_exist_cannot_be_run(tree: Tree) -> None:
    tree.image(GOOD)
    with pytest.raises(InvalidArgument, match="There is no health check 'other'"):
        check.run_one(tree.places, "other")


def test_a_check_of_a_wrong_file_cannot_be_run_and_the_mistake_is_named(tree: Tree) -> None:
    tree.admin("health_checks:\n  - {name: a, command: x}\n  - {name: b}\n")
    with pytest.raises(InvalidArgument, match=r"health\.yaml:3: "):
        check.run_one(tree.places, "a")
