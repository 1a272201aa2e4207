# SPDX-License-Identifier: Apache-2.0
"""Staged, approved, armed and back, on a machine of files; and releases that were denied."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.slot_manager import arming, install, lifecycle
from agents.slot_manager.errors import BelowFloor, Denied, LoaderError, WrongState
from agents.slot_manager.loader import Entry
from agents.slot_manager.record import Floor, Refused
from agents.slot_manager.state import State
from agents.slot_manager.systemd_boot import SystemdBoot
from common.errors import InvalidArgument
from tests.fakes.slot_images import BuiltImage
from tests.fakes.slot_lab import Lab

STAGED = [".hypernet_2.0.0.efi.part", "hypernet_1.0.0.efi"]
ARMED = ["hypernet_1.0.0.efi", "hypernet_2.0.0+3.efi"]


@pytest.fixture
def staged(lab: Lab, images: dict[str, BuiltImage]) -> Lab:
    """1.0.0 runs in slot a, 2.0.0 is staged in slot b."""
    install.install(lab.machine, str(images["2.0.0"].path), arm=False)
    return lab


def state(lab: Lab) -> State:
    return lab.machine.view().slots["b"].state


def default(lab: Lab) -> str:
    return next(slot.name for slot in lab.machine.view().slots.values() if slot.default)


def test_a_staged_slot_is_never_what_the_loader_takes(staged: Lab) -> None:
    slot = staged.machine.view().slots["b"]

    assert (slot.state, slot.approved) == (State.STAGED, False)
    assert slot.reason == "verified; no boot tries it until it is armed"
    assert staged.names() == STAGED
    assert default(staged) == "a"


def test_approval_changes_the_record_and_nothing_that_the_loader_sees(staged: Lab) -> None:
    before = {key: value for key, value in staged.snapshot().items() if "record" not in key}

    assert arming.approve(staged.machine) is State.APPROVED

    slot = staged.machine.view().slots["b"]
    assert (slot.state, slot.approved) == (State.APPROVED, True)
    assert before == {key: value for key, value in staged.snapshot().items() if "record" not in key}
    assert default(staged) == "a"


def test_approving_twice_is_approving_once(staged: Lab) -> None:
    arming.approve(staged.machine)
    before = staged.snapshot()

    assert arming.approve(staged.machine) is State.APPROVED
    assert staged.snapshot() == before


def test_an_approval_is_lost_with_the_record_and_the_slot_is_staged_again(staged: Lab) -> None:
    arming.approve(staged.machine)
    for path in staged.machine.store.folder.glob("record-*"):
        path.unlink()

    assert state(staged) is State.STAGED
    assert arming.arm(staged.machine) is State.ARMED


@pytest.mark.parametrize("approve", [False, True])
def test_a_staged_or_approved_slot_can_be_armed(staged: Lab, *, approve: bool) -> None:
    if approve:
        arming.approve(staged.machine)

    assert arming.arm(staged.machine) is State.ARMED

    assert staged.names() == ARMED
    slot = staged.machine.view().slots["b"]
    assert (slot.state, slot.default, slot.approved, slot.tries_left) == (State.ARMED, True, True, 3)
    pending = staged.machine.store.load().pending
    assert pending is not None
    assert pending.tries == 3


def test_arming_keeps_what_the_release_said(staged: Lab) -> None:
    before = staged.machine.store.load().pending
    assert before is not None

    arming.arm(staged.machine)

    after = staged.machine.store.load().pending
    assert after is not None
    same = {"armed_usec": 0, "tries": 0, "approved_usec": 0}
    assert replace(after, **same) == replace(before, **same)  # type: ignore[arg-type]


def test_arming_an_armed_slot_changes_nothing(armed: Lab) -> None:
    before = armed.snapshot()

    assert arming.arm(armed.machine) is State.ARMED
    assert armed.snapshot() == before


def test_arming_removes_choices_that_would_overrule_it(staged: Lab) -> None:
    staged.set_variable("LoaderEntryDefault", "hypernet_1.0.0.efi")

    arming.arm(staged.machine)

    assert not [path for path in staged.topology.efivars.iterdir() if "EntryDefault" in path.name]


def test_arming_that_does_not_read_back_is_an_error(staged: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SystemdBoot, "arm", lambda *args: None)

    with pytest.raises(LoaderError, match="reads back as 'approved' after arming"):
        arming.arm(staged.machine)


def test_a_running_slot_with_few_tries_gets_them_back_before_the_other_is_tried(staged: Lab) -> None:
    (staged.linux / "hypernet_1.0.0.efi").rename(staged.linux / "hypernet_1.0.0+1-4.efi")

    arming.arm(staged.machine)

    assert staged.names() == ["hypernet_1.0.0+5.efi", "hypernet_2.0.0+3.efi"]


def test_a_disarmed_slot_is_staged_and_the_running_one_boots_next(armed: Lab) -> None:
    assert arming.disarm(armed.machine) is State.STAGED

    assert armed.names() == STAGED
    slot = armed.machine.view().slots["b"]
    assert (slot.state, slot.approved, slot.default) == (State.STAGED, False, False)
    assert default(armed) == "a"


def test_a_disarmed_slot_can_be_armed_again(armed: Lab) -> None:
    arming.disarm(armed.machine)

    assert arming.arm(armed.machine) is State.ARMED
    assert armed.names() == ARMED


def test_disarming_that_does_not_read_back_is_an_error(armed: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(loader: SystemdBoot, entry: Entry) -> None:
        pass

    monkeypatch.setattr(SystemdBoot, "disarm", nothing)

    with pytest.raises(LoaderError, match="reads back as 'armed' after disarming"):
        arming.disarm(armed.machine)


@pytest.mark.parametrize("verb", [arming.approve, arming.arm, arming.disarm])
@pytest.mark.parametrize("other", ["empty", "good", "bad", "trying"])
def test_no_other_state_can_be_approved_armed_or_disarmed(
    request: pytest.FixtureRequest, verb: object, other: str
) -> None:
    if other == "empty":
        machine = request.getfixturevalue("lab")
    elif other == "good":
        machine = request.getfixturevalue("both_good")
    else:
        machine = request.getfixturevalue("armed")
        count = 3 if other == "bad" else 1
        name = f"hypernet_2.0.0+{3 - count}-{count}.efi"
        (machine.linux / "hypernet_2.0.0+3.efi").rename(machine.linux / name)
    before = machine.snapshot()

    with pytest.raises(WrongState, match=f"is '{other}', so it cannot be"):
        verb(machine.machine)  # type: ignore[operator]

    assert machine.snapshot() == before


def test_an_armed_slot_that_the_loader_started_without_counting_cannot_be_disarmed(armed: Lab) -> None:
    record = armed.machine.store.load()
    armed.machine.store.save(replace(record, attempts={armed.root_hash("b"): 1}))

    with pytest.raises(WrongState, match="'trying'"):
        arming.disarm(armed.machine)


@pytest.mark.parametrize("verb", [arming.approve, arming.arm])
def test_a_staged_release_that_was_revoked_since_is_not_armed(staged: Lab, verb: object) -> None:
    record = staged.machine.store.load()
    staged.machine.store.save(replace(record, floor=Floor(min_version="2.0.1")))

    with pytest.raises(BelowFloor, match="revoked"):
        verb(staged.machine)  # type: ignore[operator]

    assert staged.names() == STAGED


def test_a_release_that_failed_is_refused_until_an_administrator_allows_it(
    trying: Lab, images: dict[str, BuiltImage]
) -> None:
    lifecycle.rollback(trying.machine, "check web failed")
    trying.boot("a", selected="hypernet_1.0.0.efi")
    lifecycle.bless(trying.machine)

    with pytest.raises(Denied, match="check web failed"):
        install.install(trying.machine, str(images["2.0.0"].path))
    (refused,) = trying.machine.store.load().refused
    assert (refused.rule, refused.version) == ("denylist", "2.0.0")

    assert arming.clear_denied(trying.machine, "2.0.0") == 1
    assert trying.machine.store.load().refused == ()
    install.install(trying.machine, str(images["2.0.0"].path))
    assert state(trying) is State.ARMED


def test_all_denials_are_cleared_at_once(trying: Lab) -> None:
    lifecycle.rollback(trying.machine, "check web failed")

    assert arming.clear_denied(trying.machine, arming.ALL) == 1
    assert trying.machine.store.load().denied == {}
    assert state(trying) is State.BAD


@pytest.mark.parametrize("version", ["9.9.9", "all"])
def test_clearing_what_is_not_denied_is_an_error(lab: Lab, version: str) -> None:
    with pytest.raises(InvalidArgument, match="denied on this machine"):
        arming.clear_denied(lab.machine, version)


def test_clearing_a_denial_forgets_no_other_refusal(trying: Lab) -> None:
    lifecycle.rollback(trying.machine, "check web failed")
    record = trying.machine.store.load()
    other = Refused("3.0.0", "cc", "", "expiry", "It expired.", 1)
    trying.machine.store.save(replace(record, refused=(other,)))

    arming.clear_denied(trying.machine, "2.0.0")

    assert trying.machine.store.load().refused == (other,)
