# SPDX-License-Identifier: Apache-2.0
"""Verdicts, marks and rollback on a machine of files: names on the ESP and the record afterwards."""

from __future__ import annotations

import pytest

from agents.slot_manager import install, lifecycle
from agents.slot_manager.errors import LoaderError, OtherSlotNotGood
from agents.slot_manager.loader import Entry
from agents.slot_manager.state import State
from agents.slot_manager.systemd_boot import SystemdBoot
from tests.fakes.slot_images import BuiltImage
from tests.fakes.slot_lab import Lab


def states(lab: Lab) -> dict[str, State]:
    return {slot.name: slot.state for slot in lab.machine.view().slots.values()}


def default(lab: Lab) -> str:
    return next(slot.name for slot in lab.machine.view().slots.values() if slot.default)


def test_a_successful_trial_is_proven_and_re_armed(trying: Lab, images: dict[str, BuiltImage]) -> None:
    assert states(trying) == {"a": State.GOOD, "b": State.TRYING}

    blessed = lifecycle.bless(trying.machine)

    assert blessed.trial_succeeded
    assert trying.names() == ["hypernet_1.0.0.efi", "hypernet_2.0.0+5.efi"]
    assert states(trying) == {"a": State.GOOD, "b": State.GOOD}
    record = trying.machine.store.load()
    assert record.pending is None
    assert images["2.0.0"].root_hash in record.proven


def test_an_entry_that_systemd_blessed_already_is_re_armed(trying: Lab) -> None:
    (trying.linux / "hypernet_2.0.0+2-1.efi").rename(trying.linux / "hypernet_2.0.0.efi")

    assert lifecycle.bless(trying.machine).trial_succeeded
    assert trying.names() == ["hypernet_1.0.0.efi", "hypernet_2.0.0+5.efi"]


def test_blessing_twice_changes_nothing_the_second_time(both_good: Lab) -> None:
    before = both_good.snapshot()

    assert not lifecycle.bless(both_good.machine).trial_succeeded
    assert both_good.snapshot() == before


def test_a_slot_without_a_good_neighbour_is_not_counted(lab: Lab) -> None:
    (lab.linux / "hypernet_1.0.0.efi").rename(lab.linux / "hypernet_1.0.0+4-1.efi")

    lifecycle.bless(lab.machine)

    assert lab.names() == ["hypernet_1.0.0.efi"]


def test_a_re_armed_good_slot_stays_good_down_to_its_last_try(both_good: Lab) -> None:
    name = "hypernet_2.0.0+5.efi"
    for _ in range(5):
        name = both_good.try_once(name, "b")
        assert states(both_good)["b"] is State.GOOD
    lifecycle.bless(both_good.machine)
    assert both_good.names() == ["hypernet_1.0.0.efi", "hypernet_2.0.0+5.efi"]


def test_a_plain_twin_of_a_counted_entry_does_not_prevent_the_blessing(trying: Lab) -> None:
    uki = (trying.linux / "hypernet_2.0.0+2-1.efi").read_bytes()
    (trying.linux / "hypernet_2.0.0.efi").write_bytes(uki)

    lifecycle.bless(trying.machine)

    assert trying.names() == ["hypernet_1.0.0.efi", "hypernet_2.0.0+5.efi"]


def test_a_trial_that_used_up_its_tries_is_recorded_as_a_rollback(armed: Lab) -> None:
    name = "hypernet_2.0.0+3.efi"
    for _ in range(3):
        name = armed.try_once(name, "b")
        assert states(armed)["b"] is State.TRYING
    armed.boot("a", selected="hypernet_1.0.0.efi")

    blessed = lifecycle.bless(armed.machine)

    assert blessed.rollback is not None
    assert (blessed.rollback.from_version, blessed.rollback.to_version) == ("2.0.0", "1.0.0")
    assert blessed.rollback.reason.startswith("used up its 3 tries without a good verdict (failed checks,")
    slot = armed.machine.view().slots["b"]
    assert (slot.state, slot.reason) == (State.BAD, blessed.rollback.reason)
    assert armed.machine.store.load().last_rollback == blessed.rollback
    assert armed.names() == ["hypernet_1.0.0.efi", "hypernet_2.0.0+0-3.efi"]


def test_a_trial_that_was_marked_bad_is_recorded_with_that_reason(trying: Lab) -> None:
    lifecycle.mark_bad(trying.machine, "b", "check web failed")
    assert trying.names() == ["hypernet_1.0.0.efi", "hypernet_2.0.0+0-2.efi"]
    assert default(trying) == "a"
    assert states(trying)["b"] is State.BAD
    trying.boot("a", selected="hypernet_1.0.0.efi")

    blessed = lifecycle.bless(trying.machine)

    assert blessed.rollback is not None
    assert blessed.rollback.reason == "check web failed"
    assert trying.machine.store.load().pending is None


def test_a_failed_trial_is_recorded_once(trying: Lab) -> None:
    lifecycle.mark_bad(trying.machine, "b", "check web failed")
    trying.boot("a", selected="hypernet_1.0.0.efi")
    lifecycle.bless(trying.machine)

    assert lifecycle.bless(trying.machine).rollback is None


def test_a_trial_that_has_not_begun_is_not_called_failed(armed: Lab) -> None:
    blessed = lifecycle.bless(armed.machine)

    assert blessed.rollback is None
    assert armed.machine.store.load().pending is not None
    assert states(armed)["b"] is State.ARMED


def test_a_good_slot_that_used_up_its_tries_is_recorded_as_a_rollback(both_good: Lab) -> None:
    (both_good.linux / "hypernet_2.0.0+5.efi").rename(both_good.linux / "hypernet_2.0.0+0-5.efi")
    both_good.boot("a", selected="hypernet_1.0.0.efi")

    blessed = lifecycle.bless(both_good.machine)

    assert blessed.rollback is not None
    assert "used up its 5 tries" in blessed.rollback.reason
    assert both_good.names() == ["hypernet_1.0.0.efi", "hypernet_2.0.0+0-5.efi"]
    assert lifecycle.bless(both_good.machine).rollback is None


def test_rollback_makes_the_other_slot_the_default_and_this_one_bad(both_good: Lab) -> None:
    done = lifecycle.rollback(both_good.machine, "too slow")

    assert (done.to_slot, done.from_version, done.to_version) == ("a", "2.0.0", "1.0.0")
    assert both_good.names() == ["hypernet_1.0.0.efi", "hypernet_2.0.0+0-1.efi"]
    assert default(both_good) == "a"
    assert states(both_good) == {"a": State.GOOD, "b": State.BAD}
    last = both_good.machine.store.load().last_rollback
    assert last is not None
    assert last.reason == "too slow"


def test_a_slot_marked_bad_has_not_the_name_that_systemd_bless_boot_would_make_good(trying: Lab) -> None:
    # systemd-bless-boot(8) "good" also renames NAME+0-DONE, with DONE of LoaderBootCountPath.
    lifecycle.mark_bad(trying.machine, "b", "check web failed")

    assert trying.machine.loader.facts().counted == "hypernet_2.0.0+2-1.efi"
    assert "hypernet_2.0.0+0-1.efi" not in trying.names()
    assert states(trying)["b"] is State.BAD


def test_rollback_takes_the_counter_off_the_slot_that_is_the_only_good_one_then(both_good: Lab) -> None:
    (both_good.linux / "hypernet_1.0.0.efi").rename(both_good.linux / "hypernet_1.0.0+1-4.efi")
    record = both_good.machine.store.load()
    record.proven[both_good.root_hash("a")] = 1
    both_good.machine.store.save(record)

    lifecycle.rollback(both_good.machine)

    assert "hypernet_1.0.0.efi" in both_good.names()


def test_marking_the_other_slot_bad_takes_the_counter_off_the_running_one(both_good: Lab) -> None:
    lifecycle.mark_bad(both_good.machine, "a", "old")

    assert both_good.names() == ["hypernet_1.0.0+0-1.efi", "hypernet_2.0.0.efi"]


def test_a_rollback_that_the_esp_refuses_has_not_happened(
    both_good: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = both_good.machine.store.load()

    def refuse(loader: SystemdBoot, entry: Entry, left: int, done: int = 0) -> None:
        raise LoaderError("The ESP is read-only.")

    with monkeypatch.context() as patch:
        patch.setattr(SystemdBoot, "set_tries", refuse)
        with pytest.raises(LoaderError, match="read-only"):
            lifecycle.rollback(both_good.machine, "too slow")

    assert both_good.machine.store.load() == before
    assert states(both_good) == {"a": State.GOOD, "b": State.GOOD}


def test_the_slot_after_a_rollback_is_blessed_without_a_second_rollback(both_good: Lab) -> None:
    lifecycle.rollback(both_good.machine, "too slow")
    both_good.boot("a", selected="hypernet_1.0.0.efi")

    blessed = lifecycle.bless(both_good.machine)

    assert blessed.rollback is None
    assert both_good.names() == ["hypernet_1.0.0.efi", "hypernet_2.0.0+0-1.efi"]


def test_rollback_removes_choices_that_would_overrule_it(both_good: Lab) -> None:
    for name in ("LoaderEntryDefault", "LoaderEntryOneShot", "LoaderEntryPreferred"):
        both_good.set_variable(name, "hypernet_2.0.0+5.efi")

    lifecycle.rollback(both_good.machine)

    left = [path.name for path in both_good.topology.efivars.iterdir()]
    assert not any(
        name.startswith(("LoaderEntryDefault", "LoaderEntryOneShot", "LoaderEntryPre")) for name in left
    )


@pytest.mark.parametrize("other", ["empty", "armed", "bad"])
def test_rollback_is_refused_when_the_other_slot_is_not_good(
    lab: Lab, images: dict[str, BuiltImage], other: str
) -> None:
    if other != "empty":
        install.install(lab.machine, str(images["2.0.0"].path))
    if other == "bad":
        (lab.linux / "hypernet_2.0.0+3.efi").rename(lab.linux / "hypernet_2.0.0+0-3.efi")
    before = lab.snapshot()

    with pytest.raises(OtherSlotNotGood, match=f"'{other}'"):
        lifecycle.rollback(lab.machine)

    assert lab.snapshot() == before
