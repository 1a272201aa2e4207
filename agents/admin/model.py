# SPDX-License-Identifier: Apache-2.0
"""What the agents say on the bus, as typed values.

A field is read from the D-Bus key of its name (property names in lower case, see `json_keys`), or from the
one that `_key` names, and converted to the type of its default, or by what its metadata call "read". A key
that an agent does not send leaves the default.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self, TypeVar

Properties = Mapping[str, Any]
"""Properties of one D-Bus object, or one a{sv} of ours, with plain Python values."""

UNKNOWN_USEC = (1 << 64) - 1
"""A time span that nobody knows yet, as systemd writes it."""

_T = TypeVar("_T")
_M = TypeVar("_M", bound="_Message")


def _key(key: str, default: _T) -> _T:
    """A field that has another name on the bus."""
    value: _T = field(default=default, metadata={"key": key})
    return value


@dataclass(frozen=True, slots=True)
class _Message:
    """Base of everything here."""

    @classmethod
    def from_bus(cls, values: Properties) -> Self:
        """Read the fields of this class from what an agent sent."""
        sent = json_keys(values)
        found = {}
        for each in fields(cls):
            key = each.metadata.get("key", each.name)
            if key in sent:
                found[each.name] = each.metadata.get("read", type(each.default))(sent[key])
        return cls(**found)


def _each(kind: type[_M]) -> dict[str, Callable[[Any], tuple[_M, ...]]]:
    """Metadata of a field that is an array of dictionaries."""
    return {"read": lambda items: tuple(kind.from_bus(item) for item in items)}


def _unless_empty(kind: type[_M]) -> dict[str, Callable[[Any], _M | None]]:
    """Metadata of a field that is a dictionary, where an empty one stands for "there is none"."""
    return {"read": lambda values: kind.from_bus(values) if values else None}


def _share(value: Any) -> float:
    return min(1.0, max(0.0, float(value)))


@dataclass(frozen=True, slots=True)
class Slot(_Message):
    """One element of io.hypernet.SlotManager1.Slots."""

    name: str = ""
    state: str = ""
    version: str = ""
    root_hash: str = ""
    booted: bool = False
    default: bool = False
    tries_left: int = -1
    """Boot attempts that the loader still grants, -1 when it does not count."""
    tries_done: int = 0
    attempts: int = 0
    """Boot attempts since the last verdict as the slot manager counted them itself."""
    approved: bool = False
    reason: str = ""
    since_usec: int = _key("since", 0)
    """Time of the last recorded transition, microseconds since 1970 UTC; 0 when unknown."""


@dataclass(frozen=True, slots=True)
class Rollback(_Message):
    """io.hypernet.SlotManager1.LastRollback."""

    from_slot: str = _key("from", "")
    from_version: str = ""
    to_slot: str = _key("to", "")
    to_version: str = ""
    reason: str = ""
    """Names the failed checks if checks were the cause."""
    since_usec: int = _key("since", 0)


@dataclass(frozen=True, slots=True)
class LastGood(_Message):
    """io.hypernet.SlotManager1.LastGood."""

    slot: str = ""
    version: str = ""
    root_hash: str = ""
    since_usec: int = _key("since", 0)


@dataclass(frozen=True, slots=True)
class Floor(_Message):
    """io.hypernet.SlotManager1.Floor: what no release may be older than."""

    serial: int = 0
    min_version: str = ""
    key_epoch: int = 0
    signed_usec: int = _key("signed", 0)


@dataclass(frozen=True, slots=True)
class Release(_Message):
    """One element of io.hypernet.SlotManager1.Releases; those of Denied have no verdict and no rule."""

    version: str = ""
    root_hash: str = ""
    verdict: str = ""
    rule: str = ""
    reason: str = ""
    since_usec: int = _key("since", 0)


@dataclass(frozen=True, slots=True)
class Transition(_Message):
    """One element of io.hypernet.SlotManager1.Transitions."""

    since_usec: int = _key("since", 0)
    slot: str = ""
    version: str = ""
    state: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Slots(_Message):
    """The properties of io.hypernet.SlotManager1."""

    slots: tuple[Slot, ...] = field(default=(), metadata=_each(Slot))
    booted: str = _key("booted_slot", "")
    default: str = _key("default_slot", "")
    operation: str = ""
    last_error: str = ""
    last_rollback: Rollback | None = field(default=None, metadata=_unless_empty(Rollback))
    last_good: LastGood | None = field(default=None, metadata=_unless_empty(LastGood))
    floor: Floor | None = field(default=None, metadata=_unless_empty(Floor))
    releases: tuple[Release, ...] = field(default=(), metadata=_each(Release))
    denied: tuple[Release, ...] = field(default=(), metadata=_each(Release))
    transitions: tuple[Transition, ...] = field(default=(), metadata=_each(Transition))

    def find(self, name: str) -> Slot | None:
        """Return the slot called `name` ("a", "b", "booted" or "other"), or None."""
        for slot in self.slots:
            if name in (slot.name, "booted" if slot.booted else "other"):
                return slot

        return None


@dataclass(frozen=True, slots=True)
class Job(_Message):
    """The properties of io.hypernet.SlotManager1.Job."""

    slot: str = ""
    version: str = ""
    stage: str = ""
    progress: float = field(default=0.0, metadata={"read": _share})
    bytes_done: int = 0
    bytes_total: int = 0
    bytes_copied: int = 0
    bytes_skipped: int = 0
    bytes_zero: int = 0
    bytes_fetched: int = 0
    """What came over the network, or was read of an image on this machine."""
    rate: int = 0
    """Bytes a second, 0 when unknown."""
    remaining_usec: int = _key("remaining", UNKNOWN_USEC)
    result: str = ""
    """Empty while the job runs, then "done", "failed" or "cancelled"."""
    error_name: str = ""
    error_message: str = ""


@dataclass(frozen=True, slots=True)
class Check(_Message):
    """One element of io.hypernet.BootHealth1.Checks."""

    name: str = ""
    required: bool = False
    result: str = ""
    duration_sec: float = 0.0
    attempts: int = 0
    output: str = ""
    unit: str = ""
    """Its journal has the whole output; empty for a check without a unit of its own."""


@dataclass(frozen=True, slots=True)
class Health(_Message):
    """The properties of io.hypernet.BootHealth1."""

    state: str = "unknown"
    reason: str = ""
    trial: bool = False
    checks: tuple[Check, ...] = field(default=(), metadata=_each(Check))
    deadline_usec: int = _key("deadline", 0)
    """When the verdict is due, microseconds since 1970 UTC; 0 when unknown."""
    consecutive_failures: int = 0


def json_keys(values: Properties) -> dict[str, Any]:
    """Return D-Bus properties under the names that our JSON uses: `BootedSlot` becomes `booted_slot`."""
    return {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower(): value for key, value in values.items()}
