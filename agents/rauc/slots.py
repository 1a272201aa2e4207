# SPDX-License-Identifier: Apache-2.0
"""slot-manager on the bus, one method for each call that the translator makes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from common import bus

NAME: Final = "io.hypernet.SlotManager1"
PATH: Final = "/io/hypernet/SlotManager1"
JOB: Final = f"{NAME}.Job"
NO_JOB: Final = "/"

_PROPERTIES: Final = "org.freedesktop.DBus.Properties"
_CHANGE_TIMEOUT_SEC: Final = 120.0
"""A change of a slot waits for the disk, and for a change that is under way."""


class SlotManager:
    """io.hypernet.SlotManager1; each method raises what `common.bus` raises for a failed call."""

    def __init__(self, client: bus.Client) -> None:
        self._client = client

    async def properties(self) -> dict[str, Any]:
        """All properties; raises slot-manager's own error if it finds no slots."""
        values = await self._client.get_all(NAME, PATH, NAME)
        # Together with others, a property that cannot be read is left out; alone it says why.
        for name in ("Slots", "DefaultSlot"):
            if name not in values:
                values[name] = await self._client.get_property(NAME, PATH, NAME, name)
        return values

    async def job(self, path: str) -> dict[str, Any]:
        """All properties of an installation."""
        return await self._client.get_all(NAME, path, JOB)

    def changes(self) -> AbstractAsyncContextManager[bus.SignalQueue]:
        """Collect the changed properties of slot-manager and of its jobs, whenever it runs."""
        return self._client.subscribe(_PROPERTIES, "PropertiesChanged", sender=NAME)

    async def install(self, source: str, options: Mapping[str, Any]) -> str:
        """Start an installation and return the path of its job."""
        (job,) = await self._change("Install", "sa{sv}", source, dict(options))
        return str(job)

    async def mark_good(self, slot: str) -> None:
        """slot: "a" or "b", as below."""
        await self._change("MarkGood", "s", slot)

    async def mark_bad(self, slot: str, reason: str) -> None:
        await self._change("MarkBad", "ss", slot, reason)

    async def arm(self) -> None:
        """Let the next boot try the slot that is not running."""
        await self._change("Arm", "a{sv}", {})

    async def disarm(self) -> None:
        """Take that back."""
        await self._change("Disarm")

    async def rollback(self, reason: str) -> None:
        """Make the other slot the default."""
        await self._change("Rollback", "a{sv}", {"reason": reason})

    async def _change(self, member: str, signature: str = "", *arguments: Any) -> tuple[Any, ...]:
        return await self._client.call(
            NAME, PATH, NAME, member, signature, *arguments, timeout_sec=_CHANGE_TIMEOUT_SEC
        )
