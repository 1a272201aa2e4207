# SPDX-License-Identifier: Apache-2.0
"""The verb decide, with real files and a machine that notes what is done to it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest

from agents.boot_health import decide, history, messages, report
from agents.boot_health.engine import CheckResult, Result
from agents.boot_health.history import History
from agents.boot_health.places import Places
from agents.boot_health.report import Report
from agents.boot_health.slots import Slots
from agents.boot_health.verdict import State
from common.errors import ERROR_PREFIX, AgentError

from .conftest import BOOT_ID, Journal, Tree

COUNT_PATH = "\\EFI\\Linux\\hypernet_2.0.0+2-1.efi"
REASON = "Required check failed: bad (exit status 7, 1 attempt)."
BAD_CHECK = CheckResult("bad", True, Result.FAILED, 0.1, 1, "no", "exit status 7")
FAILED = Report(State.FAILED, REASON, BOOT_ID, True, (BAD_CHECK,))
DEGRADED = replace(FAILED, state=State.DEGRADED, trial=False, consecutive_failures=1)
CHECKING = Report(State.CHECKING, "", BOOT_ID, True)
ROOT_HASH = "ab" * 32


class OtherSlotNotGood(AgentError):
    dbus_name = ERROR_PREFIX + "OtherSlotNotGood"


@dataclass
class Machine:
    slots: Slots | None
    mark_error: AgentError | None = None
    rollback_error: AgentError | None = None
    failed: tuple[str, ...] = ("other.service",)
    done: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def hands(self) -> decide.Hands:
        return decide.Hands(
            query=lambda: (self.slots, "" if self.slots else "No answer."),
            mark_booted_bad=self.mark,
            give_back_the_try=self.give_back,
            reboot=lambda: self.done.append("reboot"),
            failed_units=lambda: self.failed,
            start_rollback=self.start_rollback,
            announce=self.announce,
            alert=self.alert,
        )

    def announce(self, places: Places, before: Report) -> None:
        self.told.append(f"bus: {report.read(places.report).state}")

    def alert(self, summary: str, details: Mapping[str, str]) -> None:
        self.told.append(f"alert: {summary} {details['because']}")

    def start_rollback(self) -> None:
        if self.rollback_error:
            raise self.rollback_error
        self.done.append("start hypernet-rollback.target")

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


@pytest.mark.parametrize("last", [None, CHECKING])
def test_a_boot_without_a_verdict_is_marked_bad_for_that_reason(
    tree: Tree, sent: Journal, last: Report | None
) -> None:
    (tree.places.proc / "1/stat").write_text("1 (systemd) S" + " 0" * 40, encoding="ascii")
    tree.admin("deadline: 10s\n")
    assert run(tree, Machine(TRIAL), last) == [
        "bad: The boot reached no verdict within the time limit.",
        "reboot",
    ]


def test_checks_that_were_run_again_have_a_time_limit_of_their_own(tree: Tree, sent: Journal) -> None:
    (tree.places.proc / "1/stat").write_text("1 (systemd) S" + " 0" * 40, encoding="ascii")
    again = replace(CHECKING, deadline_usec=(int(time.time()) + 60) * 1_000_000)
    assert "other.service" in run(tree, Machine(TRIAL), again)[0]
    over = replace(again, deadline_usec=1)
    assert run(tree, Machine(TRIAL), over)[0] == f"bad: {decide.NO_VERDICT}"


@pytest.mark.parametrize("last", [None, CHECKING])
@pytest.mark.parametrize(
    ("failed", "named"),
    [
        (("gate.service", "hypernet-boot-health.service"), "; failed units: gate.service."),
        (("hypernet-boot-health.service",), "; failed units: hypernet-boot-health.service."),
        ((), "."),
    ],
    ids=["another unit", "the checks themselves", "none"],
)
def test_before_the_deadline_what_failed_is_named_and_not_the_time(
    tree: Tree, sent: Journal, last: Report | None, failed: tuple[str, ...], named: str
) -> None:
    done = run(tree, Machine(TRIAL, failed=failed), last)
    assert done == [f"bad: The boot reached no verdict{named}", "reboot"]


def test_a_report_of_another_boot_is_no_verdict(tree: Tree, sent: Journal) -> None:
    done = run(tree, Machine(TRIAL), Report(State.HEALTHY, "", "f" * 32, False))
    assert done[0].startswith("bad: The boot reached no verdict")


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


def test_without_slot_manager_a_rearmed_slot_that_was_good_before_is_not_rebooted_until_its_tries_are_gone(
    tree: Tree, sent: Journal
) -> None:
    tree.efi("LoaderBootCountPath", COUNT_PATH)
    tree.cmdline(ROOT_HASH)
    history.save(tree.places.history, History(proven=ROOT_HASH))
    assert run(tree, Machine(None)) == []
    assert history.load(tree.places.history).root_hash == ROOT_HASH
    tree.cmdline("cd" * 32)
    assert run(tree, Machine(None)) == ["reboot"]


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


GOOD = Slots(trial=False, other_good=True, rearmed=True, root_hash=ROOT_HASH)


def failed_before(tree: Tree, failures: int, root_hash: str = ROOT_HASH) -> None:
    history.save(tree.places.history, History(root_hash, "f" * 32, failures))


def test_a_good_slot_stays_until_the_limit_of_failed_boots_in_a_row(tree: Tree, sent: Journal) -> None:
    failed_before(tree, 1)
    assert run(tree, Machine(GOOD), DEGRADED) == ["give back"]
    assert report.read(tree.places.report).consecutive_failures == 2


def test_a_good_slot_is_given_up_at_the_limit_of_failed_boots_in_a_row(tree: Tree, sent: Journal) -> None:
    failed_before(tree, 2)
    assert run(tree, Machine(GOOD), DEGRADED) == ["start hypernet-rollback.target"]
    assert sent.ids == [messages.DECISION_GIVE_UP]
    # If slot-manager refuses, the machine stays, and everybody can see how it is.
    assert report.read(tree.places.report).state is State.DEGRADED


def test_the_limit_of_failed_boots_can_be_set(tree: Tree, sent: Journal) -> None:
    tree.admin("max_failed_boots: 1\n")
    assert run(tree, Machine(GOOD), DEGRADED) == ["start hypernet-rollback.target"]


def test_slot_manager_is_told_why_a_good_slot_is_given_up_in_words_without_a_meaning_for_systemd(
    tree: Tree, sent: Journal
) -> None:
    failed_before(tree, 2)
    nasty = replace(DEGRADED, reason='Required check failed: a"b (\\ $HOME `id` %h).\n')
    run(tree, Machine(GOOD), nasty)
    assert (tree.places.report.parent / "rollback.env").read_text(encoding="utf-8") == (
        'REASON="3 boots in a row failed, the last one so: Required check failed: '
        "a'b (' 'HOME 'id' 'h).'\"\n"
    )


@pytest.mark.parametrize("known", [replace(GOOD, other_good=False, rearmed=False), None])
def test_at_the_limit_the_machine_stays_if_it_has_nowhere_to_go(
    tree: Tree, sent: Journal, known: Slots | None
) -> None:
    failed_before(tree, 7)
    assert run(tree, Machine(known), DEGRADED) == []
    assert report.read(tree.places.report).consecutive_failures == 8


def test_failed_boots_of_another_system_do_not_count(tree: Tree, sent: Journal) -> None:
    failed_before(tree, 2, root_hash="cd" * 32)
    assert run(tree, Machine(GOOD), DEGRADED) == ["give back"]


def test_a_boot_that_boot_health_counted_is_not_counted_again(tree: Tree, sent: Journal) -> None:
    history.save(tree.places.history, History(ROOT_HASH, BOOT_ID, 2, 1))
    assert run(tree, Machine(GOOD), DEGRADED) == ["give back"]


def test_a_count_that_cannot_be_kept_does_not_change_the_decision(tree: Tree, sent: Journal) -> None:
    tree.places.history.parent.rmdir()
    assert run(tree, Machine(GOOD), DEGRADED) == ["give back"]


def test_a_rollback_that_cannot_be_started_leaves_the_machine_as_it_is(tree: Tree, sent: Journal) -> None:
    failed_before(tree, 2)
    assert run(tree, Machine(GOOD, rollback_error=AgentError("No bus.")), DEGRADED) == []


def test_who_stays_tells_the_bus_and_raises_an_alert(tree: Tree, sent: Journal) -> None:
    machine = Machine(replace(GOOD, rearmed=False))
    run(tree, machine, None)
    assert machine.told == [
        "bus: degraded",
        "alert: This boot is degraded. The boot reached no verdict; failed units: other.service. "
        "the booted slot was proven good before, and this is failed boot 1 of 3",
    ]


def test_what_boot_health_has_told_is_not_told_again(tree: Tree, sent: Journal) -> None:
    machine = Machine(GOOD)
    run(tree, machine, DEGRADED)
    assert machine.told == []


def test_a_boot_that_is_tried_again_says_so_to_the_shutdown_and_waits_for_nobody(
    tree: Tree, sent: Journal
) -> None:
    tree.efi("LoaderBootCountPath", COUNT_PATH)
    machine = Machine(None)
    assert run(tree, machine, None) == ["reboot"]
    # slot-manager gives no try back for a boot that has failed.
    assert report.read(tree.places.report).state is State.FAILED
    assert machine.told == []
