# SPDX-License-Identifier: Apache-2.0
"""The face on the bus: io.hypernet.SlotManager1. All decisions are in install.py and lifecycle.py."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from agents.slot_manager import install, lifecycle, messages, state, topology
from agents.slot_manager.job import INSTALL_ACTION, Job, Reporter
from agents.slot_manager.machine import Machine, View
from common import bus, journal
from common.errors import AgentError, Busy, Internal, InvalidArgument

NAME = "io.hypernet.SlotManager1"
PATH = "/io/hypernet/SlotManager1"
ROLLBACK_ACTION = "io.hypernet.SlotManager1.rollback"
MARK_ACTION = "io.hypernet.SlotManager1.mark"
IDLE_EXIT_SEC = 60.0
MAX_REASON = 500

_WRITING = (install.Stage.WRITE, install.Stage.READBACK, install.Stage.ENTRY)

logger = logging.getLogger(__name__)
_T = TypeVar("_T")


class SlotManager(bus.Interface):
    """The object at PATH; `find_machine` is asked until it answers, so that its errors reach the caller."""

    INTERFACE = NAME

    def __init__(self, service: bus.Service, find_machine: Callable[[], Machine]) -> None:
        self._service = service
        self._find_machine = find_machine
        self._known: Machine | None = None
        self._jobs = 0
        self._job: Job | None = None
        self._task: asyncio.Task[None] | None = None
        self._last_error = ""

    @bus.prop("Slots", "aa{sv}")
    def slots(self) -> list[dict[str, Any]]:
        view = self._view()
        return [self._describe(slot, view) for slot in view.slots.values()]

    @bus.prop("BootedSlot", "s")
    def booted_slot(self) -> str:
        return self._machine().topology.booted

    @bus.prop("DefaultSlot", "s")
    def default_slot(self) -> str:
        return state.default_slot(self._view().slots)

    @bus.prop("Operation", "s")
    def operation(self) -> str:
        return "installing" if self._job else "idle"

    @bus.prop("BootLoader", "s")
    def boot_loader(self) -> str:
        return self._machine().loader.name

    @bus.prop("CurrentJob", "o")
    def current_job(self) -> str:
        return self._job.path if self._job else "/"

    @bus.prop("LastError", "s")
    def last_error(self) -> str:
        try:
            self._machine()
        except AgentError as error:
            return str(error)
        return self._last_error

    @bus.prop("LastRollback", "a{sv}")
    def last_rollback(self) -> dict[str, Any]:
        last = self._machine().store.load().last_rollback
        if last is None:
            return {}
        return {
            "from": last.from_slot,
            "from_version": last.from_version,
            "to": last.to_slot,
            "to_version": last.to_version,
            "reason": last.reason,
            "since": bus.Variant("t", last.since_usec),
        }

    @bus.method("Install", "sa{sv}", "o", action=INSTALL_ACTION)
    def install(self, source: str, options: dict[str, Any]) -> str:
        """Start an installation; its end is told by the job and by UpdateInstalled or InstallFailed."""
        given = _options(options, {"arm": bool})
        machine = self._machine()
        if self._job:
            raise Busy("An installation is running already; wait for its end or cancel it.")
        self._jobs += 1
        job = Job(self._jobs, source, machine.topology.other)
        self._service.export(job.path, job)
        self._job, self._last_error = job, ""
        self._task = asyncio.get_running_loop().create_task(
            self._install(machine, job, source, arm=given.get("arm", True))
        )
        self.changed("Operation", "CurrentJob", "LastError")
        return job.path

    @bus.method("Rollback", "a{sv}", "s", action=ROLLBACK_ACTION)
    async def rollback(self, options: dict[str, Any]) -> str:
        """Make the other slot the default, mark this one bad, and reboot if asked to."""
        given = _options(options, {"reason": str, "reboot": bool})
        reason = _clean(given.get("reason", ""))
        done = await self._change(lambda machine: lifecycle.rollback(machine, reason))
        self.rolled_back(done.from_version, done.to_version, done.reason)
        if given.get("reboot", False):
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

    @bus.signal("SlotMarked", "sss")
    def slot_marked(self, slot: str, state: str, reason: str) -> None:
        """A slot was marked good (then `state` may be armed) or bad."""

    @bus.signal("RolledBack", "sss")
    def rolled_back(self, from_version: str, to_version: str, reason: str) -> None:
        """The other slot is the default now."""

    async def _reboot(self, slot: str) -> None:
        try:
            await self._service.client.call(
                "org.freedesktop.systemd1",
                "/org/freedesktop/systemd1",
                "org.freedesktop.systemd1.Manager",
                "StartUnit",
                "ss",
                "reboot.target",
                "replace-irreversibly",
            )
        except AgentError as error:
            raise AgentError(
                f"Slot {slot} is the default now, but the reboot could not be started: {error} Run 'reboot'."
            ) from error

    async def _install(self, machine: Machine, job: Job, source: str, *, arm: bool) -> None:
        loop = asyncio.get_running_loop()
        reporter = Reporter(job, loop)
        with self._service.hold():
            work = loop.run_in_executor(
                None,
                lambda: install.install(
                    machine,
                    source,
                    arm=arm,
                    cancel=job.cancelled,
                    progress=reporter.progress,
                    found=reporter.found,
                ),
            )
            try:
                installed = await _finish(work, job)
            except AgentError as error:
                self._end(job, error)
            except Exception:
                logger.exception("Installation of %s failed with an internal error", source)
                self._end(job, Internal("slot-manager"))
            else:
                job.succeed(installed)
                self.update_installed(installed.slot, installed.version)
                self._end(job, None)

    def _end(self, job: Job, error: AgentError | None) -> None:
        self._job = None
        if error is not None:
            self._last_error = str(error)
            journal.send(
                f"Installation of {job.source()} failed: {error}",
                priority=journal.ERR,
                message_id=messages.INSTALL_FAILED,
                slot=job.slot(),
                source=job.source(),
                error_name=error.dbus_name,
            )
            job.fail(error)
            self.install_failed(job.source(), error.dbus_name, str(error))
        self._announce("Slots", "DefaultSlot", "Operation", "CurrentJob", "LastError")

    async def _change(self, step: Callable[[Machine], _T]) -> _T:
        """Run a step of the engine in a thread, under the machine's lock, and announce what it changed."""
        machine = self._machine()

        def locked() -> _T:
            with machine.lock():
                return step(machine)

        try:
            return await asyncio.get_running_loop().run_in_executor(None, locked)
        finally:
            self._announce("Slots", "DefaultSlot", "LastRollback")

    def _announce(self, *names: str) -> None:
        try:
            self.changed(*names)
        except AgentError as error:
            logger.warning("Changed properties could not be announced: %s", error)

    def _machine(self) -> Machine:
        if self._known is None:
            self._known = self._find_machine()
        return self._known

    def _view(self) -> View:
        writing = self._job is not None and self._job.current in _WRITING
        machine = self._machine()
        return machine.view(installing=machine.topology.other if writing else "")

    def _describe(self, slot: state.Slot, view: View) -> dict[str, Any]:
        return {
            "name": slot.name,
            "state": str(slot.state),
            "version": slot.version,
            "root_hash": slot.root_hash,
            "booted": slot.booted,
            "default": slot.default,
            "tries_left": slot.tries_left,
            "tries_done": slot.tries_done,
            "entry": slot.entry.name if slot.entry else "",
            "reason": slot.reason,
            "device": str(self._machine().topology.slots[slot.name].data),
            "size_bytes": view.partitions[slot.name].data.size_bytes,
            "since": slot.since_usec,
        }


async def _finish(work: asyncio.Future[_T], job: Job) -> _T:
    """Result of the engine; a stop of the service cancels the job and still waits for its cleanup."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        job.cancelled.set()
        return await work


def _options(options: Mapping[str, Any], allowed: Mapping[str, type]) -> dict[str, Any]:
    for key, value in options.items():
        if key not in allowed:
            raise InvalidArgument(f"Unknown option '{key}'; known are {', '.join(sorted(allowed))}.")
        if type(value) is not allowed[key]:
            raise InvalidArgument(f"Option '{key}' must be of type {allowed[key].__name__}.")
    return dict(options)


def _clean(reason: str) -> str:
    """One line of bounded length."""
    return " ".join("".join(c if c.isprintable() else " " for c in reason).split())[:MAX_REASON]


async def serve(find_machine: Callable[[], Machine]) -> int:
    """Serve the bus name until idle or stopped; returns the exit status."""

    def setup(service: bus.Service) -> None:
        service.export(PATH, SlotManager(service, find_machine))

    return await bus.serve(NAME, setup, idle_exit_sec=IDLE_EXIT_SEC)
