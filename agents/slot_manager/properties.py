# SPDX-License-Identifier: Apache-2.0
"""What can be read of io.hypernet.SlotManager1; service.py adds what can be done."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from agents.slot_manager import describe, state
from agents.slot_manager.job import Job
from agents.slot_manager.machine import Machine, View
from agents.slot_manager.record import Record
from common import bus
from common.errors import AgentError

NAME = "io.hypernet.SlotManager1"

logger = logging.getLogger(__name__)


class Properties(bus.Interface):
    """The properties; `find_machine` is asked until it answers, so that its errors reach the caller."""

    INTERFACE = NAME

    def __init__(self, find_machine: Callable[[], Machine]) -> None:
        self._find_machine = find_machine
        self._known: Machine | None = None
        self._job: Job | None = None
        self._last_error = ""

    @bus.prop("Slots", "aa{sv}")
    def slots(self) -> list[dict[str, Any]]:
        return describe.slots(self._machine(), self._view())

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
        return describe.last_rollback(self._record())

    @bus.prop("LastGood", "a{sv}")
    def last_good(self) -> dict[str, Any]:
        return describe.last_good(self._record())

    @bus.prop("Floor", "a{sv}")
    def floor(self) -> dict[str, Any]:
        return describe.floor(self._record())

    @bus.prop("Releases", "aa{sv}")
    def releases(self) -> list[dict[str, Any]]:
        return describe.releases(self._view())

    @bus.prop("Denied", "aa{sv}")
    def denied(self) -> list[dict[str, Any]]:
        return describe.denied(self._record())

    @bus.prop("Transitions", "aa{sv}")
    def transitions(self) -> list[dict[str, Any]]:
        return describe.transitions(self._record())

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
        machine = self._machine()
        return machine.view(installing=machine.topology.other if self._job and self._job.writing else "")

    def _record(self) -> Record:
        return self._machine().store.load()
