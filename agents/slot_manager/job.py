# SPDX-License-Identifier: Apache-2.0
"""An installation as an object on the bus: whose it is, what it does, how far it is, how it ended."""

from __future__ import annotations

import asyncio
import pwd
import threading
import time
from collections import deque
from collections.abc import Callable

from agents.slot_manager.progress import Stage
from agents.slot_manager.state import Installed, State
from common import bus
from common.errors import AgentError, Busy, Cancelled

INSTALL_ACTION = "io.hypernet.SlotManager1.install"
REPORT_INTERVAL_SEC = 0.25
RATE_WINDOW_SEC = 10.0
UNKNOWN_USEC = (1 << 64) - 1

RUNNING, DONE, FAILED, CANCELLED = "", "done", "failed", "cancelled"

_STATISTICS = ("BytesCopied", "BytesSkipped", "BytesZero", "BytesFetched")
_WRITING = (Stage.WRITE, Stage.ENTRY)


class Pace:
    """Bytes per second over the last RATE_WINDOW_SEC; `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque()

    def note(self, done: int) -> None:
        """So many bytes are done now."""
        self._samples.append((self._clock(), done))

    def rate(self) -> int:
        """0 if nothing moved, or nothing is known yet."""
        now = self._clock()
        # The sample at the beginning of the window stays: without it a stall would look like a high rate.
        while len(self._samples) > 1 and self._samples[1][0] <= now - RATE_WINDOW_SEC:
            self._samples.popleft()
        if not self._samples or now <= self._samples[0][0]:
            return 0
        began, done = self._samples[0]
        return max(0, int((self._samples[-1][1] - done) / (now - began)))


class Job(bus.Interface):
    """One installation; all of it but `cancelled` belongs to the event loop's thread."""

    INTERFACE = "io.hypernet.SlotManager1.Job"

    def __init__(
        self, number: int, source: str, slot: str, *, owner: str = "root", dry_run: bool = False
    ) -> None:
        self.number = number
        self.path = f"/io/hypernet/SlotManager1/job/{number}"
        self.cancelled = threading.Event()
        self.state = RUNNING
        self.current = Stage.CHECK
        self.on_stage: Callable[[], None] = lambda: None
        self._source = source
        self._slot = slot
        self._owner = owner
        self._dry_run = dry_run
        self._started_usec = time.time_ns() // 1000
        self._version = ""
        self._done = 0
        self._total = 0
        self._pace = Pace()
        self._installed = Installed(slot, "", State.EMPTY, dry_run)
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

    @bus.prop("DryRun", "b")
    def dry_run(self) -> bool:
        return self._dry_run

    @bus.prop("Owner", "s")
    def owner(self) -> str:
        return self._owner

    @bus.prop("Started", "t")
    def started(self) -> int:
        return self._started_usec

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

    @bus.prop("BytesCopied", "t")
    def bytes_copied(self) -> int:
        return self._installed.statistics.copied if self._installed.statistics else 0

    @bus.prop("BytesSkipped", "t")
    def bytes_skipped(self) -> int:
        return self._installed.statistics.skipped if self._installed.statistics else 0

    @bus.prop("BytesZero", "t")
    def bytes_zero(self) -> int:
        return self._installed.statistics.zero if self._installed.statistics else 0

    @bus.prop("BytesFetched", "t")
    def bytes_fetched(self) -> int:
        return self._installed.fetched_bytes

    @bus.prop("Rate", "t")
    def rate(self) -> int:
        return self._pace.rate() if self.state == RUNNING else 0

    @bus.prop("Remaining", "t")
    def remaining(self) -> int:
        if self.state != RUNNING:
            return 0
        rate = self._pace.rate()
        return (self._total - self._done) * 1_000_000 // rate if rate else UNKNOWN_USEC

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

    @property
    def writing(self) -> bool:
        """Whether the slot's old content is gone and the new one is not complete."""
        return self.state == RUNNING and self.current in _WRITING

    def busy(self) -> Busy:
        """What to tell those who have to wait for this job."""
        what = (
            f"An image for slot {self._slot} is being checked"
            if self._dry_run
            else (f"Slot {self._slot} is being written")
        )
        since = time.strftime("%H:%M:%S", time.localtime(self._started_usec / 1e6))
        return Busy(
            f"{what} by {self._owner} since {since} (job {self.path}); wait for its end or cancel it."
        )

    def report(self, stage: Stage, done: int, total: int) -> None:
        """Progress of the engine."""
        is_new = stage is not self.current
        self.current, self._done, self._total = stage, done, total
        self._pace.note(done)
        self.changed(
            "Progress", "BytesDone", "BytesTotal", "Rate", "Remaining", *(["Stage"] if is_new else [])
        )
        if is_new:
            self.on_stage()

    def found(self, version: str) -> None:
        """The image is verified and this is its version."""
        self._version = version
        self.changed("Version")

    def succeed(self, installed: Installed, note: str = "") -> None:
        """The end; `note` is what went wrong after the installation."""
        self.state, self.current = DONE, Stage.DONE
        self._error_message, self._installed = note, installed
        if installed.dry_run:
            message = (
                f"Version {installed.version} can be installed into slot {installed.slot}; nothing was "
                "written."
            )
        else:
            self._done = self._total
            message = f"Installed {installed.version} into slot {installed.slot}; it is {installed.state}."
        ended = ("Stage", "Progress", "BytesDone", "Rate", "Remaining", "ErrorMessage", "Result")
        self.changed(*_STATISTICS, *ended)
        self.finished(DONE, "", f"{message} {note}".rstrip())

    def fail(self, error: AgentError) -> None:
        """The end without success."""
        self.state = CANCELLED if isinstance(error, Cancelled) else FAILED
        self._error_name, self._error_message = error.dbus_name, str(error)
        self.changed("Rate", "Remaining", "Result", "ErrorName", "ErrorMessage")
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


async def owner_of(client: bus.Client, sender: str) -> str:
    """User name of a caller on the bus; the number if the user has no name here."""
    name = "org.freedesktop.DBus"
    (uid,) = await client.call(name, "/org/freedesktop/DBus", name, "GetConnectionUnixUser", "s", sender)
    try:
        entry = await asyncio.get_running_loop().run_in_executor(None, pwd.getpwuid, uid)
    except KeyError:
        return str(uid)
    return entry.pw_name
