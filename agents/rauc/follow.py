# SPDX-License-Identifier: Apache-2.0
"""Listens to slot-manager and tells what it hears as RAUC does, whoever started the installation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final, Protocol

from agents.rauc import progress
from agents.rauc.progress import Installation, Step
from agents.rauc.slots import NAME, NO_JOB, PATH, SlotManager
from common import bus
from common.errors import AgentError

IDLE: Final = "idle"
INSTALLING: Final = "installing"

SILENCE_SEC: Final = 5.0
"""A running job reports several times a second; after this time without a word it is asked."""
CATCH_UP_SEC: Final = 10.0

logger = logging.getLogger(__name__)


class Face(Protocol):
    """What is told."""

    def changed(self, *names: str) -> None:
        """Properties have new values."""

    def completed(self, result: int) -> None:
        """An installation has ended."""


class Follower:
    """What RAUC's properties show. Each change is announced on its own: clients look for one name at a time.

    slots: the property Slots of slot-manager as it was read or heard last.
    """

    def __init__(self, slots: SlotManager, face: Face) -> None:
        self.operation = IDLE
        self.last_error = ""
        self.progress = progress.NOTHING
        self.slots: list[dict[str, Any]] = []
        self._manager = slots
        self._face = face
        self._queue: bus.SignalQueue | None = None
        self._job: Installation | None = None

    @property
    def boot_slot(self) -> str:
        """Boot name of the running slot: RAUC's own client finds it by that. Empty while it is not known."""
        return str(self._booted().get("name", ""))

    @property
    def system_version(self) -> str:
        """Version of the running slot; empty while it is not known."""
        return str(self._booted().get("version", ""))

    async def properties(self) -> dict[str, Any]:
        """Read all properties of slot-manager, with its slots; raises its error if it finds none."""
        values = await self._manager.properties()
        self._remember(values)
        return values

    async def watch(self, ready: asyncio.Event) -> None:
        """Follow slot-manager for ever; `ready` is set once it is heard."""
        async with self._manager.changes() as queue:
            self._queue = queue
            try:
                values = await self.properties()
                self.last_error = str(values.get("LastError", ""))
                await self._look_at(str(values.get("CurrentJob", NO_JOB)))
            except AgentError as error:
                # It may come back; until then every call says what is wrong.
                logger.warning("slot-manager cannot be asked: %s", error)
                self.last_error = str(error)
            ready.set()
            while True:
                try:
                    signal = await asyncio.wait_for(queue.get(), SILENCE_SEC if self._job else None)
                except TimeoutError:
                    await self._ask()
                    continue
                try:
                    await self._take(signal)
                finally:
                    queue.task_done()

    async def catch_up(self) -> None:
        """Return when everything that slot-manager has sent until now is taken in."""
        if self._queue is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._queue.join(), CATCH_UP_SEC)

    async def _take(self, signal: bus.Signal) -> None:
        interface, values, _ = signal.args
        if signal.path == PATH and interface == NAME:
            self._remember(values)
            await self._look_at(str(values.get("CurrentJob", NO_JOB)))
        elif self._job is not None and signal.path == self._job.path:
            self._update(self._job, values)

    async def _look_at(self, path: str) -> None:
        """Follow the job at `path`, unless it is the one that is followed, or a dry run."""
        if path == NO_JOB:
            return
        try:
            values = await self._manager.job(path)
        except AgentError as error:
            logger.warning("Job %s cannot be followed: %s", path, error)
            return
        # To programs written for RAUC, Completed(0) means that something was installed.
        if values.get("DryRun"):
            return
        job = Installation(path, values)
        if self._job is not None and (self._job.path, self._job.started) == (path, job.started):
            self._update(self._job, values)
            return
        if self._job is not None:
            self._lose(self._job, "slot-manager was started again")
        self._job, self.operation = job, INSTALLING
        self._face.changed("Operation")
        self._set_last_error("")
        self._show(job.begin())
        self._update(job, values)

    async def _ask(self) -> None:
        """The job has been silent: it may be slow, and slot-manager may be gone."""
        job = self._job
        if job is None:
            return
        try:
            values = await self._manager.job(job.path)
        except AgentError as error:
            self._lose(job, str(error).rstrip("."))
            return
        if values.get("Started", 0) == job.started:
            self._update(job, values)
        else:
            self._lose(job, "slot-manager was started again")

    def _update(self, job: Installation, values: dict[str, Any]) -> None:
        self._show(job.update(values))
        if job.result:
            self._finish(job, done=job.result == "done", message=job.message)

    def _lose(self, job: Installation, why: str) -> None:
        sentence = f"The installation can no longer be followed ({why}); see 'hypernet-admin status'."
        self._finish(job, done=False, message=sentence)

    def _finish(self, job: Installation, *, done: bool, message: str) -> None:
        """The order is RAUC's: at Completed its clients have read the error; then they look at Operation."""
        self._job, self.operation = None, IDLE
        self._show(job.end(done=done))
        self._set_last_error("" if done else message or "The installation was cancelled.")
        self._face.completed(0 if done else 1)
        self._face.changed("Operation")

    def _show(self, steps: Iterable[Step]) -> None:
        for step in steps:
            if step != self.progress:
                self.progress = step
                self._face.changed("Progress")

    def _set_last_error(self, message: str) -> None:
        if message != self.last_error:
            self.last_error = message
            self._face.changed("LastError")

    def _remember(self, values: dict[str, Any]) -> None:
        before = self.boot_slot, self.system_version
        self.slots = values.get("Slots", self.slots)
        for name, old, new in zip(
            ("BootSlot", "SystemVersion"), before, (self.boot_slot, self.system_version), strict=True
        ):
            if old != new:
                self._face.changed(name)

    def _booted(self) -> dict[str, Any]:
        return next((slot for slot in self.slots if slot.get("booted")), {})
