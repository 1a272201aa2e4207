# SPDX-License-Identifier: Apache-2.0
"""slot-manager as its callers see it, with slots that tests lay out and jobs that tests drive."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from agents.rauc.slots import NAME, PATH
from common import bus
from common.errors import ERROR_PREFIX, AgentError
from tests.fakes.private_bus import serving


def slot(name: str, state: str, version: str, *, booted: bool = False) -> dict[str, Any]:
    return {"name": name, "state": state, "version": version, "booted": booted, "device": f"/dev/{name}"}


class Job(bus.Interface):
    """An installation; each call of `tell` is one PropertiesChanged."""

    INTERFACE = f"{NAME}.Job"

    def __init__(self, number: int, *, dry_run: bool = False) -> None:
        super().__init__()
        self.path = f"{PATH}/job/{number}"
        self.values: dict[str, Any] = {"Stage": "check", "Progress": 0.0, "Result": "", "ErrorMessage": ""}
        self._dry_run = dry_run
        self._started = number

    def tell(self, **values: Any) -> None:
        self.values |= values
        self.changed(*values)

    @bus.prop("Slot", "s")
    def slot(self) -> str:
        return "b"

    @bus.prop("Stage", "s")
    def stage(self) -> str:
        return str(self.values["Stage"])

    @bus.prop("Progress", "d")
    def progress(self) -> float:
        return float(self.values["Progress"])

    @bus.prop("Result", "s")
    def result(self) -> str:
        return str(self.values["Result"])

    @bus.prop("ErrorMessage", "s")
    def error_message(self) -> str:
        return str(self.values["ErrorMessage"])

    @bus.prop("DryRun", "b")
    def dry_run(self) -> bool:
        return self._dry_run

    @bus.prop("Started", "t")
    def started(self) -> int:
        return self._started


class StandIn(bus.Interface):
    """calls: what was called, with its arguments. refuse: error name and sentence by method."""

    INTERFACE = NAME

    def __init__(self, service: bus.Service) -> None:
        super().__init__()
        self.service = service
        self.slot_list = [slot("a", "good", "1.0.0", booted=True), slot("b", "empty", "")]
        self.default = "a"
        self.job: Job | None = None
        self.calls: list[tuple[Any, ...]] = []
        self.refuse: dict[str, tuple[str, str]] = {}
        self.ends_at_once: dict[str, Any] = {}
        self._jobs = 0

    def start(self, *, dry_run: bool = False) -> Job:
        """Start an installation, as Install does."""
        self._jobs += 1
        self.job = Job(self._jobs, dry_run=dry_run)
        self.service.export(self.job.path, self.job)
        self.changed("CurrentJob")
        return self.job

    def end(self, **values: Any) -> None:
        """End the installation."""
        assert self.job is not None
        self.job.tell(**values)
        self.job = None
        self.changed("Slots", "CurrentJob")

    @bus.prop("Slots", "aa{sv}")
    def slots(self) -> list[dict[str, Any]]:
        return self.slot_list

    @bus.prop("DefaultSlot", "s")
    def default_slot(self) -> str:
        return self.default

    @bus.prop("CurrentJob", "o")
    def current_job(self) -> str:
        return self.job.path if self.job else "/"

    @bus.prop("Transitions", "aa{sv}")
    def transitions(self) -> list[dict[str, Any]]:
        return []

    @bus.prop("Floor", "a{sv}")
    def floor(self) -> dict[str, Any]:
        return {"key_epoch": 3}

    @bus.method("Install", "sa{sv}", "o")
    def install(self, source: str, options: dict[str, Any]) -> str:
        self._called("Install", source, options)
        path = self.start().path
        if self.ends_at_once:
            self.end(**self.ends_at_once)
        return path

    @bus.method("MarkGood", "s", "")
    def mark_good(self, name: str) -> None:
        self._called("MarkGood", name)
        self.default = name

    @bus.method("MarkBad", "ss", "")
    def mark_bad(self, name: str, reason: str) -> None:
        self._called("MarkBad", name, reason)

    @bus.method("Arm", "a{sv}", "")
    def arm(self, options: dict[str, Any]) -> None:
        self._called("Arm", options)
        self.default = "b"

    @bus.method("Disarm", "", "")
    def disarm(self) -> None:
        self._called("Disarm")
        self.default = "a"

    @bus.method("Rollback", "a{sv}", "s")
    def rollback(self, options: dict[str, Any]) -> str:
        self._called("Rollback", options)
        self.default = "b"
        return "b"

    def _called(self, member: str, *arguments: Any) -> None:
        self.calls.append((member, *arguments))
        if member in self.refuse:
            name, sentence = self.refuse[member]
            error = AgentError(sentence)
            error.dbus_name = ERROR_PREFIX + name
            raise error


@asynccontextmanager
async def slot_manager() -> AsyncIterator[StandIn]:
    """Serve a stand-in while the context lasts."""
    made: list[StandIn] = []

    def setup(service: bus.Service) -> None:
        made.append(StandIn(service))
        service.export(PATH, made[0])

    async with serving(NAME, setup):
        yield made[0]
