# SPDX-License-Identifier: Apache-2.0
"""``boot-health serve``: io.hypernet.BootHealth1, a view of the report. hypernet-boot-health-bus.service."""

from __future__ import annotations

import asyncio
import time
from contextlib import nullcontext
from typing import Any, Final

from agents.boot_health import report, single
from agents.boot_health.engine import CheckResult, Result
from agents.boot_health.places import Places
from agents.boot_health.report import Report
from agents.boot_health.verdict import State
from common import bus, journal
from common.errors import AgentError, Busy

NAME: Final = "io.hypernet.BootHealth1"
PATH: Final = "/io/hypernet/BootHealth1"
RUN_ACTION: Final = "io.hypernet.BootHealth1.run"
IDLE_EXIT_SEC: Final = 5.0
POLL_SEC: Final = 1.0
TAKEN_SEC: Final = 5.0
"""How long the name may be in other hands: those of whoever announces a new report, see announce.py."""

_TAKEN_POLL_SEC: Final = 0.1
_FIELDS: Final = {
    "State": "state",
    "Reason": "reason",
    "BootId": "boot_id",
    "Trial": "trial",
    "Checks": "checks",
    "Deadline": "deadline_usec",
    "ConsecutiveFailures": "consecutive_failures",
}
"""Properties, and the fields of the report that they show."""


class BootHealth(bus.Interface):
    """The properties of the report; the D-Bus interface is described in its XML file."""

    INTERFACE = NAME

    def __init__(self, places: Places, client: bus.Client) -> None:
        super().__init__()
        self._places = places
        self._client = client
        self._seen: tuple[int, int] | None = None
        self._known = Report()
        self._load()

    @property
    def _report(self) -> Report:
        """The report as it is now; a new one is announced before anybody is shown it."""
        before = self._known
        self._load()
        if self._known != before:
            self._announce(before)
        return self._known

    def _load(self) -> None:
        """Read the file again if it was replaced."""
        try:
            stat = self._places.report.stat()
            seen: tuple[int, int] | None = (stat.st_ino, stat.st_mtime_ns)
        except OSError:
            seen = None
        if seen != self._seen:
            self._seen = seen
            try:
                self._known = report.read(self._places.report)
            except AgentError as error:
                journal.send(str(error), priority=journal.WARNING)
                self._known = Report()

    @bus.prop("State", "s")
    def state(self) -> str:
        """See the XML file."""
        return self._report.state.value

    @bus.prop("Reason", "s")
    def reason(self) -> str:
        """See the XML file."""
        return self._report.reason

    @bus.prop("BootId", "s")
    def boot_id(self) -> str:
        """See the XML file."""
        return self._report.boot_id

    @bus.prop("Trial", "b")
    def trial(self) -> bool:
        """See the XML file."""
        return self._report.trial

    @bus.prop("Checks", "aa{sv}")
    def checks(self) -> list[dict[str, Any]]:
        """See the XML file."""
        return [_shown(check) for check in self._report.checks]

    @bus.prop("Deadline", "t")
    def deadline(self) -> int:
        """See the XML file."""
        return self._report.deadline_usec

    @bus.prop("ConsecutiveFailures", "u")
    def consecutive_failures(self) -> int:
        """See the XML file."""
        return self._report.consecutive_failures

    @bus.method("Run", "s", "a{sv}", action=RUN_ACTION)
    async def run(self, name: str) -> dict[str, Any]:
        """See the XML file. Raises Busy, InvalidArgument, AgentError."""
        if self._report.state is State.CHECKING:
            raise Busy("The checks of this boot are still running; wait for their verdict.")
        return _shown(await single.request(self._client, self._places, name))

    @bus.signal("HealthChanged", "ss")
    def health_changed(self, state: str, reason: str) -> None:
        """See the XML file."""

    @bus.signal("CheckFailed", "sss")
    def check_failed(self, name: str, result: str, output: str) -> None:
        """See the XML file."""

    @bus.signal("BootCompleted", "ss")
    def boot_completed(self, boot_id: str, state: str) -> None:
        """See the XML file."""

    @bus.signal("BootDegraded", "s")
    def boot_degraded(self, reason: str) -> None:
        """See the XML file."""

    @property
    def checking(self) -> bool:
        """Whether a verdict is still to come. A new report is announced by this question, too."""
        return self._report.state is State.CHECKING

    def announce_all(self, before: Report) -> None:
        """Send every property, and the signals of what is new since the report before."""
        self.changed(*_FIELDS)
        self._tell(before)

    def _announce(self, before: Report) -> None:
        after = self._known
        self.changed(
            *(name for name, field in _FIELDS.items() if getattr(before, field) != getattr(after, field))
        )
        self._tell(before)

    def _tell(self, before: Report) -> None:
        after = self._known
        if (before.state, before.reason) == (after.state, after.reason):
            return
        self.health_changed(after.state.value, after.reason)
        for check in after.checks:
            if check.result is not Result.PASSED and check not in before.checks:
                self.check_failed(check.name, check.result.value, check.output)
        if _completed(after) and before.state is not after.state:
            self.boot_completed(after.boot_id, after.state.value)
        if after.state is State.DEGRADED:
            self.boot_degraded(after.reason)


def _completed(report: Report) -> bool:
    """Whether the checks let boot-complete.target be reached; a machine may stay in other boots, too."""
    wanted_failed = any(check.result is not Result.PASSED for check in report.checks)
    judged = report.state is State.HEALTHY or (report.state is State.DEGRADED and wanted_failed)
    return judged and not report.required_failed


def _shown(check: CheckResult) -> dict[str, Any]:
    """One dictionary of Checks."""
    return {
        "name": check.name,
        "required": check.required,
        "result": check.result.value,
        "duration_sec": check.duration_sec,
        "attempts": check.attempts,
        "output": check.output,
        "unit": check.unit,
    }


async def watch(service: bus.Service, interface: BootHealth) -> None:
    """Announce each new report, for ever; whoever asks while the checks run hears their verdict from us."""
    while True:
        with service.hold() if interface.checking else nullcontext():
            while interface.checking:
                await asyncio.sleep(POLL_SEC)
        await asyncio.sleep(POLL_SEC)


async def serve(places: Places) -> int:
    """Serve until idle; return the exit status. Raises NameTaken if somebody else keeps the name."""
    end = time.monotonic() + TAKEN_SEC
    while True:
        try:
            return await _serve(places)
        except bus.NameTaken:
            if time.monotonic() >= end:
                raise
        await asyncio.sleep(_TAKEN_POLL_SEC)


async def _serve(places: Places) -> int:
    tasks: set[asyncio.Task[None]] = set()

    def setup(service: bus.Service) -> None:
        interface = BootHealth(places, service.client)
        service.export(PATH, interface)
        tasks.add(asyncio.create_task(watch(service, interface)))

    try:
        return await bus.serve(NAME, setup, idle_exit_sec=IDLE_EXIT_SEC)
    finally:
        for task in tasks:
            task.cancel()
