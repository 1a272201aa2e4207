# SPDX-License-Identifier: Apache-2.0
"""What the agents say on the bus, as typed values. Keys that an agent does not send count as empty."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

Properties = Mapping[str, Any]
"""Properties of one D-Bus object, or one a{sv} of ours, with plain Python values."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One element of io.hypernet.SlotManager1.Slots."""

    name: str
    state: str
    version: str
    root_hash: str
    booted: bool
    default: bool
    tries_left: int
    """Boot attempts that the loader still grants, -1 when it does not count."""
    tries_done: int
    reason: str
    since_usec: int
    """Time of the last recorded transition, microseconds since 1970 UTC; 0 when unknown."""

    @classmethod
    def from_bus(cls, values: Properties) -> Self:
        return cls(
            name=str(values.get("name", "")),
            state=str(values.get("state", "")),
            version=str(values.get("version", "")),
            root_hash=str(values.get("root_hash", "")),
            booted=bool(values.get("booted", False)),
            default=bool(values.get("default", False)),
            tries_left=int(values.get("tries_left", -1)),
            tries_done=int(values.get("tries_done", 0)),
            reason=str(values.get("reason", "")),
            since_usec=int(values.get("since", 0)),
        )


@dataclass(frozen=True, slots=True)
class Rollback:
    """io.hypernet.SlotManager1.LastRollback."""

    from_slot: str
    from_version: str
    to_slot: str
    to_version: str
    reason: str
    since_usec: int

    @classmethod
    def from_bus(cls, values: Properties) -> Self | None:
        """Return the rollback, or None for the empty dictionary that stands for "never"."""
        if not values:
            return None

        return cls(
            from_slot=str(values.get("from", "")),
            from_version=str(values.get("from_version", "")),
            to_slot=str(values.get("to", "")),
            to_version=str(values.get("to_version", "")),
            reason=str(values.get("reason", "")),
            since_usec=int(values.get("since", 0)),
        )


@dataclass(frozen=True, slots=True)
class Check:
    """One element of io.hypernet.BootHealth1.Checks."""

    name: str
    required: bool
    result: str
    duration_sec: float
    attempts: int
    output: str

    @classmethod
    def from_bus(cls, values: Properties) -> Self:
        return cls(
            name=str(values.get("name", "")),
            required=bool(values.get("required", False)),
            result=str(values.get("result", "")),
            duration_sec=float(values.get("duration_sec", 0.0)),
            attempts=int(values.get("attempts", 0)),
            output=str(values.get("output", "")),
        )


@dataclass(frozen=True, slots=True)
class Health:
    """The properties of io.hypernet.BootHealth1."""

    state: str
    reason: str
    trial: bool
    checks: tuple[Check, ...]

    @classmethod
    def from_bus(cls, values: Properties) -> Self:
        return cls(
            state=str(values.get("State", "unknown")),
            reason=str(values.get("Reason", "")),
            trial=bool(values.get("Trial", False)),
            checks=tuple(Check.from_bus(check) for check in values.get("Checks", ())),
        )


@dataclass(frozen=True, slots=True)
class Slots:
    """The properties of io.hypernet.SlotManager1 that people want to see."""

    slots: tuple[Slot, ...]
    booted: str
    default: str
    operation: str
    last_error: str
    last_rollback: Rollback | None

    @classmethod
    def from_bus(cls, values: Properties) -> Self:
        return cls(
            slots=tuple(Slot.from_bus(slot) for slot in values.get("Slots", ())),
            booted=str(values.get("BootedSlot", "")),
            default=str(values.get("DefaultSlot", "")),
            operation=str(values.get("Operation", "")),
            last_error=str(values.get("LastError", "")),
            last_rollback=Rollback.from_bus(values.get("LastRollback", {})),
        )

    def find(self, name: str) -> Slot | None:
        """Return the slot called `name` ("a", "b", "booted" or "other"), or None."""
        for slot in self.slots:
            if name in (slot.name, "booted" if slot.booted else "other"):
                return slot

        return None


@dataclass(frozen=True, slots=True)
class Job:
    """The properties of io.hypernet.SlotManager1.Job."""

    slot: str
    stage: str
    progress: float
    bytes_done: int
    bytes_total: int
    result: str
    """Empty while the job runs, then "done", "failed" or "cancelled"."""
    error_name: str
    error_message: str

    @classmethod
    def from_bus(cls, values: Properties) -> Self:
        return cls(
            slot=str(values.get("Slot", "")),
            stage=str(values.get("Stage", "")),
            progress=min(1.0, max(0.0, float(values.get("Progress", 0.0)))),
            bytes_done=int(values.get("BytesDone", 0)),
            bytes_total=int(values.get("BytesTotal", 0)),
            result=str(values.get("Result", "")),
            error_name=str(values.get("ErrorName", "")),
            error_message=str(values.get("ErrorMessage", "")),
        )


def json_keys(values: Properties) -> dict[str, Any]:
    """Return D-Bus properties under the names that our JSON uses: `BootedSlot` becomes `booted_slot`."""
    return {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower(): value for key, value in values.items()}
