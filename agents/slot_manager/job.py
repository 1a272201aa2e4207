# SPDX-License-Identifier: Apache-2.0
"""An installation as an object on the bus: what it does, how far it is, how it ended."""

from __future__ import annotations

import asyncio
import threading
import time

from agents.slot_manager.install import Installed, Stage
from common import bus
from common.errors import AgentError, Cancelled

INSTALL_ACTION = "io.hypernet.SlotManager1.install"
REPORT_INTERVAL_SEC = 0.25

RUNNING, DONE, FAILED, CANCELLED = "", "done", "failed", "cancelled"


class Job(bus.Interface):
    """One installation; methods named in lower case below `report` belong to the event loop's thread."""

    INTERFACE = "io.hypernet.SlotManager1.Job"

    def __init__(self, number: int, source: str, slot: str) -> None:
        self.number = number
        self.path = f"/io/hypernet/SlotManager1/job/{number}"
        self.cancelled = threading.Event()
        self.state = RUNNING
        self.current = Stage.CHECK
        self._source = source
        self._slot = slot
        self._version = ""
        self._done = 0
        self._total = 0
        self._error_name = ""
        self._error_message = ""

    @bus.prop("Id", "t")
    def id(self) -> int:
        return self.number

    @bus.prop("Source", "s")
    def source(self) -> str:
        return self._source

    @bus.prop("Slot", "s")
    def slot(self) -> str:
        return self._slot

    @bus.prop("Version", "s")
    def version(self) -> str:
        return self._version

    @bus.prop("Stage", "s")
    def stage(self) -> str:
        return str(self.current)

    @bus.prop("Progress", "d")
    def progress(self) -> float:
        if self.state == DONE:
            return 1.0
        return min(self._done / self._total, 0.999) if self._total else 0.0

    @bus.prop("BytesDone", "t")
    def bytes_done(self) -> int:
        return self._done

    @bus.prop("BytesTotal", "t")
    def bytes_total(self) -> int:
        return self._total

    @bus.prop("Result", "s")
    def result(self) -> str:
        return self.state

    @bus.prop("ErrorName", "s")
    def error_name(self) -> str:
        return self._error_name

    @bus.prop("ErrorMessage", "s")
    def error_message(self) -> str:
        return self._error_message

    @bus.method("Cancel", "", "", action=INSTALL_ACTION)
    def cancel(self) -> None:
        self.cancelled.set()

    @bus.signal("Finished", "sss")
    def finished(self, result: str, error_name: str, message: str) -> None:
        """The end, whatever it is."""

    def report(self, stage: Stage, done: int, total: int) -> None:
        """Progress of the engine."""
        names = ["Progress", "BytesDone", "BytesTotal"] + (["Stage"] if stage is not self.current else [])
        self.current, self._done, self._total = stage, done, total
        self.changed(*names)

    def found(self, version: str) -> None:
        """The image is verified and this is its version."""
        self._version = version
        self.changed("Version")

    def succeed(self, installed: Installed) -> None:
        self.state, self.current, self._done = DONE, Stage.DONE, self._total
        self.changed("Stage", "Progress", "BytesDone", "Result")
        self.finished(DONE, "", f"Installed {installed.version} into slot {installed.slot}.")

    def fail(self, error: AgentError) -> None:
        self.state = CANCELLED if isinstance(error, Cancelled) else FAILED
        self._error_name, self._error_message = error.dbus_name, str(error)
        self.changed("Result", "ErrorName", "ErrorMessage")
        self.finished(self.state, self._error_name, self._error_message)


class Reporter:
    """Brings progress from the engine's thread to the event loop, a few times a second."""

    def __init__(self, job: Job, loop: asyncio.AbstractEventLoop) -> None:
        self._job = job
        self._loop = loop
        self._stage: Stage | None = None
        self._next = 0.0

    def progress(self, stage: Stage, done: int, total: int) -> None:
        now = time.monotonic()
        if stage is self._stage and now < self._next:
            return
        self._stage, self._next = stage, now + REPORT_INTERVAL_SEC
        self._loop.call_soon_threadsafe(self._job.report, stage, done, total)

    def found(self, version: str) -> None:
        self._loop.call_soon_threadsafe(self._job.found, version)
