# SPDX-License-Identifier: Apache-2.0
"""The D-Bus face on a real bus, with the real engine behind it."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agents.slot_manager import service
from agents.slot_manager.errors import TopologyError
from agents.slot_manager.install import install
from agents.slot_manager.lifecycle import bless
from agents.slot_manager.machine import Machine
from common import bus
from tests.fakes.private_bus import connect_unprivileged, private_bus, private_bus_daemon, serving  # noqa: F401
from tests.fakes.slot_images import BuiltImage, copy_image
from tests.fakes.slot_lab import Lab

XML = Path(__file__).parents[3] / "units/dbus/interfaces/io.hypernet.SlotManager1.xml"
JOB = "io.hypernet.SlotManager1.Job"

pytestmark = pytest.mark.usefixtures("private_bus")


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 60))


@asynccontextmanager
async def manager(lab: Lab) -> AsyncIterator[bus.Client]:
    def find() -> Machine:
        return lab.machine

    def setup(running: bus.Service) -> None:
        running.export(service.PATH, service.SlotManager(running, find))

    async with serving(service.NAME, setup), bus.connect() as client:
        yield client


async def call(client: bus.Client, member: str, signature: str, *args: Any) -> tuple[Any, ...]:
    return await client.call(service.NAME, service.PATH, service.NAME, member, signature, *args)


async def properties(client: bus.Client) -> dict[str, Any]:
    return await client.get_all(service.NAME, service.PATH, service.NAME)


async def finished(client: bus.Client, source: Path, **options: Any) -> tuple[str, tuple[Any, ...]]:
    """Install and wait for the job's end: (job path, arguments of Finished)."""
    async with client.subscribe(JOB, "Finished") as queue:
        wrapped = {key: bus.Variant("b", value) for key, value in options.items()}
        (job,) = await call(client, "Install", "sa{sv}", str(source), wrapped)
        signal = await asyncio.wait_for(queue.get(), 30)
        assert signal.path == job
        return job, signal.args


def test_an_update_over_the_bus_ends_with_an_armed_slot(lab: Lab, images: dict[str, BuiltImage]) -> None:
    async def story() -> None:
        async with manager(lab) as client, client.subscribe(service.NAME, "UpdateInstalled") as installed:
            job, args = await finished(client, images["2.0.0"].path)
            assert args == ("done", "", "Installed 2.0.0 into slot b.")
            assert (await asyncio.wait_for(installed.get(), 5)).args == ("b", "2.0.0")
            state = await properties(client)
            assert state["DefaultSlot"] == "b"
            assert (state["BootedSlot"], state["Operation"], state["CurrentJob"]) == ("a", "idle", "/")
            assert [(slot["name"], slot["state"]) for slot in state["Slots"]] == [
                ("a", "good"),
                ("b", "armed"),
            ]
            values = await client.get_all(service.NAME, job, JOB)
            assert (values["Stage"], values["Progress"], values["Version"]) == ("done", 1.0, "2.0.0")
            assert values["BytesDone"] == values["BytesTotal"] > 0

    run(story())


def test_a_refused_image_is_told_by_name_and_sentence(
    lab: Lab, images: dict[str, BuiltImage], tmp_path: Path
) -> None:
    image = copy_image(images["2.0.0"], tmp_path / "copy")
    image.path.with_name(image.path.name + ".sha256").write_text("0" * 64 + "  x\n")

    async def story() -> None:
        async with manager(lab) as client, client.subscribe(service.NAME, "InstallFailed") as failed:
            job, (result, name, message) = await finished(client, image.path)
            assert (result, name) == ("failed", "io.hypernet.Error.ChecksumMismatch")
            assert image.path.name in message
            assert (await asyncio.wait_for(failed.get(), 5)).args == (str(image.path), name, message)
            assert (await properties(client))["LastError"] == message
            assert (await client.get_all(service.NAME, job, JOB))["ErrorMessage"] == message

    run(story())


def test_a_job_can_be_cancelled(lab: Lab, images: dict[str, BuiltImage]) -> None:
    async def story() -> None:
        async with manager(lab) as client, client.subscribe(JOB, "Finished") as queue:
            (job,) = await call(client, "Install", "sa{sv}", str(images["2.0.0"].path), {})
            await client.call(service.NAME, job, JOB, "Cancel")
            result, name, _ = (await asyncio.wait_for(queue.get(), 30)).args
            assert (result, name) == ("cancelled", "io.hypernet.Error.Cancelled")

    run(story())


def test_a_second_installation_is_refused_while_one_runs(lab: Lab, images: dict[str, BuiltImage]) -> None:
    async def story() -> None:
        async with manager(lab) as client, client.subscribe(JOB, "Finished") as queue:
            await call(client, "Install", "sa{sv}", str(images["2.0.0"].path), {})
            with pytest.raises(bus.RemoteError) as caught:
                await call(client, "Install", "sa{sv}", str(images["2.0.0"].path), {})
            assert caught.value.dbus_name == "io.hypernet.Error.Busy"
            await asyncio.wait_for(queue.get(), 30)

    run(story())


def test_a_stop_of_the_service_leaves_no_half_written_slot(lab: Lab, images: dict[str, BuiltImage]) -> None:
    async def story() -> None:
        async with manager(lab) as client:
            await call(client, "Install", "sa{sv}", str(images["2.0.0"].path), {})

    run(story())
    assert lab.machine.view().slots["b"].state in ("empty", "armed")
    assert lab.machine.view().record.installing is None


@pytest.mark.parametrize("options", [{"arm": bus.Variant("s", "yes")}, {"force": bus.Variant("b", True)}])
def test_an_unknown_or_wrong_option_is_refused(lab: Lab, options: dict[str, Any]) -> None:
    async def story() -> None:
        async with manager(lab) as client:
            with pytest.raises(bus.RemoteError) as caught:
                await call(client, "Install", "sa{sv}", "/x.img", options)
            assert caught.value.dbus_name == "io.hypernet.Error.InvalidArgument"

    run(story())


def test_rollback_over_the_bus_changes_the_default_and_is_remembered(
    lab: Lab, images: dict[str, BuiltImage]
) -> None:
    install(lab.machine, str(images["2.0.0"].path))
    lab.try_once("hypernet_2.0.0+3.efi", "b")
    bless(lab.machine)

    async def story() -> None:
        async with manager(lab) as client, client.subscribe(service.NAME, "RolledBack") as queue:
            reason = {"reason": bus.Variant("s", "too\nslow")}
            assert await call(client, "Rollback", "a{sv}", reason) == ("a",)
            assert (await asyncio.wait_for(queue.get(), 5)).args == ("2.0.0", "1.0.0", "too slow")
            state = await properties(client)
            assert state["DefaultSlot"] == "a"
            assert state["LastRollback"]["from"] == "b"
            assert state["LastRollback"]["reason"] == "too slow"
            assert state["LastRollback"]["since"] > 0

    run(story())


def test_a_reboot_that_cannot_be_started_does_not_hide_that_the_rollback_is_done(
    lab: Lab, images: dict[str, BuiltImage]
) -> None:
    install(lab.machine, str(images["2.0.0"].path))
    lab.try_once("hypernet_2.0.0+3.efi", "b")
    bless(lab.machine)

    async def story() -> None:
        async with manager(lab) as client:  # the private bus has no systemd
            with pytest.raises(
                bus.RemoteError, match=r"^Slot a is the default now, but the reboot could not"
            ):
                await call(client, "Rollback", "a{sv}", {"reboot": bus.Variant("b", True)})
            assert (await properties(client))["DefaultSlot"] == "a"

    run(story())


def test_rollback_to_an_empty_slot_is_refused_over_the_bus(lab: Lab) -> None:
    async def story() -> None:
        async with manager(lab) as client:
            with pytest.raises(bus.RemoteError) as caught:
                await call(client, "Rollback", "a{sv}", {})
            assert caught.value.dbus_name == "io.hypernet.Error.OtherSlotNotGood"

    run(story())


def test_marks_are_announced(lab: Lab, images: dict[str, BuiltImage]) -> None:
    install(lab.machine, str(images["2.0.0"].path))

    async def story() -> None:
        async with manager(lab) as client, client.subscribe(service.NAME, "SlotMarked") as queue:
            await call(client, "MarkBad", "ss", "other", "it smells")
            assert (await asyncio.wait_for(queue.get(), 5)).args == ("b", "bad", "it smells")
            await call(client, "MarkGood", "s", "b")
            assert (await asyncio.wait_for(queue.get(), 5)).args == ("b", "armed", "")
            with pytest.raises(bus.RemoteError) as caught:
                await call(client, "MarkGood", "s", "c")
            assert caught.value.dbus_name == "io.hypernet.Error.NoSuchSlot"

    run(story())


@pytest.mark.parametrize(
    ("member", "signature", "args"),
    [
        ("Install", "sa{sv}", ("/x.img", {})),
        ("Rollback", "a{sv}", ({},)),
        ("MarkGood", "s", ("b",)),
        ("MarkBad", "ss", ("b", "x")),
    ],
)
def test_users_need_polkit_to_change_anything_but_may_read(
    lab: Lab, member: str, signature: str, args: tuple[Any, ...]
) -> None:
    before = lab.snapshot()

    async def story() -> None:
        async with manager(lab), connect_unprivileged() as user:
            with pytest.raises(bus.RemoteError) as caught:
                await call(user, member, signature, *args)
            assert caught.value.dbus_name == "io.hypernet.Error.NotPermitted"
            assert (await properties(user))["BootedSlot"] == "a"

    run(story())
    assert lab.snapshot() == before


def test_a_machine_without_slots_says_so_to_the_caller() -> None:
    def find() -> Machine:
        raise TopologyError("This is no machine with slots; install one.")

    def setup(running: bus.Service) -> None:
        running.export(service.PATH, service.SlotManager(running, find))

    async def story() -> None:
        async with serving(service.NAME, setup), bus.connect() as client:
            with pytest.raises(bus.RemoteError, match="no machine with slots"):
                await client.get_property(service.NAME, service.PATH, service.NAME, "Slots")
            assert "no machine with slots" in (await properties(client))["LastError"]

    run(story())


def _members(interface: ET.Element) -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    for member in interface:
        kind, name = member.tag, member.get("name", "")
        if kind == "property":
            found.add((kind, name, member.get("type", ""), member.get("access", "")))
        elif kind in ("method", "signal"):
            arguments = tuple(
                f"{arg.get('direction', 'out' if kind == 'signal' else 'in')}:{arg.get('type')}"
                for arg in member.iter("arg")
            )
            found.add((kind, name, *arguments))
    return found


def test_the_running_service_has_exactly_the_interface_of_its_file(
    lab: Lab, images: dict[str, BuiltImage]
) -> None:
    documented = {item.get("name", ""): _members(item) for item in ET.parse(XML).getroot().iter("interface")}

    async def story() -> None:
        async with manager(lab) as client:
            job, _ = await finished(client, images["2.0.0"].path)
            for path, interface in ((service.PATH, service.NAME), (job, JOB)):
                (text,) = await client.call(
                    service.NAME, path, "org.freedesktop.DBus.Introspectable", "Introspect"
                )
                running = {
                    item.get("name", ""): _members(item) for item in ET.fromstring(text).iter("interface")
                }
                assert running[interface] == documented[interface]

    run(story())
