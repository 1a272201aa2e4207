# SPDX-License-Identifier: Apache-2.0
"""A shutdown during a trial: names on the ESP and the record afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.slot_manager import attempts, lifecycle, refund
from agents.slot_manager.__main__ import main
from agents.slot_manager.errors import LoaderError
from agents.slot_manager.loader import Entry
from agents.slot_manager.state import State
from agents.slot_manager.systemd_boot import SystemdBoot
from common import process
from tests.fakes.slot_lab import Lab


def reboots(lab: Lab, name: str, *, times: int) -> str:
    """Boot a trial and shut it down without a verdict; returns the name of its entry then."""
    for number in range(times):
        name = lab.try_once(name, "b")
        attempts.count_attempt(lab.machine, f"{name} {number}")
        refund.refund(lab.machine, f"{name} {number}")
        (name,) = (item for item in lab.names() if item.startswith("hypernet_2"))
    return name


def test_a_shutdown_before_the_verdict_gives_the_try_back(armed: Lab) -> None:
    assert reboots(armed, "hypernet_2.0.0+3.efi", times=1) == "hypernet_2.0.0+3.efi"

    record = armed.machine.store.load()
    assert record.attempts == {armed.root_hash("b"): 0}
    assert record.refunds == {armed.root_hash("b"): 1}
    assert armed.machine.view().slots["b"].state is not State.BAD


def test_two_shutdowns_of_one_trial_are_forgiven_and_a_third_is_not(armed: Lab) -> None:
    assert reboots(armed, "hypernet_2.0.0+3.efi", times=2) == "hypernet_2.0.0+3.efi"

    assert reboots(armed, "hypernet_2.0.0+3.efi", times=1) == "hypernet_2.0.0+2-1.efi"


def test_a_trial_that_is_only_ever_rebooted_ends_in_the_other_slot(armed: Lab) -> None:
    name = reboots(armed, "hypernet_2.0.0+3.efi", times=5)

    assert name == "hypernet_2.0.0+0-3.efi"
    armed.boot("a", selected="hypernet_1.0.0.efi")
    assert lifecycle.bless(armed.machine).rollback is not None


def test_the_last_try_can_be_given_back(armed: Lab) -> None:
    (armed.linux / "hypernet_2.0.0+3.efi").rename(armed.linux / "hypernet_2.0.0+1-2.efi")

    assert reboots(armed, "hypernet_2.0.0+1-2.efi", times=1) == "hypernet_2.0.0+1-2.efi"


def test_a_try_that_the_loader_did_not_take_is_not_added_to_it(armed: Lab) -> None:
    armed.boot("b", selected="hypernet_2.0.0+3.efi")
    attempts.count_attempt(armed.machine, "one")

    assert refund.refund(armed.machine, "one")

    assert "hypernet_2.0.0+3.efi" in armed.names()
    assert armed.machine.store.load().attempts == {armed.root_hash("b"): 0}


def test_only_the_count_of_this_boot_is_taken_back(trying: Lab) -> None:
    attempts.count_attempt(trying.machine, "before")

    refund.refund(trying.machine, "this one, which could not be counted")

    assert trying.machine.store.load().attempts == {trying.root_hash("b"): 1}


def test_a_slot_that_was_marked_bad_gets_nothing_back(trying: Lab) -> None:
    lifecycle.mark_bad(trying.machine, "b", "check web failed")
    before = trying.snapshot()

    assert not refund.refund(trying.machine, "one")
    assert trying.snapshot() == before


def test_a_good_slot_gets_nothing_back(both_good: Lab) -> None:
    both_good.try_once("hypernet_2.0.0+5.efi", "b")
    before = both_good.snapshot()

    assert not refund.refund(both_good.machine, "one")
    assert both_good.snapshot() == before


def test_a_boot_that_the_loader_had_nothing_better_for_gets_nothing_back(armed: Lab) -> None:
    (armed.linux / "hypernet_2.0.0+3.efi").rename(armed.linux / "hypernet_2.0.0+0-3.efi")
    armed.try_once("hypernet_2.0.0+0-3.efi", "b")

    assert not refund.refund(armed.machine, "one")


def test_a_new_trial_is_forgiven_anew(armed: Lab) -> None:
    reboots(armed, "hypernet_2.0.0+3.efi", times=5)
    armed.boot("a", selected="hypernet_1.0.0.efi")
    lifecycle.bless(armed.machine)

    lifecycle.mark_good(armed.machine, "b")

    assert armed.machine.store.load().refunds == {}
    assert reboots(armed, "hypernet_2.0.0+3.efi", times=1) == "hypernet_2.0.0+3.efi"


def test_a_good_verdict_forgets_what_was_forgiven(armed: Lab) -> None:
    reboots(armed, "hypernet_2.0.0+3.efi", times=1)
    armed.try_once("hypernet_2.0.0+3.efi", "b")

    lifecycle.bless(armed.machine)

    assert armed.machine.store.load().refunds == {}


def test_a_power_cut_before_the_renaming_makes_no_room_for_a_third_time(
    armed: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(loader: SystemdBoot, entry: Entry, left: int, done: int = 0) -> None:
        raise LoaderError("The power was cut.")

    armed.try_once("hypernet_2.0.0+3.efi", "b")
    with monkeypatch.context() as patch:
        patch.setattr(SystemdBoot, "set_tries", cut)
        with pytest.raises(LoaderError):
            refund.refund(armed.machine, "one")

    assert armed.machine.store.load().refunds == {armed.root_hash("b"): 1}
    assert "hypernet_2.0.0+2-1.efi" in armed.names()


def degraded(*checks: dict[str, object]) -> str:
    """A report as boot-health writes it, as far as it matters here."""
    return json.dumps({"state": "degraded", "checks": checks})


@pytest.mark.parametrize(
    ("text", "undecided"),
    [
        (None, True),
        ('{"state": "checking"}', True),
        ('{"state": "healthy"}', True),
        ('{"state": "failed"}', False),
        ('{"state": "degraded", "checks": []}', False),
        (degraded({"required": True, "result": "passed"}), False),
        (degraded({"required": True, "result": "timeout"}, {"required": False, "result": "failed"}), False),
        ('{"state": "degraded"}', False),
        ('{"state": "degraded", "checks": [{"result": "failed"}]}', False),
        ('{"state": ', False),
        ("[]", False),
    ],
)
def test_a_boot_with_a_verdict_against_it_is_decided(
    tmp_path: Path, text: str | None, undecided: bool
) -> None:
    path = tmp_path / "health.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    assert refund.is_undecided(path) is undecided


def test_a_boot_that_is_degraded_by_wanted_checks_only_waits_for_its_blessing(tmp_path: Path) -> None:
    path = tmp_path / "health.json"
    checks = {"required": True, "result": "passed"}, {"required": False, "result": "failed"}
    path.write_text(degraded(*checks), encoding="utf-8")

    assert refund.is_undecided(path)


@pytest.mark.parametrize(
    ("jobs", "stopping"),
    [
        ("131 shutdown.target start waiting\n132 reboot.target start waiting\n", True),
        ("131 hypernet-slot-manager-attempt.service stop running\n", False),
        ("131 shutdown.target stop waiting\n", False),
        ("", False),
    ],
)
def test_only_a_shutdown_of_the_machine_is_one(
    monkeypatch: pytest.MonkeyPatch, jobs: str, stopping: bool
) -> None:
    def run(argv: list[str], **options: object) -> process.Completed:
        return process.Completed(tuple(argv), 0, jobs.encode(), "")

    monkeypatch.setattr(process, "run", run)
    assert refund.is_shutting_down() is stopping


def test_a_unit_that_is_only_stopped_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refund, "is_shutting_down", lambda: False)
    # There is no machine here: looking at its slots would fail.
    assert main(["refund"]) == 0


def test_the_record_keeps_what_was_forgiven(armed: Lab) -> None:
    reboots(armed, "hypernet_2.0.0+3.efi", times=1)

    raw = json.loads((armed.machine.store.folder / "record-0.json").read_bytes())
    assert raw["record"]["refunds"] == {armed.root_hash("b"): 1}
