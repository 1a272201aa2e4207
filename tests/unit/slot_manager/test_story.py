# SPDX-License-Identifier: Apache-2.0
"""Every story about a machine: installs, trials, verdicts, marks and power cuts in any order, on real files.

After each step the machine has a slot that boots for ever, no boot by chance starts an image that nobody
armed, and status can say why each slot is what it is. More stories than usual: STORIES=1000 in the
environment.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from agents.slot_manager import arming, install, lifecycle
from agents.slot_manager.errors import (
    BelowFloor,
    Denied,
    Downgrade,
    NoSuchSlot,
    OtherSlotNotGood,
    SameVersion,
    WrongState,
)
from agents.slot_manager.loader import TRIAL_TRIES
from agents.slot_manager.record import Record
from agents.slot_manager.state import State
from common import version
from common.errors import Cancelled
from tests.fakes import slot_images, slot_lab
from tests.fakes.slot_images import BuiltImage, Key
from tests.fakes.slot_lab import Lab
from tests.unit.slot_manager.story import Life, Outage, Verifications

VERSIONS = ("1.0.0", "2.0.0", "3.0.0", "4.0.0")
MIN_VERSION = {"4.0.0": "2.0.0"}
RULES = (Denied, BelowFloor, Downgrade, SameVersion)

slots = st.sampled_from("ab")
versions = st.sampled_from(VERSIONS)
crashes = st.sampled_from((0, 0, 0, 0, 1, 2, 3, 4, 7))
outages = st.builds(Outage, st.integers(0, 99).map(lambda n: n if n < 24 else None), st.booleans())


def when(*others: State) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A rule that is refused in all but these states of the other slot; `refusals` tries it in all."""
    return precondition(lambda self: self.life.view().other.state in others)


class Story(RuleBasedStateMachine):
    """One machine, from the first good boot of 1.0.0 in slot a on."""

    fresh: ClassVar[Lab]
    """A new machine; each story begins with a copy of its folder in the same place."""
    images: ClassVar[dict[str, BuiltImage]]
    verifications: ClassVar[Verifications]

    def __init__(self) -> None:
        super().__init__()
        self.life = Life(self.fresh, self.images, self.verifications)
        self.known = Record()
        self.backup = b""
        self.blessed = {"1.0.0"}
        lifecycle.bless(self.life.machine)

    def teardown(self) -> None:
        self.life.end()

    # --- what people and programs do

    @rule(
        offered=versions,
        arm=st.booleans(),
        downgrade=st.booleans(),
        cancel=st.integers(0, 40).map(lambda n: n if n < 12 else None),
        outage=outages,
    )
    def install(self, offered: str, arm: bool, downgrade: bool, cancel: int | None, outage: Outage) -> None:
        before, stop, calls = self.life.view(), threading.Event(), iter(range(1000))

        def progress(stage: install.Stage, done: int, total: int) -> None:
            if cancel is not None and next(calls) >= cancel:
                stop.set()

        def run() -> None:
            path, machine = str(self.images[offered].path), self.life.machine
            install.install(
                machine, path, arm=arm, allow_downgrade=downgrade, cancel=stop, progress=progress
            )
            assert self.images[offered].root_hash not in before.record.denied
            assert downgrade or version.compare(offered, before.booted.version) > 0
            after = self.life.view().other
            assert (after.version, after.default) == (offered, arm)

        self.life.do(run, outage, refused=(*RULES, OtherSlotNotGood, Cancelled))

    @rule(offered=versions, blessed=st.booleans(), counting=st.booleans())
    def update(self, offered: str, blessed: bool, counting: bool) -> None:
        """An install that has to work, a boot and perhaps a good verdict, so that stories get far."""
        view = self.life.view()
        if (
            offered == view.booted.version
            or self.images[offered].root_hash in view.record.denied
            or version.compare(offered, view.record.floor.min_version) < 0
            or (view.booted.state is not State.GOOD and view.other.state is State.GOOD)
        ):
            return
        path = str(self.images[offered].path)
        installed = install.install(self.life.machine, path, allow_downgrade=True)
        assert installed.state is State.ARMED
        self.check()
        self.life.boot(counting=counting)
        assert self.life.view().booted.version == offered
        if blessed:
            self.check()
            self.bless(by_systemd=False, outage=Outage())

    @when(State.STAGED)
    @rule(outage=outages)
    def approve(self, outage: Outage) -> None:
        self.life.do(lambda: arming.approve(self.life.machine), outage, refused=(BelowFloor,))

    @when(State.STAGED, State.APPROVED)
    @rule(outage=outages)
    def arm(self, outage: Outage) -> None:
        def run() -> None:
            arming.arm(self.life.machine)
            assert self.life.view().other.default

        self.life.do(run, outage, refused=(BelowFloor,))

    @when(State.ARMED)
    @rule(outage=outages)
    def disarm(self, outage: Outage) -> None:
        def run() -> None:
            arming.disarm(self.life.machine)
            assert self.life.view().booted.default

        self.life.do(run, outage)

    @rule(by_systemd=st.booleans(), outage=outages)
    def bless(self, by_systemd: bool, outage: Outage) -> None:
        view = self.life.view()
        entry = view.booted.entry
        self.blessed.add(view.booted.version)
        if by_systemd and entry is not None and entry.name == view.facts.counted:
            # systemd-bless-boot.service comes first and makes the name plain.
            (self.life.lab.linux / entry.name).rename(self.life.lab.linux / f"{entry.stem}.efi")
        self.life.do(lambda: lifecycle.bless(self.life.machine), outage)

    @precondition(lambda self: self.life.view().booted.state is State.TRYING)
    @rule(crashes=crashes, outage=outages)
    def failed_verdict(self, crashes: int, outage: Outage) -> None:
        """As boot-health decides on a trial: it is marked bad, and the machine reboots."""
        name = self.life.view().booted.name
        run = lambda: lifecycle.mark_bad(self.life.machine, name, "check failed")  # noqa: E731
        self.life.do(run, outage, refused=(OtherSlotNotGood,))
        self.life.boot(crashes)

    @when(State.GOOD)
    @rule(outage=outages)
    def rollback(self, outage: Outage) -> None:
        def run() -> None:
            to = lifecycle.rollback(self.life.machine, "too slow").to_slot
            assert self.life.view().slots[to].default

        self.life.do(run, outage)

    @rule(name=slots, outage=outages)
    def mark_good(self, name: str, outage: Outage) -> None:
        booted = self.life.view().booted
        if name == booted.name:
            self.blessed.add(booted.version)
        self.life.do(lambda: lifecycle.mark_good(self.life.machine, name), outage, refused=(NoSuchSlot,))

    @rule(name=slots, outage=outages)
    def mark_bad(self, name: str, outage: Outage) -> None:
        run = lambda: lifecycle.mark_bad(self.life.machine, name, "disliked")  # noqa: E731
        self.life.do(run, outage, refused=(NoSuchSlot, OtherSlotNotGood))

    @precondition(lambda self: self.life.view().record.denied)
    @rule(outage=outages)
    def clear_denied(self, outage: Outage) -> None:
        self.life.do(lambda: arming.clear_denied(self.life.machine, arming.ALL), outage)

    @rule(verb=st.sampled_from((arming.approve, arming.arm, arming.disarm, lifecycle.rollback)))
    def refusals(self, verb: Callable[..., object]) -> None:
        self.life.do(
            lambda: verb(self.life.machine), refused=(WrongState, OtherSlotNotGood, BelowFloor, Denied)
        )

    @rule(
        crashes=crashes,
        counting=st.sampled_from((True, True, False)),
        early=st.builds(Outage, st.integers(0, 5), st.booleans()),
    )
    def boot(self, crashes: int, counting: bool, early: Outage) -> None:
        self.life.boot(crashes, counting=counting, early=early)

    # --- what happens to the record

    @rule()
    def back_up_the_record(self) -> None:
        path = self.life.copies()[0]
        if path.exists():
            self.backup = path.read_bytes()

    @rule(number=st.integers(0, 1), damage=st.sampled_from(["delete", "tear", "zero", "stale", "swap"]))
    def damage_the_record(self, number: int, damage: str) -> None:
        """As long as the copies agreed, the loss of one is no loss."""
        both = self.life.copies()
        if not all(path.exists() for path in both):
            return
        contents = [path.read_bytes() for path in both]
        before = self.life.machine.store.load()
        if damage == "delete":
            both[number].unlink()
        elif damage == "swap":
            both[0].write_bytes(contents[1])
            both[1].write_bytes(contents[0])
        else:
            both[number].write_bytes(
                {"tear": contents[number][:200], "zero": bytes(4096), "stale": self.backup}[damage]
            )
        self.known = self.life.machine.store.load()
        self.life.trial_boots = 0
        assert self.known == before or contents[0] != contents[1]

    @rule()
    def lose_the_record(self) -> None:
        for path in self.life.copies():
            path.unlink(missing_ok=True)
        self.known = Record()
        self.life.trial_boots = 0

    # --- what holds after every step

    @invariant()
    def check(self) -> None:
        life, view = self.life, self.life.view()
        record, states = (
            view.record,
            {slot.version: slot.state for slot in view.slots.values() if slot.entry},
        )
        taken = life.loader.exhaust()
        told = "; ".join(f"{slot.name}: {slot.state} ({slot.reason})" for slot in view.slots.values())
        told = f"{life.lab.names()}; {told}; the loader takes {taken}"
        # One slot boots for ever, whatever happens: it is whole and good, and no trial goes on for ever.
        assert life.holder(taken[-1]), told
        assert states[taken[-1]] is State.GOOD, told
        assert life.trial_boots <= TRIAL_TRIES, told
        assert {name for name, state in states.items() if state is State.GOOD} <= self.blessed, told
        self.blessed &= {name for name, state in states.items() if state is State.GOOD} | {
            view.booted.version
        }
        # What the loader takes is what we say, and never an image that is not armed.
        assert [slot.version for slot in view.slots.values() if slot.default] == [taken[0]], told
        assert not {states[name] for name in taken} & {State.STAGED, State.APPROVED}, told
        # Status can say why.
        for slot in view.slots.values():
            old = record.last_transition(slot.name, life.lab.root_hash(slot.name))
            untouched = slot.state is State.EMPTY and old is None
            assert slot.reason or slot.state is State.GOOD or untouched, told
        # What is known only grows, and what runs is not written.
        assert record.floor.serial >= self.known.floor.serial, told
        assert version.compare(record.floor.min_version, self.known.floor.min_version) >= 0, told
        assert record.known_usec >= self.known.known_usec, told
        self.known = record
        assert life.written_at(view.booted.name) == life.written, told
        assert life.lab.root_hash(view.booted.name) == self.images[view.booted.version].root_hash, told


@pytest.fixture
def story(key: Key, tmp_path: Path) -> Iterator[type[Story]]:
    """The class with its images, in memory if there is such a place."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as name:
        folder = Path(name)
        Story.images = {v: slot_images.build_image(folder / "images", v, key=key) for v in VERSIONS}
        for built in Story.images.values():
            slot_images.vouch(built, key, min_version=MIN_VERSION.get(built.version, "0.0.0"))
        Story.fresh = slot_lab.make_lab(folder / "lab", Story.images["1.0.0"], key)
        Story.fresh.folder.rename(folder / "fresh")
        Story.verifications = Verifications(folder)
        yield Story


def test_no_story_leaves_a_machine_that_does_not_boot_or_cannot_be_explained(story: type[Story]) -> None:
    stories = settings(
        max_examples=int(os.environ.get("STORIES", "40")),
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(story, settings=stories)
