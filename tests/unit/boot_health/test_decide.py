# SPDX-License-Identifier: Apache-2.0
"""The verb decide, with real files and a machine that notes what is done to it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from agents.boot_health import decide, messages, report
from agents.boot_health.engine import CheckResult, Result
from agents.boot_health.report import Report
from agents.boot_health.slots import Slots
from agents.boot_health.verdict import State
from common.errors import ERROR_PREFIX, AgentError

from .conftest import BOOT_ID, Journal, Tree

COUNT_PATH = "\\EFI\\Linux\\hypernet_2.0.0+2-1.efi"
REASON = "Required check failed: bad (exit status 7, 1 attempt)."
BAD_CHECK = CheckResult("bad", True, Result.FAILED, 0.1, 1, "no", "exit status 7")
FAILED = Report(State.FAILED, REASON, BOOT_ID, True, (BAD_CHECK,))


class OtherSlotNotGood(AgentError):
    dbus_name = ERROR_PREFIX + "OtherSlotNotGood"


@dataclass
class Machine:
    slots: Slots | None
    mark_error: AgentError | None = None
    done: list[str] = field(default_factory=list)

    def hands(self) -> decide.Hands:
        return decide.Hands(
            query=lambda: (self.slots, "" if self.slots else "No answer."),
            mark_booted_bad=self.mark,
            give_back_the_try=self.give_back,
            reboot=lambda: self.done.append("reboot"),
            failed_units=lambda: ("other.service",),
        )

    def mark(self, reason: str) -> None:
        if self.mark_error:
            raise self.mark_error
        self.done.append(f"bad: {reason}")

    def give_back(self) -> None:
        if self.mark_error:
            raise self.mark_error
        self.done.append("give back")


TRIAL = Slots(trial=True, other_good=True)


def run(tree: Tree, machine: Machine, last: Report | None = FAILED) -> list[str]:
    if last is not None:
        report.write(tree.places.report, last)
    assert decide.run(tree.places, machine.hands()) == 0
    return machine.done


def test_a_failed_trial_marks_the_slot_bad_with_the_reason_before_the_reboot(
    tree: Tree, sent: Journal
) -> None:
    assert run(tree, Machine(TRIAL)) == [f"bad: {REASON}", "reboot"]
    assert sent.ids == [messages.DECISION_ROLLBACK]


def test_a_failed_trial_with_retry_only_reboots(tree: Tree, sent: Journal) -> None:
    tree.admin("trial_failure: retry\n")
    tree.efi("LoaderBootCountPath", COUNT_PATH)
    assert run(tree, Machine(TRIAL)) == ["reboot"]
    assert sent.ids == [messages.DECISION_REBOOT]


def test_a_slot_that_was_good_stays_degraded(tree: Tree, sent: Journal) -> None:
    assert run(tree, Machine(Slots(trial=False, other_good=True))) == []
    written = report.read(tree.places.report)
    assert (written.state, written.reason, written.checks) == (State.DEGRADED, REASON, (BAD_CHECK,))
    assert REASON in tree.places.motd.read_text(encoding="utf-8")
    assert sent.ids == [messages.DECISION_STAY]


def test_a_degraded_boot_of_a_good_slot_gets_back_the_try_that_the_loader_took(
    tree: Tree, sent: Journal
) -> None:
    assert run(tree, Machine(Slots(trial=False, other_good=True, rearmed=True))) == ["give back"]


def test_a_try_that_cannot_be_given_back_does_not_change_the_decision(tree: Tree, sent: Journal) -> None:
    slots = Slots(trial=False, other_good=True, rearmed=True)
    assert run(tree, Machine(slots, AgentError("The ESP is read-only."))) == []
    assert report.read(tree.places.report).state is State.DEGRADED


def test_a_trial_beside_a_slot_that_is_not_good_stays(tree: Tree, sent: Journal) -> None:
    assert run(tree, Machine(Slots(trial=True, other_good=False))) == []


def test_a_boot_without_tries_left_stays(tree: Tree, sent: Journal) -> None:
    tree.efi("LoaderEntrySelected", "hypernet_2.0.0+0-3.efi")
    assert run(tree, Machine(TRIAL)) == []


@pytest.mark.parametrize("last", [None, Report(State.CHECKING, "", BOOT_ID, True)])
def test_a_boot_without_a_verdict_is_marked_bad_for_that_reason(
    tree: Tree, sent: Journal, last: Report | None
) -> None:
    assert run(tree, Machine(TRIAL), last) == [
        "bad: The boot reached no verdict within the time limit.",
        "reboot",
    ]


def test_a_report_of_another_boot_is_no_verdict(tree: Tree, sent: Journal) -> None:
    done = run(tree, Machine(TRIAL), Report(State.HEALTHY, "", "f" * 32, False))
    assert done[0] == f"bad: {decide.NO_VERDICT}"


def test_another_unit_that_keeps_the_boot_from_completing_is_named(tree: Tree, sent: Journal) -> None:
    done = run(tree, Machine(TRIAL), Report(State.HEALTHY, "", BOOT_ID, True))
    assert done[0].endswith(
        "another unit kept boot-complete.target from being reached; failed units: other.service."
    )


@pytest.mark.parametrize(("counted", "done"), [(True, ["reboot"]), (False, [])])
def test_without_slot_manager_a_counted_boot_reboots_and_another_stays(
    tree: Tree, sent: Journal, counted: bool, done: list[str]
) -> None:
    if counted:
        tree.efi("LoaderBootCountPath", COUNT_PATH)
    assert run(tree, Machine(None)) == done


def test_a_trial_that_cannot_be_marked_reboots_and_uses_up_a_try(tree: Tree, sent: Journal) -> None:
    tree.efi("LoaderBootCountPath", COUNT_PATH)
    assert run(tree, Machine(TRIAL, AgentError("The ESP is read-only."))) == ["reboot"]
    assert sent.ids == [messages.DECISION_REBOOT]


def test_a_trial_that_can_be_neither_marked_nor_counted_does_not_reboot_for_ever(
    tree: Tree, sent: Journal
) -> None:
    assert run(tree, Machine(TRIAL, AgentError("The ESP is read-only."))) == []
    assert sent.ids == [messages.DECISION_STAY]


def test_a_trial_stays_when_slot_manager_says_that_the_other_slot_is_not_good(
    tree: Tree, sent: Journal
) -> None:
    assert run(tree, Machine(TRIAL, OtherSlotNotGood("Slot a is not good."))) == []
    assert sent.ids == [messages.DECISION_STAY]


def test_a_wrong_configuration_does_not_keep_a_trial_from_going_back(tree: Tree, sent: Journal) -> None:
    tree.admin("trial_failure: [\n")
    assert run(tree, Machine(TRIAL))[-1] == "reboot"


def test_the_console_is_told_what_happens_and_why(
    tree: Tree, sent: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tree, Machine(TRIAL))
    line = capsys.readouterr().out
    assert line.startswith("hypernet: The machine goes back to the other slot: ")
    assert REASON in line
