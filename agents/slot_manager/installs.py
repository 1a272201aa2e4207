# SPDX-License-Identifier: Apache-2.0
"""Installing, on the bus: the part of io.hypernet.SlotManager1 that starts jobs and tells how they end."""

from __future__ import annotations

import asyncio
import functools
import importlib
import logging
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

from agents.slot_manager import hooks, state, tell
from agents.slot_manager.job import INSTALL_ACTION, Job, Reporter, owner_of
from agents.slot_manager.machine import Machine
from agents.slot_manager.properties import Properties
from agents.slot_manager.state import Installed
from common import bus
from common.errors import AgentError, Internal, InvalidArgument

if TYPE_CHECKING:
    from agents.slot_manager.sources import OpenFiles

DOWNGRADE_ACTION = "io.hypernet.SlotManager1.downgrade"
SLOT_PROPERTIES: Final = ("Slots", "DefaultSlot", "Releases", "Denied", "Transitions")

_DEFAULTS: Final[dict[str, Any]] = {
    "arm": True,
    "allow-downgrade": False,
    "dry-run": False,
    "reboot": False,
    "slot": "",
}

logger = logging.getLogger(__name__)
_T = TypeVar("_T")


class Installs(Properties):
    """Properties, and the methods and signals of installs."""

    def __init__(self, service: bus.Service, find_machine: Callable[[], Machine]) -> None:
        super().__init__(find_machine)
        self._service = service
        self._jobs = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @bus.method("Install", "sa{sv}", "o", action=INSTALL_ACTION)
    async def install(self, source: str, options: dict[str, Any]) -> str:
        """Start an installation; its end is told by the job and by UpdateInstalled or InstallFailed."""
        await _load_engine()
        return await self._begin(lambda: source, options)

    @bus.method("InstallFile", "hhha{sv}", "o", action=INSTALL_ACTION)
    async def install_file(self, image: int, manifest: int, signature: int, options: dict[str, Any]) -> str:
        """The same with an image that the caller has opened."""
        await _load_engine()
        from agents.slot_manager import sources

        return await self._begin(lambda: sources.adopt(image, manifest, signature), options)

    async def _begin(self, find: Callable[[], str | OpenFiles], options: dict[str, Any]) -> str:
        from agents.slot_manager import sources

        given = options_of(options, _DEFAULTS)
        if given["reboot"] and (given["dry-run"] or not given["arm"]):
            raise InvalidArgument(
                "Option 'reboot' needs a slot that is armed; leave out 'dry-run' and 'arm'."
            )
        if given["allow-downgrade"]:
            await bus.require(DOWNGRADE_ACTION)
        machine, owner = self._machine(), await owner_of(self._service.client, bus.caller())
        if self._job:
            raise self._job.busy()
        wanted = find()
        self._jobs += 1
        job = Job(
            self._jobs, sources.shown(wanted), machine.topology.other, owner=owner, dry_run=given["dry-run"]
        )
        job.on_stage = lambda: self._announce("Slots")
        self._service.export(job.path, job)
        self._job, self._last_error = job, ""
        self._start(self._install(machine, wanted, job, given))
        self.changed("Operation", "CurrentJob", "LastError")
        return job.path

    @bus.signal("UpdateInstalled", "ss")
    def update_installed(self, slot: str, version: str) -> None:
        """A slot was written and verified."""

    @bus.signal("InstallFailed", "sss")
    def install_failed(self, source: str, error_name: str, message: str) -> None:
        """An installation was refused, cancelled or failed."""

    @bus.signal("SlotArmed", "ss")
    def slot_armed(self, slot: str, version: str) -> None:
        """The next boot tries this slot."""

    async def _reboot(self, slot: str) -> None:
        try:
            await hooks.reboot(self._service.client)
        except AgentError as error:
            raise AgentError(
                f"Slot {slot} is the default now, but the reboot could not be started: {error} Run 'reboot'."
            ) from error

    async def _install(
        self, machine: Machine, wanted: str | OpenFiles, job: Job, options: Mapping[str, Any]
    ) -> None:
        from agents.slot_manager import install

        loop = asyncio.get_running_loop()
        reporter = Reporter(job, loop)

        def before_write() -> None:
            hook = hooks.pre_update(self._service.client, job.cancelled)
            asyncio.run_coroutine_threadsafe(hook, loop).result()

        engine = functools.partial(
            install.install,
            machine,
            wanted,
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
            finally:
                if not isinstance(wanted, str):
                    wanted.close()

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
                tell.update_failed(job.source(), job.owner(), error)
        self._announce(*SLOT_PROPERTIES, "Operation", "CurrentJob", "LastError")

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


def options_of(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a call, of the same types as their defaults. Raises InvalidArgument."""
    for key, value in options.items():
        if key not in defaults:
            raise InvalidArgument(f"Unknown option '{key}'; known are {', '.join(sorted(defaults))}.")
        if type(value) is not type(defaults[key]):
            raise InvalidArgument(f"Option '{key}' must be of type {type(defaults[key]).__name__}.")
    return {**defaults, **options}


async def _load_engine() -> None:
    """Import the engine with the first install: every boot starts this service, hardly any installs.

    In a thread: from a disk that is busy it takes seconds, in which others want answers.
    """
    await asyncio.to_thread(importlib.import_module, "agents.slot_manager.install")
