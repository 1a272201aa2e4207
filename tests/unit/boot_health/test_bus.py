# SPDX-License-Identifier: Apache-2.0
"""On a private bus: slot-manager as a fake with the real interface."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from agents.boot_health import decide, report, slots
from agents.boot_health.engine import CheckResult, Result
from agents.boot_health.errors import SlotsInvalid
from agents.boot_health.report import Report
from agents.boot_health.slots import Slots
from agents.boot_health.verdict import State
from common import bus
from common.errors import ERROR_PREFIX, AgentError, NotRunning
from tests.fakes.private_bus import private_bus, private_bus_daemon, serving

from .conftest import BOOT_ID, Journal, Tree

__all__ = ["private_bus", "private_bus_daemon"]

CHECK = CheckResult("api", True, Result.FAILED, 1.5, 3, "no answer", "exit status 7")
FAILED = Report(
    State.FAILED, "Required check failed: api (exit status 7, 3 attempts).", BOOT_ID, True, (CHECK,)
)


def slot(name: str, state: str, *, booted: bool, tries_left: int = -1) -> dict[str, Any]:
    return {"name": name, "state": state, "booted": booted, "tries_left": tries_left}


class OtherSlotNotGood(AgentError):
    dbus_name = ERROR_PREFIX + "OtherSlotNotGood"


@dataclass
class Machine:
    """What the fake shows and was told."""

    slots: list[dict[str, Any]]
    marked: list[tuple[str, str]] = field(default_factory=list)


class FakeSlotManager(bus.Interface):
    INTERFACE = slots.NAME

    def __init__(self, state: Machine, *, refuse: bool = False) -> None:
        super().__init__()
        self._state = state
        self._refuse = refuse

    @bus.prop("Slots", "aa{sv}")
    def slots(self) -> list[dict[str, Any]]:
        return self._state.slots

    @bus.method("MarkBad", "ss", "")
    def mark_bad(self, name: str, reason: str) -> None:
        if self._refuse:
            raise OtherSlotNotGood("Slot a is not good.")
        self._state.marked.append((name, reason))

    @bus.method("Rearm", "", "")
    def rearm(self) -> None:
        self._state.marked.append(("booted", "rearmed"))


async def on_a_machine_with(state: Machine, work: Any, *, refuse: bool = False) -> Any:
    def setup(running: bus.Service) -> None:
        running.export(slots.PATH, FakeSlotManager(state, refuse=refuse))

    async with serving(slots.NAME, setup):
        return await asyncio.to_thread(work)


TRIAL = [slot("a", "good", booted=False), slot("b", "trying", booted=True)]
REARMED = [slot("a", "good", booted=True, tries_left=4), slot("b", "good", booted=False)]


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (TRIAL, Slots(trial=True, other_good=True)),
        ([slot("a", "good", booted=True), slot("b", "bad", booted=False)], Slots(False, other_good=False)),
        ([slot("a", "good", booted=True), slot("b", "good", booted=False)], Slots(False, other_good=True)),
        (REARMED, Slots(False, other_good=True, rearmed=True)),
        (
            [slot("a", "bad", booted=True, tries_left=0), slot("b", "good", booted=False)],
            Slots(False, other_good=True),
        ),
        (
            [slot("a", "empty", booted=False), slot("b", "trying", booted=True)],
            Slots(True, other_good=False),
        ),
    ],
)
def test_trial_and_other_slot_are_read_from_slot_manager(
    private_bus: str, items: list[dict[str, Any]], expected: Slots
) -> None:
    assert asyncio.run(on_a_machine_with(Machine(items), slots.query)) == expected


@pytest.mark.parametrize("value", ["a", [1], 7])
def test_something_that_is_no_list_of_slots_is_refused(value: object) -> None:
    with pytest.raises(SlotsInvalid):
        slots.interpret(value)


def test_without_slot_manager_the_answer_is_a_sentence(private_bus: str) -> None:
    with pytest.raises(NotRunning):
        slots.query()
    known, problem = slots.query_or_none()
    assert known is None
    assert problem.endswith(".")


def decide_on(tree: Tree, state: Machine, *, refuse: bool = False) -> list[str]:
    done: list[str] = []
    report.write(tree.places.report, FAILED)
    hands = decide.Hands(reboot=lambda: done.append("reboot"), failed_units=tuple)
    asyncio.run(on_a_machine_with(state, lambda: decide.run(tree.places, hands), refuse=refuse))
    return done


def test_a_failed_trial_is_marked_bad_over_the_bus_and_reboots(
    private_bus: str, tree: Tree, sent: Journal
) -> None:
    state = Machine(TRIAL)
    assert decide_on(tree, state) == ["reboot"]
    assert state.marked == [("booted", FAILED.reason)]


def test_a_degraded_boot_of_a_rearmed_slot_gets_its_tries_back_and_is_not_marked_good(
    private_bus: str, tree: Tree, sent: Journal
) -> None:
    state = Machine(REARMED)
    assert decide_on(tree, state) == []
    assert state.marked == [("booted", "rearmed")]


def test_a_refusal_because_of_the_other_slot_keeps_the_machine_in_this_boot(
    private_bus: str, tree: Tree, sent: Journal
) -> None:
    assert decide_on(tree, Machine(TRIAL), refuse=True) == []
