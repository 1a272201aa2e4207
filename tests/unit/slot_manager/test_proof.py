# SPDX-License-Identifier: Apache-2.0
"""What good and failed boots leave in the record: floor, known time, last good slot, denied releases."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from agents.slot_manager import arming, install, lifecycle, proof
from agents.slot_manager.loader import UNCOUNTED
from agents.slot_manager.policy import Decision, Release
from agents.slot_manager.record import Denied, Floor, Pending, Record, Store
from agents.slot_manager.record_types import MAX_REFUSED
from agents.slot_manager.state import Slot, State
from common.errors import AgentError
from tests.fakes import slot_images
from tests.fakes.slot_images import BuiltImage, Key
from tests.fakes.slot_lab import Lab

NOW = 1_800_000_000_000_000
YEAR = 366 * 86400 * 1_000_000
SLOT = Slot("b", State.TRYING, "2.0.0", "bb", True, True, 2, 1, None, "", 0)
PENDING = Pending("b", "2.0.0", "bb", 1, 3, 1, 2_000_000, "1.0.0", NOW - YEAR, 2, "dd")


def known(lab: Lab) -> Record:
    return lab.machine.store.load()


def expect(lab: Lab, **changes: object) -> None:
    """Let the trial of 2.0.0 have come from a release that said so."""
    record = known(lab)
    assert record.pending is not None
    lab.machine.store.save(replace(record, pending=replace(record.pending, **changes)))  # type: ignore[arg-type]


def test_a_good_trial_raises_the_floor_to_what_its_release_said(trying: Lab) -> None:
    expect(trying, serial=7, min_version="1.5.0", signed_usec=9, key_epoch=1)

    lifecycle.bless(trying.machine)

    assert known(trying).floor == Floor(7, "1.5.0", 9, 1)


def test_an_install_alone_raises_nothing(lab: Lab, releases: dict[str, BuiltImage]) -> None:
    install.install(lab.machine, str(releases["2.0.0"].path))

    record = known(lab)
    assert record.floor == Floor()
    assert record.known_usec == 0
    assert record.pending is not None
    assert record.pending.serial > 0


@pytest.mark.parametrize("end", ["rollback", "mark bad", "used up"])
def test_a_failed_trial_raises_nothing_and_is_denied(trying: Lab, end: str) -> None:
    expect(trying, serial=7, min_version="1.5.0", digest="dd")
    if end == "rollback":
        lifecycle.rollback(trying.machine, "check web failed")
    elif end == "mark bad":
        lifecycle.mark_bad(trying.machine, "b", "check web failed")
    else:
        (trying.linux / "hypernet_2.0.0+2-1.efi").rename(trying.linux / "hypernet_2.0.0+0-3.efi")
    trying.boot("a", selected="hypernet_1.0.0.efi")
    lifecycle.bless(trying.machine)

    record = known(trying)
    assert record.floor == Floor()
    denied = record.denied[trying.root_hash("b")]
    assert (denied.version, denied.digest, denied.serial) == ("2.0.0", "dd", 7)
    assert ("used up" if end == "used up" else "check web failed") in denied.reason


def test_a_floor_is_only_raised() -> None:
    record = Record(pending=PENDING, floor=Floor(9_000_000, "1.5.0", NOW, 3))
    assert proof.proven(record, SLOT, NOW).floor == record.floor

    record = Record(pending=PENDING, floor=Floor(1, "0.5.0", 1, 1))
    assert proof.proven(record, SLOT, NOW).floor == Floor(2_000_000, "1.0.0", NOW - YEAR, 2)


def test_the_slot_that_was_proven_last_is_kept(both_good: Lab) -> None:
    last = known(both_good).last_good
    assert last is not None
    assert (last.slot, last.version, last.root_hash) == ("b", "2.0.0", both_good.root_hash("b"))

    lifecycle.rollback(both_good.machine, "too slow")
    both_good.boot("a", selected="hypernet_1.0.0.efi")
    lifecycle.bless(both_good.machine)

    last = known(both_good).last_good
    assert last is not None
    assert (last.slot, last.version) == ("a", "1.0.0")


@pytest.mark.parametrize(
    ("old", "signed", "built", "clock", "known_usec"),
    [
        (0, 0, 0, NOW, NOW),
        (NOW, 0, 0, NOW - YEAR, NOW),
        (0, NOW, 0, 5, NOW),
        (0, 0, NOW, 5, NOW),
        (NOW, 0, 0, NOW + YEAR, NOW + YEAR),
        (NOW, 0, 0, NOW + 2 * YEAR, NOW),
        (NOW, 0, 0, NOW + 70 * YEAR, NOW),
        (0, 0, NOW, NOW + 70 * YEAR, NOW),
        (NOW, 0, 0, NOW + 1_000_000, NOW),
    ],
    ids=[
        "the clock",
        "a clock that is behind",
        "a newer signature",
        "a newer build",
        "a year later",
        "a clock so far ahead that it would make fresh manifests expire",
        "a broken clock",
        "a broken clock in a new system",
        "a second is not worth a write",
    ],
)
def test_the_known_time_rises_to_what_has_passed_for_certain(
    old: int, signed: int, built: int, clock: int, known_usec: int
) -> None:
    record = Record(known_usec=old, floor=Floor(signed_usec=signed))
    assert proof.proven(record, SLOT, clock, built).known_usec == known_usec


def test_a_good_newer_release_clears_the_denials_of_older_ones() -> None:
    denied = {name: Denied(version, "", "x", 1) for name, version in (("o", "1.9.0"), ("n", "2.0.1"))}
    record = Record(pending=PENDING, denied={**denied, "bb": Denied("2.0.0", "", "x", 1)})

    assert set(proof.proven(record, SLOT, NOW).denied) == {"n"}


def test_a_release_that_is_good_already_clears_nothing() -> None:
    record = Record(proven={"bb": 1}, denied={"o": Denied("1.9.0", "", "x", 1)})

    assert proof.proven(record, SLOT, NOW).denied == record.denied


def test_a_second_failure_keeps_when_the_first_one_was() -> None:
    record = proof.failed(Record(pending=PENDING), SLOT, "first", 5)
    record = proof.failed(record, SLOT, "second", 9)

    assert (record.denied["bb"].reason, record.denied["bb"].since_usec) == ("second", 5)
    assert record.denied["bb"].digest == "dd"


def test_a_new_trial_of_a_failed_release_still_raises_the_floor(trying: Lab) -> None:
    expect(trying, serial=7, min_version="1.5.0", signed_usec=9, digest="dd")
    lifecycle.rollback(trying.machine, "check web failed")
    trying.boot("a", selected="hypernet_1.0.0.efi")
    lifecycle.bless(trying.machine)

    lifecycle.mark_good(trying.machine, "b")
    assert known(trying).denied == {}
    trying.try_once("hypernet_2.0.0+3.efi", "b")
    lifecycle.bless(trying.machine)

    assert known(trying).floor == Floor(7, "1.5.0", 9, 0)


def test_a_failed_save_of_a_refusal_does_not_hide_the_refusal(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(store: Store, record: Record) -> None:
        raise AgentError("The disk is full.")

    monkeypatch.setattr(Store, "save", fail)
    lifecycle.refuse(lab.machine, release(1), Decision("expiry", False, "It expired.", AgentError))

    assert "is not kept: The disk is full" in capsys.readouterr().err


def release(number: int) -> Release:
    return Release("hypernet", "x86-64", f"{number}.0.0", f"{number:064}", digest="dd")


def test_refusals_are_kept_once_for_each_release_and_not_for_ever(lab: Lab) -> None:
    for number in range(MAX_REFUSED + 3):
        lifecycle.refuse(lab.machine, release(number), Decision("expiry", False, "Old.", AgentError))
    lifecycle.refuse(lab.machine, release(9), Decision("channel", False, "Wrong.", AgentError))

    refused = known(lab).refused
    assert len(refused) == MAX_REFUSED
    assert (refused[-1].version, refused[-1].rule, refused[-1].reason) == ("9.0.0", "channel", "Wrong.")
    assert len({item.root_hash for item in refused}) == MAX_REFUSED


def test_the_same_refusal_is_not_written_again(lab: Lab) -> None:
    decision = Decision("expiry", False, "Old.", AgentError)
    lifecycle.refuse(lab.machine, release(1), decision)
    before = lab.snapshot()

    lifecycle.refuse(lab.machine, release(1), decision)

    assert lab.snapshot() == before


def test_a_release_that_is_armed_is_no_longer_called_refused(
    lab: Lab, images: dict[str, BuiltImage]
) -> None:
    lifecycle.refuse(
        lab.machine,
        replace(release(2), root_hash=images["2.0.0"].root_hash),
        Decision("expiry", False, "Old.", AgentError),
    )

    install.install(lab.machine, str(images["2.0.0"].path))

    assert known(lab).refused == ()


def test_the_newer_keys_of_a_good_system_are_taken_over(lab: Lab, key: Key) -> None:
    slot_images.trust(lab.machine.vendor_keys, key, epoch=2)

    lifecycle.bless(lab.machine)

    assert "epoch: 2" in (lab.machine.trusted_keys / "fingerprints.yaml").read_text()


def test_the_keys_of_an_image_are_not_taken_over_by_a_mark(lab: Lab, key: Key) -> None:
    slot_images.trust(lab.machine.vendor_keys, key, epoch=2)

    lifecycle.mark_good(lab.machine, "a")

    assert "epoch: 1" in (lab.machine.trusted_keys / "fingerprints.yaml").read_text()


def test_keys_that_cannot_be_taken_over_do_not_keep_a_slot_from_being_good(trying: Lab) -> None:
    trying.machine.vendor_keys.mkdir()
    (trying.machine.vendor_keys / "fingerprints.yaml").write_text("epoch: [")

    assert lifecycle.bless(trying.machine).trial_succeeded
    assert trying.machine.view().booted.state is State.GOOD


def test_time_is_never_earlier_than_what_is_known_to_have_passed(lab: Lab, tmp_path: Path) -> None:
    os_release = tmp_path / "os-release"
    os_release.touch()
    os.utime(os_release, (3000, 3000))
    machine = replace(lab.machine, store=Store(tmp_path / "state", lambda: 2_000_000_000), built=os_release)

    assert machine.now_sec(Record()) == 3000
    assert machine.now_sec(Record(known_usec=4_000_000_000)) == 4000
    assert machine.now_sec(Record(floor=Floor(signed_usec=5_000_000_000))) == 5000
    later = replace(machine, store=Store(tmp_path / "state", lambda: 6_000_000_000))
    assert later.now_sec(Record()) == 6000
    assert replace(machine, built=tmp_path / "absent").now_sec(Record()) == 2000


def test_the_rules_are_told_what_runs_here(lab: Lab) -> None:
    lab.configure("channel: beta\n")
    (lab.machine.config.parent / "version").write_text("3\n")

    local = lab.machine.local(lab.machine.view())

    assert (local.product, local.arch, local.channel) == ("hypernet", "x86-64", "beta")
    assert (local.running_version, local.running_root_hash) == ("1.0.0", lab.root_hash("a"))
    assert local.config_schema == 3


def test_the_schema_of_a_machine_without_a_version_file_is_not_known(lab: Lab) -> None:
    assert lab.machine.local(lab.machine.view()).config_schema == 0


def test_a_mistake_in_updates_yaml_stops_no_verdict(trying: Lab) -> None:
    trying.configure("channel: [\n")

    assert lifecycle.bless(trying.machine).trial_succeeded
    assert lifecycle.rollback(trying.machine, "too slow").to_slot == "a"


def test_the_good_slot_of_a_trial_that_was_never_begun_is_no_rollback(armed: Lab) -> None:
    lifecycle.mark_bad(armed.machine, "b", "not wanted")

    assert lifecycle.bless(armed.machine).rollback is None
    assert known(armed).last_rollback is None
    assert armed.machine.view().booted.tries_left == UNCOUNTED
    assert arming.clear_denied(armed.machine, "all") == 1
