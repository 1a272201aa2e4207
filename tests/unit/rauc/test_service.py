# SPDX-License-Identifier: Apache-2.0
"""The service on a private bus, asked as programs written for RAUC ask it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agents.rauc import service
from common import bus, image, trust
from common.image import Inspection
from tests.fakes.polkit import Authority, polkit
from tests.fakes.private_bus import connect_unprivileged
from tests.integration import interfaces

from .stand_in import StandIn, slot, slot_manager

INTERFACE = "de.pengutronix.rauc.Installer"
IMAGE = "/tmp/hypernet-1.1.0.img"


class Client:
    """A program that was written for RAUC."""

    def __init__(self, client: bus.Client) -> None:
        self.bus = client

    async def call(self, member: str, signature: str = "", *arguments: Any) -> Any:
        answer = await self.bus.call("de.pengutronix.rauc", "/", INTERFACE, member, signature, *arguments)
        return answer[0] if len(answer) == 1 else answer

    async def get(self, name: str) -> Any:
        return await self.bus.get_property("de.pengutronix.rauc", "/", INTERFACE, name)

    async def error(self, member: str, signature: str = "", *arguments: Any) -> bus.RemoteError:
        with pytest.raises(bus.RemoteError) as raised:
            await self.call(member, signature, *arguments)
        return raised.value


@asynccontextmanager
async def rauc() -> AsyncIterator[Client]:
    """Run the service and connect to it."""
    task = asyncio.create_task(service.serve())
    try:
        async with bus.connect() as client:
            owned = False
            while not owned:
                assert not task.done()
                (owned,) = await client.call(
                    "org.freedesktop.DBus", "/", "org.freedesktop.DBus", "NameHasOwner", "s", service.NAME
                )
                await asyncio.sleep(0.005)
            yield Client(client)
    finally:
        task.cancel()
        await asyncio.wait([task])


def ask(work: Callable[[Client, StandIn], Awaitable[None]]) -> None:
    async def run() -> None:
        async with slot_manager() as stand_in, rauc() as client:
            await asyncio.wait_for(work(client, stand_in), 20)

    asyncio.run(run())


def test_interface_is_the_one_that_is_documented(private_bus: str) -> None:
    async def work(client: Client, _: StandIn) -> None:
        (xml,) = await client.bus.call(
            service.NAME, "/", "org.freedesktop.DBus.Introspectable", "Introspect"
        )
        assert interfaces.shown(xml, INTERFACE) == interfaces.documented(INTERFACE)

    ask(work)


def test_properties_of_an_idle_machine(private_bus: str) -> None:
    async def work(client: Client, _: StandIn) -> None:
        assert await client.bus.get_all(service.NAME, "/", INTERFACE) == {
            "Operation": "idle",
            "LastError": "",
            "Progress": [0, "", 0],
            "Compatible": "hypernet",
            "Variant": "",
            "SystemVersion": "1.0.0",
            "BootSlot": "a",
        }

    ask(work)


def test_operation_is_installing_when_install_bundle_returns(private_bus: str) -> None:
    async def work(client: Client, stand_in: StandIn) -> None:
        await client.call("InstallBundle", "sa{sv}", IMAGE, {})
        assert await client.get("Operation") == "installing"
        assert await client.get("Progress") == [0, "Checking bundle", 2]
        assert stand_in.calls == [("Install", IMAGE, {})]

    ask(work)


def test_operation_is_idle_when_the_installation_ended_before_install_bundle_returned(
    private_bus: str,
) -> None:
    async def work(client: Client, stand_in: StandIn) -> None:
        stand_in.ends_at_once = {"Result": "failed", "ErrorMessage": "The image is not signed."}
        async with client.bus.subscribe(INTERFACE, "Completed") as queue:
            await client.call("InstallBundle", "sa{sv}", IMAGE, {})
            assert await client.get("Operation") == "idle"
            assert await client.get("LastError") == "The image is not signed."
            assert (await queue.get()).args == (1,)

    ask(work)


def test_client_sees_progress_and_completed(private_bus: str) -> None:
    async def work(client: Client, stand_in: StandIn) -> None:
        properties = "org.freedesktop.DBus.Properties"
        async with (
            client.bus.subscribe(INTERFACE, "Completed", sender=service.NAME) as completed,
            client.bus.subscribe(properties, "PropertiesChanged", "/", sender=service.NAME) as changes,
        ):
            await client.call("Install", "s", IMAGE)
            assert stand_in.job is not None
            stand_in.job.tell(Stage="write", Progress=0.4)
            stand_in.end(Stage="done", Progress=1.0, Result="done")
            assert (await completed.get()).args == (0,)
            await client.get("Operation")
            seen = [change.args for change in (changes.get_nowait() for _ in range(changes.qsize()))]
        # RAUC's client takes any invalidated property for the end of the service.
        assert all(len(args[1]) == 1 and args[2] == [] for args in seen)
        told = [args[1]["Progress"] for args in seen if "Progress" in args[1]]
        assert [0, "Installing", 1] in told
        assert [40, "Copying image to rootfs.1", 2] in told
        assert told[-1] == [100, "Installing done.", 1]
        assert [args[1]["Operation"] for args in seen if "Operation" in args[1]] == ["installing", "idle"]

    ask(work)


def test_refusal_of_slot_manager_reaches_the_client_as_it_is(private_bus: str) -> None:
    async def work(client: Client, stand_in: StandIn) -> None:
        stand_in.refuse["Install"] = ("Busy", "User root installs since 12:00; wait for its end.")
        error = await client.error("InstallBundle", "sa{sv}", IMAGE, {})
        assert (error.dbus_name, str(error)) == (
            "io.hypernet.Error.Busy",
            "User root installs since 12:00; wait for its end.",
        )
        assert await client.get("Operation") == "idle"

    ask(work)


def test_refused_argument_starts_nothing(private_bus: str) -> None:
    async def work(client: Client, stand_in: StandIn) -> None:
        error = await client.error("InstallBundle", "sa{sv}", IMAGE, {"tls-no-verify": True})
        assert error.dbus_name == "io.hypernet.Error.InvalidArgument"
        assert stand_in.calls == []

    ask(work)


@pytest.mark.parametrize(
    ("state", "identifier", "answer", "call"),
    [
        ("good", "booted", ("rootfs.0", "marked slot rootfs.0 as good"), ("MarkGood", "a")),
        ("good", "rootfs.1", ("rootfs.1", "marked slot rootfs.1 as good"), ("MarkGood", "b")),
        ("bad", "other", ("rootfs.1", "marked slot rootfs.1 as bad"), ("MarkBad", "b", service.REASON)),
    ],
)
def test_slot_is_marked_good_or_bad(
    private_bus: str, state: str, identifier: str, answer: tuple[str, str], call: tuple[str, ...]
) -> None:
    async def work(client: Client, stand_in: StandIn) -> None:
        assert await client.call("Mark", "ss", state, identifier) == answer
        assert stand_in.calls == [call]

    ask(work)


@pytest.mark.parametrize(
    ("booted", "other", "default", "identifier", "calls"),
    [
        ("good", "staged", "a", "other", [("Arm", {})]),
        ("good", "bad", "a", "rootfs.1", [("MarkGood", "b")]),
        ("good", "good", "a", "other", [("Rollback", {"reason": service.REASON})]),
        ("good", "armed", "b", "other", []),
        ("good", "armed", "b", "booted", [("Disarm",)]),
        ("bad", "good", "b", "rootfs.0", [("MarkGood", "a")]),
    ],
)
def test_slot_is_activated(
    private_bus: str, booted: str, other: str, default: str, identifier: str, calls: list[Any]
) -> None:
    async def work(client: Client, stand_in: StandIn) -> None:
        stand_in.slot_list = [slot("a", booted, "1.0.0", booted=True), slot("b", other, "1.1.0")]
        stand_in.default = default
        name, message = await client.call("Mark", "ss", "active", identifier)
        assert message == f"activated slot {name}"
        assert stand_in.calls == calls
        assert await client.call("GetPrimary") == name

    ask(work)


def test_activation_that_does_not_change_what_boots_next_is_an_error(private_bus: str) -> None:
    async def work(client: Client, stand_in: StandIn) -> None:
        stand_in.slot_list = [slot("a", "bad", "1.0.0", booted=True), slot("b", "good", "1.1.0")]
        stand_in.default = "b"
        stand_in.mark_good = lambda name: None  # type: ignore[method-assign]
        error = await client.error("Mark", "ss", "active", "booted")
        assert "rootfs.0 was not activated: the boot loader takes rootfs.1 next" in str(error)

    ask(work)


@pytest.mark.parametrize(("state", "identifier"), [("Good", "booted"), ("", "other"), ("good", "rootfs.7")])
def test_mark_of_nothing_that_exists_is_refused(private_bus: str, state: str, identifier: str) -> None:
    async def work(client: Client, stand_in: StandIn) -> None:
        error = await client.error("Mark", "ss", state, identifier)
        assert error.dbus_name == "io.hypernet.Error.InvalidArgument"
        assert stand_in.calls == []

    ask(work)


def test_status_primary_and_artifacts_are_read(private_bus: str) -> None:
    async def work(client: Client, stand_in: StandIn) -> None:
        slots = dict(await client.call("GetSlotStatus"))
        assert (slots["rootfs.0"]["state"], slots["rootfs.1"]["boot-status"]) == ("booted", "bad")
        assert await client.call("GetPrimary") == "rootfs.0"
        assert await client.call("GetArtifactStatus") == []
        stand_in.default = ""
        assert "Failed getting primary slot" in str(await client.error("GetPrimary"))

    ask(work)


def inspection(path: Path, **_: object) -> Inspection:
    return Inspection(path, 7, "1.1.0", "hypernet", "x86-64", "", "ab", 0, 0, 0, False, (), "", ())


def test_image_is_inspected_with_the_keys_of_the_epoch_that_is_asked_for(
    private_bus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def load(directory: Path, **options: Any) -> trust.TrustStore:
        asked.append((directory.name, options["vendor"].name, options["min_epoch"]))
        return None  # type: ignore[return-value]

    monkeypatch.setattr(trust, "load", load)
    monkeypatch.setattr(image, "inspect", inspection)

    async def work(client: Client, stand_in: StandIn) -> None:
        info = await client.call("InspectBundle", "sa{sv}", IMAGE, {})
        assert info["update"] == {"compatible": "hypernet", "version": "1.1.0"}
        assert info["images"][0]["filename"] == "hypernet-1.1.0.img"
        assert await client.call("Info", "s", IMAGE) == ("hypernet", "1.1.0")
        assert asked == [("trusted-keys", "trusted-keys", 3)] * 2

    ask(work)


@pytest.mark.parametrize("source", ["https://example.org/hypernet-1.1.0.img", "hypernet-1.1.0.img", ""])
def test_only_files_are_inspected(private_bus: str, source: str) -> None:
    async def work(client: Client, _: StandIn) -> None:
        assert "absolute path" in str(await client.error("InspectBundle", "sa{sv}", source, {}))
        assert "absolute path" in str(await client.error("Info", "s", source))

    ask(work)


CALLS: dict[str, tuple[str, list[Any], list[str]]] = {
    "InstallBundle": ("sa{sv}", [IMAGE, {}], ["install"]),
    "InstallBundle of anything": (
        "sa{sv}",
        [IMAGE, {"ignore-version-limit": bus.Variant("b", True)}],
        ["install", "downgrade"],
    ),
    "Install": ("s", [IMAGE], ["install"]),
    "InspectBundle": ("sa{sv}", ["x", {}], ["install"]),
    "Info": ("s", ["x"], ["install"]),
    "Mark": ("ss", ["good", "booted"], ["mark"]),
    "Mark active": ("ss", ["active", "other"], ["mark", "arm"]),
    "Mark active to go back": ("ss", ["active", "rootfs.1"], ["mark", "rollback"]),
    "GetSlotStatus": ("", [], []),
    "GetPrimary": ("", [], []),
    "GetArtifactStatus": ("", [], []),
}


@pytest.mark.parametrize("name", CALLS)
def test_caller_who_is_not_root_is_asked_for_by_slot_manager_s_actions(private_bus: str, name: str) -> None:
    signature, arguments, actions = CALLS[name]

    async def run() -> None:
        authority = Authority((True, False))
        async with slot_manager() as stand_in, rauc(), polkit(authority), connect_unprivileged() as user:
            state = "good" if name.endswith("go back") else "staged"
            stand_in.slot_list = [slot("a", "good", "1.0.0", booted=True), slot("b", state, "0.9.0")]
            with contextlib.suppress(bus.RemoteError):
                await Client(user).call(name.split()[0], signature, *arguments)
        assert [asked[1] for asked in authority.asked] == [f"io.hypernet.SlotManager1.{a}" for a in actions]

    asyncio.run(run())


@pytest.mark.parametrize("name", [name for name, (_, _, actions) in CALLS.items() if actions])
def test_caller_whom_polkit_refuses_changes_nothing(private_bus: str, name: str) -> None:
    signature, arguments, _ = CALLS[name]

    async def run() -> None:
        async with (
            slot_manager() as stand_in,
            rauc(),
            polkit(Authority((False, False))),
            connect_unprivileged() as user,
        ):
            error = await Client(user).error(name.split()[0], signature, *arguments)
            assert error.dbus_name == "io.hypernet.Error.NotPermitted"
            assert stand_in.calls == []

    asyncio.run(run())
