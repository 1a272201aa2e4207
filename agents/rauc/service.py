# SPDX-License-Identifier: Apache-2.0
"""The face on the bus: de.pengutronix.rauc.Installer. It decides nothing; slot-manager does."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from agents.rauc import translate
from agents.rauc.follow import Follower
from agents.rauc.progress import Step
from agents.rauc.slots import SlotManager
from common import bus, image, journal, paths, trust
from common.errors import AgentError, Busy, InvalidArgument, NotRunning

NAME: Final = "de.pengutronix.rauc"
PATH: Final = "/"
INSTALL_ACTION: Final = "io.hypernet.SlotManager1.install"
DOWNGRADE_ACTION: Final = "io.hypernet.SlotManager1.downgrade"
MARK_ACTION: Final = "io.hypernet.SlotManager1.mark"
ARM_ACTION: Final = "io.hypernet.SlotManager1.arm"
ROLLBACK_ACTION: Final = "io.hypernet.SlotManager1.rollback"

REASON: Final = "marked through RAUC's D-Bus interface"

logger = logging.getLogger(__name__)


class Installer(bus.Interface):
    """The object at PATH; the interface is described in its XML file.

    slot-manager sees root call, so this service asks polkit about its own callers, by the same actions.
    """

    INTERFACE = "de.pengutronix.rauc.Installer"

    def __init__(self, slots: SlotManager) -> None:
        super().__init__()
        self.follower = Follower(slots, self)
        self._slots = slots
        self._inspecting = False

    @bus.prop("Operation", "s")
    def operation(self) -> str:
        """See the XML file."""
        return self.follower.operation

    @bus.prop("LastError", "s")
    def last_error(self) -> str:
        """See the XML file."""
        return self.follower.last_error

    @bus.prop("Progress", "(isi)")
    def progress(self) -> Step:
        """See the XML file."""
        return self.follower.progress

    @bus.prop("Compatible", "s")
    def compatible(self) -> str:
        """See the XML file."""
        return translate.COMPATIBLE

    @bus.prop("Variant", "s")
    def variant(self) -> str:
        """See the XML file."""
        return ""

    @bus.prop("SystemVersion", "s")
    def system_version(self) -> str:
        """See the XML file."""
        return self.follower.system_version

    @bus.prop("BootSlot", "s")
    def boot_slot(self) -> str:
        """See the XML file."""
        return self.follower.boot_slot

    @bus.method("InstallBundle", "sa{sv}", "", action=INSTALL_ACTION)
    async def install_bundle(self, source: str, args: dict[str, Any]) -> None:
        """Start an installation; Completed tells its end."""
        options, transaction = translate.install_options(args)
        if "allow-downgrade" in options:
            await bus.require(DOWNGRADE_ACTION)
        job = await self._slots.install(source, options)
        if transaction:
            journal.send(f"Installation {job} has RAUC transaction id {transaction}", source=source)
        # Programs look at Operation next: that there is a job has to be known by then.
        await self.follower.catch_up()

    @bus.method("Install", "s", "", action=INSTALL_ACTION)
    async def install(self, source: str) -> None:
        """InstallBundle without arguments."""
        await self.install_bundle(source, {})

    # Not free as other reading is: root opens a file of the caller's choice.
    @bus.method("InspectBundle", "sa{sv}", "a{sv}", action=INSTALL_ACTION)
    async def inspect_bundle(self, source: str, args: dict[str, Any]) -> dict[str, Any]:
        """What an image says of itself, after it was verified."""
        translate.check_inspect_arguments(args)
        return translate.bundle_info(await self._inspect(source))

    @bus.method("Info", "s", "ss", action=INSTALL_ACTION)
    async def info(self, bundle: str) -> tuple[str, str]:
        """Product and version of an image, after it was verified."""
        found = await self._inspect(bundle)
        return found.product, found.version

    @bus.method("Mark", "ss", "ss", action=MARK_ACTION)
    async def mark(self, state: str, slot_identifier: str) -> tuple[str, str]:
        """Mark a slot good or bad, or make it the one that boots next."""
        if state not in ("good", "bad", "active"):
            raise InvalidArgument(f"Unknown subcommand '{state}'; a slot is marked good, bad or active.")
        values = await self.follower.properties()
        slot = translate.find_slot(slot_identifier, values["Slots"])
        name = str(slot["name"])
        if state == "good":
            await self._slots.mark_good(name)
        elif state == "bad":
            await self._slots.mark_bad(name, REASON)
        else:
            await self._activate(slot, values)
        return translate.slot_name(name), translate.marked(state, translate.slot_name(name))

    @bus.method("GetSlotStatus", "", "a(sa{sv})")
    async def get_slot_status(self) -> list[tuple[str, dict[str, Any]]]:
        """See the XML file."""
        values = await self.follower.properties()
        transitions = values.get("Transitions", [])
        return [translate.slot_status(slot, transitions) for slot in values["Slots"]]

    @bus.method("GetArtifactStatus", "", "aa{sv}")
    def get_artifact_status(self) -> list[dict[str, Any]]:
        """See the XML file."""
        return []

    @bus.method("GetPrimary", "", "s")
    async def get_primary(self) -> str:
        """See the XML file."""
        return translate.require_primary(str((await self.follower.properties())["DefaultSlot"]))

    @bus.signal("Completed", "i")
    def completed(self, result: int) -> None:
        """An installation has ended; 0 for success."""

    async def _activate(self, slot: Mapping[str, Any], values: dict[str, Any]) -> None:
        name = str(slot["name"])
        (other,) = (str(each["state"]) for each in values["Slots"] if each["name"] != name)
        match translate.activation(slot, str(values["DefaultSlot"]), other):
            case "disarm":
                await bus.require(ARM_ACTION)
                await self._slots.disarm()
            case "arm":
                await bus.require(ARM_ACTION)
                await self._slots.arm()
            case "rollback":
                await bus.require(ROLLBACK_ACTION)
                await self._slots.rollback(REASON)
            case "mark-good":
                await self._slots.mark_good(name)
        default = str((await self.follower.properties())["DefaultSlot"])
        if default != name:
            raise AgentError(
                f"Slot {translate.slot_name(name)} was not activated: the boot loader takes "
                f"{translate.slot_name(default) or 'neither slot'} next; see 'hypernet-admin status'."
            )

    async def _inspect(self, source: str) -> image.Inspection:
        if not source.startswith("/"):
            raise InvalidArgument(
                f"'{source}' cannot be inspected; give the absolute path of an image file."
            )
        if self._inspecting:
            raise Busy("Another image is being inspected; wait for its end and call again.")
        self._inspecting = True
        try:
            floor = (await self.follower.properties()).get("Floor", {})
            store = trust.load(
                paths.CONFIG / "trusted-keys",
                vendor=paths.SHARE / "trusted-keys",
                min_epoch=int(floor.get("key_epoch", 0)),
            )
            return await _inspect_in_thread(Path(source), store)
        finally:
            self._inspecting = False


async def _inspect_in_thread(path: Path, store: trust.TrustStore) -> image.Inspection:
    """Inspect an image beside the event loop; when the service stops, the reading ends early."""
    cancel = threading.Event()
    try:
        return await asyncio.get_running_loop().run_in_executor(
            None, lambda: image.inspect(path, store=store, cancel=cancel)
        )
    finally:
        cancel.set()


async def serve() -> int:
    """Serve the bus name until stopped; returns the exit status.

    There is no idle exit: the service is there for programs that only listen, too.
    """
    tasks: set[asyncio.Task[Any]] = set()

    async def setup(service: bus.Service) -> None:
        installer = Installer(SlotManager(service.client))
        service.export(PATH, installer)
        ready = asyncio.Event()
        watching = asyncio.create_task(installer.follower.watch(ready))
        watching.add_done_callback(lambda ended: _stop(service, ended))
        tasks.update((watching, asyncio.create_task(ready.wait())))
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)

    try:
        return await bus.serve(NAME, setup, idle_exit_sec=None)
    finally:
        for task in tasks:
            task.cancel()


def _stop(service: bus.Service, ended: asyncio.Task[None]) -> None:
    """Unheard, slot-manager would be shown as it was for ever; systemd starts the service again."""
    if ended.cancelled():
        return
    error = ended.exception()
    # The end of the connection is the end of the service, too, and is told there.
    if error is not None and not isinstance(error, NotRunning):
        logger.error("slot-manager is not heard any more", exc_info=error)
    service.stop(1)
