# SPDX-License-Identifier: Apache-2.0
"""Marking slots good and bad, and what a bless makes of marks."""

from __future__ import annotations

import pytest

from agents.slot_manager import install, lifecycle
from agents.slot_manager.errors import LoaderError, NoSuchSlot, OtherSlotNotGood, WrongState
from agents.slot_manager.loader import in_loader_order
from agents.slot_manager.state import State
from tests.fakes.slot_images import BuiltImage
from tests.fakes.slot_lab import Lab


def states(lab: Lab) -> dict[str, State]:
    return {slot.name: slot.state for slot in lab.machine.view().slots.values()}


def default(lab: Lab) -> str:
    return next(slot.name for slot in lab.machine.view().slots.values() if slot.default)


def test_the_last_good_slot_cannot_be_marked_bad(lab: Lab) -> None:
    before = lab.snapshot()

    with pytest.raises(OtherSlotNotGood):
        lifecycle.mark_bad(lab.machine, "a", "tired of it")

    assert lab.snapshot() == before


def test_the_way_back_of_a_trial_cannot_be_marked_bad(trying: Lab) -> None:
    with pytest.raises(OtherSlotNotGood):
        lifecycle.mark_bad(trying.machine, "a", "old")


def test_a_staged_slot_that_is_marked_bad_is_removed(lab: Lab, images: dict[str, BuiltImage]) -> None:
    install.install(lab.machine, str(images["2.0.0"].path), arm=False)

    lifecycle.mark_bad(lab.machine, "b", "not wanted")

    assert lab.names() == ["hypernet_1.0.0.efi"]


def test_a_staged_slot_that_is_marked_good_is_armed(lab: Lab, images: dict[str, BuiltImage]) -> None:
    install.install(lab.machine, str(images["2.0.0"].path), arm=False)

    assert lifecycle.mark_good(lab.machine, "b") is State.ARMED
    assert lab.names() == ["hypernet_1.0.0.efi", "hypernet_2.0.0+3.efi"]


def test_a_bad_slot_that_is_marked_good_gets_a_new_trial(both_good: Lab) -> None:
    lifecycle.rollback(both_good.machine, "too slow")
    both_good.boot("a", selected="hypernet_1.0.0.efi")
    lifecycle.bless(both_good.machine)

    assert lifecycle.mark_good(both_good.machine, "b") is State.ARMED

    slot = both_good.machine.view().slots["b"]
    assert (slot.state, slot.tries_left, slot.default) == (State.ARMED, 3, True)
    assert slot.reason == "the next boot tries it"
    assert both_good.names() == ["hypernet_1.0.0.efi", "hypernet_2.0.0+3.efi"]


def test_a_running_slot_without_tries_gets_some_before_the_other_one_is_tried(both_good: Lab) -> None:
    for slot, version in (("a", "1.0.0"), ("b", "2.0.0+5")):
        (both_good.linux / f"hypernet_{version}.efi").rename(
            both_good.linux / f"hypernet_{version[:5]}+0-5.efi"
        )
        assert states(both_good)[slot] is State.BAD
    both_good.boot("a", selected="hypernet_1.0.0+0-4.efi", counted="hypernet_1.0.0+0-5.efi")

    lifecycle.mark_good(both_good.machine, "b")

    assert both_good.names() == ["hypernet_1.0.0+5.efi", "hypernet_2.0.0+3.efi"]


def test_marking_the_running_slot_good_ends_its_trial(trying: Lab) -> None:
    assert lifecycle.mark_good(trying.machine, "b") is State.GOOD
    assert states(trying)["b"] is State.GOOD
    assert trying.machine.store.load().pending is None


def test_marking_the_running_good_slot_gives_its_tries_back(both_good: Lab) -> None:
    both_good.try_once("hypernet_2.0.0+5.efi", "b")

    lifecycle.mark_good(both_good.machine, "b")

    assert both_good.names() == ["hypernet_1.0.0.efi", "hypernet_2.0.0+5.efi"]


def test_giving_a_degraded_boot_its_try_back_leaves_nothing_in_the_record(both_good: Lab) -> None:
    both_good.boot("a", selected="hypernet_1.0.0.efi")
    lifecycle.bless(both_good.machine)  # the last good one; then the other one is started, and is degraded
    both_good.try_once("hypernet_2.0.0+5.efi", "b")
    before = both_good.machine.store.load()

    lifecycle.rearm(both_good.machine)

    assert both_good.names() == ["hypernet_1.0.0+5.efi", "hypernet_2.0.0+5.efi"]
    assert both_good.machine.store.load() == before
    assert before.last_good is not None
    assert before.last_good.slot == "a"


def test_a_degraded_boot_with_nowhere_to_go_is_not_counted_any_more(both_good: Lab) -> None:
    both_good.try_once("hypernet_2.0.0+5.efi", "b")
    (both_good.linux / "hypernet_1.0.0.efi").rename(both_good.linux / "hypernet_1.0.0+0-1.efi")

    lifecycle.rearm(both_good.machine)

    assert both_good.names() == ["hypernet_1.0.0+0-1.efi", "hypernet_2.0.0.efi"]


def test_a_trial_does_not_become_good_by_getting_its_tries_back(trying: Lab) -> None:
    before = trying.snapshot()

    with pytest.raises(WrongState, match="only a good slot"):
        lifecycle.rearm(trying.machine)

    assert trying.snapshot() == before


def test_an_empty_slot_cannot_be_marked(lab: Lab) -> None:
    with pytest.raises(NoSuchSlot, match="nothing in it"):
        lifecycle.mark_good(lab.machine, "b")
    with pytest.raises(NoSuchSlot, match="nothing in it"):
        lifecycle.mark_bad(lab.machine, "b", "x")


def test_a_slot_that_was_marked_bad_in_this_boot_is_not_blessed_by_the_unit(both_good: Lab) -> None:
    lifecycle.rollback(both_good.machine, "too slow")
    before = both_good.snapshot()

    lifecycle.bless(both_good.machine)

    assert both_good.snapshot() == before


def test_marking_the_running_slot_good_takes_a_rollback_back(both_good: Lab) -> None:
    lifecycle.rollback(both_good.machine, "too slow")

    lifecycle.mark_good(both_good.machine, "b")

    assert default(both_good) == "b"
    assert states(both_good) == {"a": State.GOOD, "b": State.GOOD}


def test_a_bad_slot_that_comes_up_because_there_is_nothing_better_becomes_good(trying: Lab) -> None:
    lifecycle.mark_bad(trying.machine, "b", "check failed")
    (trying.linux / "hypernet_1.0.0.efi").rename(trying.linux / "hypernet_1.0.0+0-5.efi")
    assert [entry.version for entry in in_loader_order(trying.machine.loader.entries())] == [
        "2.0.0",
        "1.0.0",
    ]
    trying.try_once("hypernet_2.0.0+0-2.efi", "b")

    lifecycle.bless(trying.machine)

    assert states(trying) == {"a": State.BAD, "b": State.GOOD}
    assert trying.names() == ["hypernet_1.0.0+0-5.efi", "hypernet_2.0.0.efi"]


def test_a_running_slot_without_a_boot_entry_is_not_blessed(lab: Lab) -> None:
    (lab.linux / "hypernet_1.0.0.efi").unlink()

    with pytest.raises(LoaderError, match="no boot entry"):
        lifecycle.bless(lab.machine)
