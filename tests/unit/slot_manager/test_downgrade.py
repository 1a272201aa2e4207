# SPDX-License-Identifier: Apache-2.0
"""An older release that was asked for: the newer one steps aside for it and is its way back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agents.slot_manager import arming, install, lifecycle
from agents.slot_manager.errors import LoaderError, OtherSlotNotGood, WrongState
from agents.slot_manager.loader import in_loader_order
from agents.slot_manager.record import Record
from agents.slot_manager.state import State
from tests.fakes.slot_images import BuiltImage, Key
from tests.fakes.slot_lab import Lab, make_lab


@pytest.fixture
def newer(tmp_path: Path, images: dict[str, BuiltImage], key: Key) -> Lab:
    """3.0.0 runs in slot a and is good, nothing is in slot b."""
    lab = make_lab(tmp_path / "newer", images["3.0.0"], key)
    lifecycle.bless(lab.machine)
    return lab


@pytest.fixture
def older(newer: Lab, releases: dict[str, BuiltImage]) -> Lab:
    """3.0.0 runs in slot a, 2.0.0 is armed in slot b."""
    install.install(newer.machine, str(releases["2.0.0"].path), allow_downgrade=True)
    return newer


@pytest.fixture
def trial(older: Lab) -> Lab:
    """2.0.0 runs in slot b on trial."""
    older.try_once("hypernet_2.0.0+3.efi", "b")
    return older


def states(lab: Lab) -> tuple[State, State]:
    slots = lab.machine.view().slots
    return slots["a"].state, slots["b"].state


def test_an_older_release_is_taken_first_and_the_running_one_stays_good(older: Lab) -> None:
    view = older.machine.view()
    assert older.names() == ["hypernet_2.0.0+3.efi", "hypernet_3.0.0+0.efi"]
    assert states(older) == (State.GOOD, State.ARMED)
    assert view.other.default


def test_an_older_release_that_fails_all_its_tries_leaves_the_newer_one(trial: Lab) -> None:
    for name in ("hypernet_2.0.0+2-1.efi", "hypernet_2.0.0+1-2.efi"):
        trial.try_once(name, "b")
    first = in_loader_order(trial.machine.loader.entries())[0]
    assert first.name == "hypernet_3.0.0+0.efi"

    trial.try_once(first.name, "a")
    done = lifecycle.bless(trial.machine)

    assert done.rollback is not None
    assert (done.rollback.from_version, done.rollback.to_version) == ("2.0.0", "3.0.0")
    assert states(trial) == (State.GOOD, State.BAD)
    assert "hypernet_3.0.0.efi" in trial.names()
    assert list(trial.machine.store.load().denied) == [trial.root_hash("b")]


def test_an_older_release_on_trial_can_be_rolled_back_at_once(trial: Lab) -> None:
    lifecycle.rollback(trial.machine, "a check failed")
    assert states(trial) == (State.GOOD, State.BAD)
    assert trial.machine.view().slots["a"].default


def test_an_older_release_that_is_blessed_stays_first_and_counted(trial: Lab) -> None:
    lifecycle.bless(trial.machine)
    assert trial.names() == ["hypernet_2.0.0+5.efi", "hypernet_3.0.0+0.efi"]
    assert states(trial) == (State.GOOD, State.GOOD)
    assert trial.machine.view().slots["b"].default
    assert trial.machine.store.load().denied == {}

    lifecycle.rollback(trial.machine, "forward again")
    assert trial.machine.view().slots["a"].default
    assert trial.names() == ["hypernet_2.0.0+0-1.efi", "hypernet_3.0.0.efi"]


def test_a_verdict_on_the_running_slot_does_not_undo_the_downgrade(older: Lab) -> None:
    lifecycle.bless(older.machine)
    assert older.machine.view().slots["b"].default


def test_a_disarmed_older_release_gives_the_running_one_its_place_back(older: Lab) -> None:
    arming.disarm(older.machine)
    assert older.names() == [".hypernet_2.0.0.efi.part", "hypernet_3.0.0.efi"]
    arming.arm(older.machine)
    assert older.names() == ["hypernet_2.0.0+3.efi", "hypernet_3.0.0+0.efi"]


def test_an_older_release_that_was_only_staged_steps_nobody_aside(
    newer: Lab, releases: dict[str, BuiltImage]
) -> None:
    install.install(newer.machine, str(releases["2.0.0"].path), allow_downgrade=True, arm=False)
    assert newer.names() == [".hypernet_2.0.0.efi.part", "hypernet_3.0.0.efi"]
    arming.arm(newer.machine)
    assert newer.machine.view().slots["b"].default


def test_another_install_gives_the_running_one_its_place_back(
    older: Lab, images: dict[str, BuiltImage]
) -> None:
    install.install(older.machine, str(images["2.0.0"].path), allow_downgrade=True, arm=False)
    assert older.names() == [".hypernet_2.0.0.efi.part", "hypernet_3.0.0.efi"]


def test_a_downgrade_that_fails_at_its_end_gives_the_running_one_its_place_back(
    newer: Lab, releases: dict[str, BuiltImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object) -> None:
        monkeypatch.undo()
        newer.machine.give_way()
        raise LoaderError("The ESP is broken.")

    monkeypatch.setattr(type(newer.machine), "give_way", fail)
    with pytest.raises(LoaderError, match="The ESP is broken"):
        install.install(newer.machine, str(releases["2.0.0"].path), allow_downgrade=True)
    assert newer.names() == ["hypernet_3.0.0.efi"]


def test_a_slot_on_trial_does_not_step_aside(newer: Lab, releases: dict[str, BuiltImage]) -> None:
    newer.machine.store.save(Record())
    (newer.linux / "hypernet_3.0.0.efi").rename(newer.linux / "hypernet_3.0.0+3.efi")
    newer.try_once("hypernet_3.0.0+3.efi", "a")
    before = newer.snapshot()
    with pytest.raises(WrongState, match="still on trial"):
        install.install(newer.machine, str(releases["2.0.0"].path), allow_downgrade=True)
    assert newer.snapshot() == before


def test_an_arming_that_lost_power_is_told_and_completed_by_the_next_good_boot(older: Lab) -> None:
    (older.linux / "hypernet_3.0.0+0.efi").rename(older.linux / "hypernet_3.0.0.efi")
    view = older.machine.view()
    assert (view.other.state, view.other.default) == (State.ARMED, False)
    assert view.other.reason == "the boot loader takes the other slot first; arm it again"

    lifecycle.bless(older.machine)

    assert older.names() == ["hypernet_2.0.0+3.efi", "hypernet_3.0.0+0.efi"]
    assert older.machine.view().other.reason == "the next boot tries it"


@pytest.mark.parametrize(
    "try_other",
    [lambda lab: arming.arm(lab.machine), lambda lab: lifecycle.mark_good(lab.machine, "b")],
    ids=["arm", "mark good"],
)
def test_nothing_older_is_armed_while_the_running_slot_is_on_trial(
    newer: Lab, releases: dict[str, BuiltImage], try_other: Callable[[Lab], State]
) -> None:
    install.install(newer.machine, str(releases["2.0.0"].path), allow_downgrade=True, arm=False)
    newer.machine.store.save(Record())
    (newer.linux / "hypernet_3.0.0.efi").rename(newer.linux / "hypernet_3.0.0+3.efi")
    newer.try_once("hypernet_3.0.0+3.efi", "a")
    before = newer.snapshot()
    with pytest.raises(OtherSlotNotGood, match="has to be good before the older"):
        try_other(newer)
    assert newer.snapshot() == before
