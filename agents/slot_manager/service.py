# SPDX-License-Identifier: Apache-2.0
"""The face on the bus: io.hypernet.SlotManager1. Decisions are those of install, lifecycle, arming."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Final, TypeVar

from agents.slot_manager import arming, hooks, install, lifecycle, state, topology
from agents.slot_manager.install import Installed
from agents.slot_manager.job import INSTALL_ACTION, Job, Reporter, owner_of
from agents.slot_manager.machine import Machine
from agents.slot_manager.properties import NAME, Properties
from common import bus
from common.errors import AgentError, Busy, Internal, InvalidArgument

PATH = "/io/hypernet/SlotManager1"
DOWNGRADE_ACTION = "io.hypernet.SlotManager1.downgrade"
ARM_ACTION = "io.hypernet.SlotManager1.arm"
CLEAR_DENIED_ACTION = "io.hypernet.SlotManager1.clear-denied"
ROLLBACK_ACTION = "io.hypernet.SlotManager1.rollback"
MARK_ACTION = "io.hypernet.SlotManager1.mark"
IDLE_EXIT_SEC = 60.0
MAX_REASON = 500

_INSTALL_DEFAULTS: Final[dict[str, Any]] = {
    "arm": True,
    "allow-downgrade": False,
    "dry-run": False,
    "reboot": False,
    "slot": "",
}
_SLOT_PROPERTIES: Final = ("Slots", "DefaultSlot", "Releases", "Denied", "Transitions")

logger = logging.getLogger(__name__)
_T = TypeVar("_T")


class SlotManager(Properties):
    """The object at PATH."""

    def __init__(self, service: bus.Service, find_machine: Callable[[], Machine]) -> None:
        super().__init__(find_machine)
        self._service = service
        self._jobs = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @bus.method("Install", "sa{sv}", "o", action=INSTALL_ACTION)
    async def install(self, source: str, options: dict[str, Any]) -> str:
        """Start an installation; its end is told by the job and by UpdateInstalled or InstallFailed."""
        given = _options(options, _INSTALL_DEFAULTS)
        if given["reboot"] and (given["dry-run"] or not given["arm"]):
            raise InvalidArgument(
                "Option 'reboot' needs a slot that is armed; leave out 'dry-run' and 'arm'."
            )
        if given["allow-downgrade"]:
            await bus.require(DOWNGRADE_ACTION)
        machine, owner = self._machine(), await owner_of(self._service.client, bus.caller())
        if self._job:
            raise self._job.busy()
        self._jobs += 1
        job = Job(self._jobs, source, machine.topology.other, owner=owner, dry_run=given["dry-run"])
        job.on_stage = lambda: self._announce("Slots")
        self._service.export(job.path, job)
        self._job, self._last_error = job, ""
        self._start(self._install(machine, job, given))
        self.changed("Operation", "CurrentJob", "LastError")
        return job.path

    @bus.method("Approve", "", "", action=ARM_ACTION)
    async def approve(self) -> None:
        """Agree to the staged release."""
        await self._change(arming.approve)

    @bus.method("Arm", "a{sv}", "", action=ARM_ACTION)
    async def arm(self, options: dict[str, Any]) -> None:
        """Let the next boot try the staged slot, and reboot if asked to."""
        given = _options(options, {"reboot": False})

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
        given = _options(options, {"reason": "", "reboot": False})
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

    @bus.signal("UpdateInstalled", "ss")
    def update_installed(self, slot: str, version: str) -> None:
        """A slot was written and verified."""

    @bus.signal("InstallFailed", "sss")
    def install_failed(self, source: str, error_name: str, message: str) -> None:
        """An installation was refused, cancelled or failed."""

    @bus.signal("SlotArmed", "ss")
    def slot_armed(self, slot: str, version: str) -> None:
        """The next boot tries this slot."""

    @bus.signal("SlotDisarmed", "ss")
    def slot_disarmed(self, slot: str, version: str) -> None:
        """The next boot does not try this slot any more."""

    @bus.signal("SlotMarked", "sss")
    def slot_marked(self, slot: str, state: str, reason: str) -> None:
        """A slot was marked good (then `state` may be armed) or bad."""

    @bus.signal("RolledBack", "sss")
    def rolled_back(self, from_version: str, to_version: str, reason: str) -> None:
        """The other slot is the default now."""

    async def _reboot(self, slot: str) -> None:
        try:
            await hooks.reboot(self._service.client)
        except AgentError as error:
            raise AgentError(
                f"Slot {slot} is the default now, but the reboot could not be started: {error} Run 'reboot'."
            ) from error

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

    async def _install(self, machine: Machine, job: Job, options: Mapping[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        reporter = Reporter(job, loop)

        def before_write() -> None:
            hook = hooks.pre_update(self._service.client, job.cancelled)
            asyncio.run_coroutine_threadsafe(hook, loop).result()

        engine = functools.partial(
            install.install,
            machine,
            job.source(),
            arm=options["arm"],
            allow_downgrade=options["allow-downgrade"],
            dry_run=options["dry-run"],
            slot=options["slot"],
            cancel=job.cancelled,
            progress=reporter.progress,
            found=reporter.found,
            before_write=before_write,
            fields={"job": job.path, "owner": job.owner()},
        )
        with self._service.hold():
            try:
                installed = await _finish(loop.run_in_executor(None, engine), job)
            except AgentError as error:
                self._end(job, error)
            except Exception:
                logger.exception("Installation of %s failed with an internal error", job.source())
                self._end(job, Internal("slot-manager"))
            else:
                note = ""
                # A stop of the service takes nothing back of what is installed.
                with suppress(asyncio.CancelledError):
                    note = await self._switched(installed, reboot=options["reboot"])
                self._last_error = note
                self._end(job, None)
                job.succeed(installed, note)

    async def _switched(self, installed: Installed, *, reboot: bool) -> str:
        """Tell everyone, run the hooks, reboot if asked to; returns what went wrong with the reboot."""
        if installed.dry_run:
            return ""
        self.update_installed(installed.slot, installed.version)
        if installed.state is not state.State.ARMED:
            return ""
        self.slot_armed(installed.slot, installed.version)
        await hooks.post_update(self._service.client, installed.slot)
        if reboot:
            try:
                await self._reboot(installed.slot)
            except AgentError as error:
                return str(error)
        return ""

    def _end(self, job: Job, error: AgentError | None) -> None:
        self._job = None
        if error is not None:
            job.fail(error)
            if not job.dry_run():
                self._last_error = str(error)
                self.install_failed(job.source(), error.dbus_name, str(error))
        self._announce(*_SLOT_PROPERTIES, "Operation", "CurrentJob", "LastError")

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
            self._announce(*_SLOT_PROPERTIES, "LastRollback", "LastGood", "Floor")

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _finish(work: asyncio.Future[_T], job: Job) -> _T:
    """Result of the engine; a stop of the service cancels the job and still waits for its cleanup."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        job.cancelled.set()
        return await work


def _options(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a call, of the same types as their defaults. Raises InvalidArgument."""
    for key, value in options.items():
        if key not in defaults:
            raise InvalidArgument(f"Unknown option '{key}'; known are {', '.join(sorted(defaults))}.")
        if type(value) is not type(defaults[key]):
            raise InvalidArgument(f"Option '{key}' must be of type {type(defaults[key]).__name__}.")
    return {**defaults, **options}


def _clean(reason: str) -> str:
    """One line of bounded length."""
    return " ".join("".join(c if c.isprintable() else " " for c in reason).split())[:MAX_REASON]


async def serve(find_machine: Callable[[], Machine]) -> int:
    """Serve the bus name until idle or stopped; returns the exit status."""

    def setup(service: bus.Service) -> None:
        service.export(PATH, SlotManager(service, find_machine))

    return await bus.serve(NAME, setup, idle_exit_sec=IDLE_EXIT_SEC)
