# SPDX-License-Identifier: Apache-2.0
"""The agents' D-Bus interfaces, one method for each call that hypernet-admin makes."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any

from common import bus
from common.errors import NotRunning

_CHANGE_TIMEOUT_SEC = 300.0
"""Calls that change something wait for a person who types a password (polkit) and for the disk."""

_RUN_TIMEOUT_SEC = 600.0
"""A health check has its own limits, and may be tried several times."""


@dataclass(frozen=True, slots=True)
class _Agent:
    """An agent's bus name, its object, its unit, and the interface if that has another name."""

    name: str
    path: str
    unit: str
    interface: str = ""


_SLOT_MANAGER = _Agent(
    "io.hypernet.SlotManager1", "/io/hypernet/SlotManager1", "hypernet-slot-manager.service"
)
_BOOT_HEALTH = _Agent(
    "io.hypernet.BootHealth1", "/io/hypernet/BootHealth1", "hypernet-boot-health-bus.service"
)
JOB = "io.hypernet.SlotManager1.Job"
_PROPERTIES = "org.freedesktop.DBus.Properties"


class Agents:
    """The agents on a connected bus.

    Each method raises what `common.bus` raises for a failed call; NotRunning names the unit to look at.
    """

    def __init__(self, client: bus.Client) -> None:
        self._client = client

    async def slots(self) -> dict[str, Any]:
        """Return all properties of the slot manager; raises its error if it finds no slots."""
        agent = _SLOT_MANAGER
        values = await self._properties(agent, agent.path, agent.name)
        if "Slots" not in values:
            # Together with others, a property that cannot be read is left out; alone it says why.
            values["Slots"] = await self._client.get_property(agent.name, agent.path, agent.name, "Slots")
        return values

    async def health(self) -> dict[str, Any]:
        """Return all properties of boot health."""
        return await self._properties(_BOOT_HEALTH, _BOOT_HEALTH.path, _BOOT_HEALTH.name)

    def health_changes(self) -> AbstractAsyncContextManager[bus.SignalQueue]:
        """Collect the changed properties (PropertiesChanged) of boot health."""
        return self._client.subscribe(_PROPERTIES, "PropertiesChanged", sender=_BOOT_HEALTH.name)

    async def run_check(self, name: str) -> dict[str, Any]:
        """Run a health check again and return its result."""
        agent = _BOOT_HEALTH
        (result,) = await self._change("Run", "s", name, agent=agent, timeout_sec=_RUN_TIMEOUT_SEC)
        return dict(result)

    async def job(self, path: str) -> dict[str, Any]:
        """Return all properties of an install job."""
        return await self._properties(_SLOT_MANAGER, path, JOB)

    def changes(self) -> AbstractAsyncContextManager[bus.SignalQueue]:
        """Collect the changed properties (PropertiesChanged) of the slot manager and of its jobs."""
        return self._client.subscribe(_PROPERTIES, "PropertiesChanged", sender=_SLOT_MANAGER.name)

    async def install(self, source: str, options: Mapping[str, bool | str]) -> str:
        """Start to install an image (absolute path or URL) and return the object path of the job."""
        (job,) = await self._change("Install", "sa{sv}", source, dict(options))
        return str(job)

    async def install_file(self, files: Sequence[int], options: Mapping[str, bool | str]) -> str:
        """The same with open files: an image, its manifest, and the signature of that."""
        (job,) = await self._change("InstallFile", "hhha{sv}", *files, dict(options))
        return str(job)

    async def cancel(self, path: str) -> None:
        """Ask an install job to stop."""
        await self._change("Cancel", agent=replace(_SLOT_MANAGER, path=path, interface=JOB))

    async def approve(self) -> None:
        """Approve the staged release."""
        await self._change("Approve")

    async def arm(self, *, reboot: bool) -> None:
        """Let the next boot try the staged or approved release."""
        await self._change("Arm", "a{sv}", {"reboot": True} if reboot else {})

    async def disarm(self) -> None:
        """Keep the next boot from trying the armed release."""
        await self._change("Disarm")

    async def clear_denied(self, version: str) -> int:
        """Let a release (a version, or "all") be installed again; return how many those were."""
        (cleared,) = await self._change("ClearDenied", "s", version)
        return int(cleared)

    async def rollback(self, reason: str, *, reboot: bool) -> str:
        """Make the other slot the default and return its name."""
        options: dict[str, Any] = {"reboot": reboot}
        if reason:
            options["reason"] = reason
        (slot,) = await self._change("Rollback", "a{sv}", options)
        return str(slot)

    async def mark_good(self, slot: str) -> None:
        """Mark a slot ("a", "b", "booted", "other") good."""
        await self._change("MarkGood", "s", slot)

    async def mark_bad(self, slot: str, reason: str) -> None:
        """Mark a slot ("a", "b", "booted", "other") bad."""
        await self._change("MarkBad", "ss", slot, reason)

    async def _properties(self, agent: _Agent, path: str, interface: str) -> dict[str, Any]:
        try:
            return await self._client.get_all(agent.name, path, interface)
        except NotRunning as error:
            raise _not_running(agent, error) from error

    async def _change(
        self,
        member: str,
        signature: str = "",
        *arguments: Any,
        agent: _Agent = _SLOT_MANAGER,
        timeout_sec: float = _CHANGE_TIMEOUT_SEC,
    ) -> tuple[Any, ...]:
        """Call a method that polkit guards, and let polkit ask the user."""
        try:
            return await self._client.call(
                agent.name,
                agent.path,
                agent.interface or agent.name,
                member,
                signature,
                *arguments,
                timeout_sec=timeout_sec,
                interactive=True,
            )
        except NotRunning as error:
            raise _not_running(agent, error) from error


def _not_running(agent: _Agent, error: NotRunning) -> NotRunning:
    return NotRunning(f"{str(error).rstrip('.')}; 'journalctl -u {agent.unit}' says why.")
