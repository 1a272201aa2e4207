# SPDX-License-Identifier: Apache-2.0
"""The face on the bus: io.hypernet.SlotManager1. Decisions are those of install, lifecycle, arming."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from agents.slot_manager import arming, hooks, lifecycle, state, tell, topology
from agents.slot_manager.installs import SLOT_PROPERTIES, Installs, options_of
from agents.slot_manager.machine import Machine
from agents.slot_manager.properties import NAME
from common import bus
from common.errors import AgentError, Busy

if TYPE_CHECKING:
    from agents.slot_manager.sources import OpenFiles

PATH = "/io/hypernet/SlotManager1"
ARM_ACTION = "io.hypernet.SlotManager1.arm"
CLEAR_DENIED_ACTION = "io.hypernet.SlotManager1.clear-denied"
ROLLBACK_ACTION = "io.hypernet.SlotManager1.rollback"
MARK_ACTION = "io.hypernet.SlotManager1.mark"
IDLE_EXIT_SEC = 5.0
JOB_IDLE_EXIT_SEC = 60.0
"""Once there was a job: its object tells how it ended."""

MAX_REASON = 500

logger = logging.getLogger(__name__)
_T = TypeVar("_T")


class SlotManager(Installs):
    """The object at PATH."""

    @bus.method("Approve", "", "", action=ARM_ACTION)
    async def approve(self) -> None:
        """Agree to the staged release."""
        await self._change(arming.approve)

    @bus.method("Arm", "a{sv}", "", action=ARM_ACTION)
    async def arm(self, options: dict[str, Any]) -> None:
        """Let the next boot try the staged slot, and reboot if asked to."""
        given = options_of(options, {"reboot": False})

        def step(machine: Machine) -> tuple[state.Slot, bool]:
            before = machine.view().other.state
            arming.arm(machine)
            return machine.view().other, before is not state.State.ARMED

        slot, is_new = await self._change(step)
        if is_new:
            self.slot_armed(slot.name, slot.version)
        self._start(self._after_arming(slot.name, is_new=is_new, reboot=given["reboot"]))

    @bus.method("Disarm", "", "", action=ARM_ACTION)
    async def disarm(self) -> None:
        """Keep the next boot from trying the armed slot."""

        def step(machine: Machine) -> state.Slot:
            arming.disarm(machine)
            return machine.view().other

        slot = await self._change(step)
        self.slot_disarmed(slot.name, slot.version)

    @bus.method("ClearDenied", "s", "u", action=CLEAR_DENIED_ACTION)
    async def clear_denied(self, version: str) -> int:
        """Let releases that failed here be installed again; returns how many."""
        return await self._change(lambda machine: arming.clear_denied(machine, version))

    @bus.method("Rollback", "a{sv}", "s", action=ROLLBACK_ACTION)
    async def rollback(self, options: dict[str, Any]) -> str:
        """Make the other slot the default, mark this one bad, and reboot if asked to."""
        given = options_of(options, {"reason": "", "reboot": False})
        reason = _clean(given["reason"])
        done = await self._change(lambda machine: lifecycle.rollback(machine, reason))
        self.rolled_back(done.from_version, done.to_version, done.reason)
        if given["reboot"]:
            await self._reboot(done.to_slot)
        return done.to_slot

    @bus.method("MarkGood", "s", "", action=MARK_ACTION)
    async def mark_good(self, slot: str) -> None:
        """The running slot is good; any other gets a new trial."""
        name = topology.require_slot(slot, self._machine().topology)
        new = await self._change(lambda machine: lifecycle.mark_good(machine, name))
        self.slot_marked(name, str(new), "")

    @bus.method("MarkBad", "ss", "", action=MARK_ACTION)
    async def mark_bad(self, slot: str, reason: str) -> None:
        """The loader must not take this slot again."""
        name = topology.require_slot(slot, self._machine().topology)
        text = _clean(reason)
        new = await self._change(lambda machine: lifecycle.mark_bad(machine, name, text))
        self.slot_marked(name, str(new), text)

    @bus.method("Rearm", "", "", action=MARK_ACTION)
    async def rearm(self) -> None:
        """The running slot is good and gets its tries back; that is no verdict on this boot."""
        await self._change(lifecycle.rearm)

    @bus.signal("SlotDisarmed", "ss")
    def slot_disarmed(self, slot: str, version: str) -> None:
        """The next boot does not try this slot any more."""

    @bus.signal("SlotMarked", "sss")
    def slot_marked(self, slot: str, state: str, reason: str) -> None:
        """A slot was marked good (then `state` may be armed) or bad."""

    @bus.signal("RolledBack", "sss")
    def rolled_back(self, from_version: str, to_version: str, reason: str) -> None:
        """The other slot is the default now."""

    async def _begin(self, find: Callable[[], str | OpenFiles], options: dict[str, Any]) -> str:
        path = await super()._begin(find, options)
        self._service.linger(JOB_IDLE_EXIT_SEC)
        return path

    async def _after_arming(self, slot: str, *, is_new: bool, reboot: bool) -> None:
        """What follows when the next boot tries `slot`; failures end up in LastError and the journal."""
        with self._service.hold():
            if is_new:
                await hooks.post_update(self._service.client, slot)
            if reboot:
                try:
                    await self._reboot(slot)
                except AgentError as error:
                    logger.error("%s", error)
                    self._last_error = str(error)
                    self._announce("LastError")

    async def _change(self, step: Callable[[Machine], _T]) -> _T:
        """Run a step of the engine in a thread, under the machine's lock, and announce what it changed."""
        machine = self._machine()

        def locked() -> _T:
            with machine.lock():
                return step(machine)

        try:
            return await asyncio.get_running_loop().run_in_executor(None, locked)
        except Busy:
            if self._job:
                raise self._job.busy() from None
            raise
        finally:
            self._announce(*SLOT_PROPERTIES, "LastRollback", "LastGood", "Floor")


def _clean(reason: str) -> str:
    """One line of bounded length."""
    return " ".join("".join(c if c.isprintable() else " " for c in reason).split())[:MAX_REASON]


async def serve(find_machine: Callable[[], Machine]) -> int:
    """Serve the bus name until idle or stopped; returns the exit status.

    Every boot starts the service, whatever its verdict will be, so it tells of a rollback at its start.
    """
    with suppress(AgentError):  # whoever asks about the slots is told why there are none
        machine = find_machine()
        tell.rolled_back(machine.store, machine.store.load(), machine.topology.booted)

    def setup(service: bus.Service) -> None:
        service.export(PATH, SlotManager(service, find_machine))

    return await bus.serve(NAME, setup, idle_exit_sec=IDLE_EXIT_SEC, descriptors=True)
