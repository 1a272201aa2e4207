# SPDX-License-Identifier: Apache-2.0
"""The D-Bus face without installations: states, marks, rollback, what is shown, who may do what."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from agents.slot_manager import arming, service
from agents.slot_manager.errors import TopologyError
from agents.slot_manager.install import install
from agents.slot_manager.lifecycle import bless
from agents.slot_manager.machine import Machine
from agents.slot_manager.properties import NAME
from agents.slot_manager.service import PATH
from common import bus
from tests.fakes import slot_images
from tests.fakes import systemd as fake
from tests.fakes.private_bus import connect_unprivileged, private_bus, private_bus_daemon, serving  # noqa: F401
from tests.fakes.slot_images import BuiltImage, Key
from tests.fakes.slot_lab import Lab
from tests.fakes.slot_service import JOB, call, finished, manager, properties, run

XML = Path(__file__).parents[3] / "units/dbus/interfaces/io.hypernet.SlotManager1.xml"

pytestmark = pytest.mark.usefixtures("private_bus")


def test_a_staged_release_is_approved_armed_and_disarmed(lab: Lab, images: dict[str, BuiltImage]) -> None:
    systemd = fake.Manager()

    async def slot_b(client: bus.Client) -> tuple[str, bool, str]:
        values = await properties(client)
        return values["Slots"][1]["state"], values["Slots"][1]["approved"], values["DefaultSlot"]

    async def story() -> None:
        async with (
            manager(lab, systemd) as client,
            client.subscribe(NAME, "SlotArmed") as armed,
            client.subscribe(NAME, "SlotDisarmed") as disarmed,
        ):
            _, args = await finished(client, images["2.0.0"].path, arm=False)
            assert args[2] == "Installed 2.0.0 into slot b; it is staged."
            assert await slot_b(client) == ("staged", False, "a")
            assert armed.empty()
            assert systemd.asked == ["start hypernet-pre-update.target replace"]

            await call(client, "Approve", "")
            assert await slot_b(client) == ("approved", True, "a")
            await call(client, "Arm", "a{sv}", {})
            assert (await slot_b(client))[::2] == ("armed", "b")
            assert (await asyncio.wait_for(armed.get(), 5)).args == ("b", "2.0.0")
            await call(client, "Arm", "a{sv}", {})
            assert armed.empty()
            await call(client, "Disarm", "")
            assert (await asyncio.wait_for(disarmed.get(), 5)).args == ("b", "2.0.0")
            assert await slot_b(client) == ("staged", False, "a")
            for member, signature, arguments in (("Disarm", "", ()), ("Install", "sa{sv}", ("x", {"a": 1}))):
                with pytest.raises(bus.RemoteError):
                    await call(client, member, signature, *arguments)

    run(story())
    assert systemd.asked[1:] == ["start hypernet-post-update.target replace"]


def test_arm_reboots_when_asked_after_the_hooks(armed: Lab) -> None:
    with armed.machine.lock():
        arming.disarm(armed.machine)
    systemd = fake.Manager()

    async def story() -> None:
        async with manager(armed, systemd) as client:
            await call(client, "Arm", "a{sv}", {"reboot": True})
            while len(systemd.asked) < 2:
                await asyncio.sleep(0.01)

    run(story())
    assert systemd.asked == [
        "start hypernet-post-update.target replace",
        "start reboot.target replace-irreversibly",
    ]


def test_an_empty_slot_cannot_be_armed(lab: Lab) -> None:
    async def story() -> None:
        async with manager(lab) as client:
            for member, signature, args in (
                ("Approve", "", ()),
                ("Arm", "a{sv}", ({},)),
                ("Disarm", "", ()),
            ):
                with pytest.raises(bus.RemoteError) as caught:
                    await call(client, member, signature, *args)
                assert caught.value.dbus_name == "io.hypernet.Error.WrongState"

    run(story())


def test_a_release_that_failed_is_explained_refused_and_allowed_again(
    both_good: Lab, images: dict[str, BuiltImage]
) -> None:
    root_hash = images["2.0.0"].root_hash

    async def story() -> None:
        async with manager(both_good) as client:
            await call(client, "Rollback", "a{sv}", {"reason": "too slow"})
            values = await properties(client)
            (denied,) = values["Denied"]
            assert (denied["version"], denied["root_hash"], denied["reason"]) == (
                "2.0.0",
                root_hash,
                "too slow",
            )
            assert denied["since"] > 0
            running, installed = values["Releases"]
            assert (running["version"], running["verdict"], running["rule"], running["reason"]) == (
                "2.0.0",
                "running",
                "denylist",
                "too slow",
            )
            assert (installed["version"], installed["verdict"]) == ("1.0.0", "installed")
            assert (
                values["Transitions"][-1].items()
                >= {
                    "slot": "b",
                    "version": "2.0.0",
                    "state": "bad",
                    "reason": "too slow",
                }.items()
            )
            with pytest.raises(bus.RemoteError) as caught:
                await call(client, "ClearDenied", "s", "9.9.9")
            assert caught.value.dbus_name == "io.hypernet.Error.InvalidArgument"
            assert await call(client, "ClearDenied", "s", "2.0.0") == (1,)
            assert (await properties(client))["Denied"] == []

    run(story())


def test_a_refused_release_is_listed_with_its_rule(both_good: Lab, key: Key, tmp_path: Path) -> None:
    old = slot_images.build_image(tmp_path, "0.5.0", key=key)

    async def story() -> None:
        async with manager(both_good) as client:
            _, (_, name, message) = await finished(client, old.path)
            assert name == "io.hypernet.Error.BelowFloor"
            assert [
                (item["version"], item["verdict"], item["rule"], item["reason"])
                for item in (await properties(client))["Releases"]
            ] == [
                ("2.0.0", "running", "", ""),
                ("1.0.0", "installed", "", ""),
                ("0.5.0", "refused", "floor", message),
            ]

    run(story())


def test_what_runs_is_not_listed_again_for_being_refused(
    both_good: Lab, images: dict[str, BuiltImage]
) -> None:
    async def story() -> None:
        async with manager(both_good) as client:
            _, (_, name, _) = await finished(client, images["2.0.0"].path)
            assert name == "io.hypernet.Error.SameVersion"
            assert [item["verdict"] for item in (await properties(client))["Releases"]] == [
                "running",
                "installed",
            ]

    run(story())


def test_what_was_proven_good_is_shown(both_good: Lab, images: dict[str, BuiltImage]) -> None:
    async def story() -> None:
        async with manager(both_good) as client:
            values = await properties(client)
            assert values["LastGood"]["slot"] == "b"
            assert values["LastGood"]["version"] == "2.0.0"
            assert values["LastGood"]["root_hash"] == images["2.0.0"].root_hash
            assert values["LastGood"]["since"] > 0
            assert set(values["Floor"]) == {"serial", "min_version", "key_epoch", "signed"}

    run(story())


def test_rollback_over_the_bus_changes_the_default_and_is_remembered(
    lab: Lab, images: dict[str, BuiltImage]
) -> None:
    install(lab.machine, str(images["2.0.0"].path))
    lab.try_once("hypernet_2.0.0+3.efi", "b")
    bless(lab.machine)

    async def story() -> None:
        async with manager(lab) as client, client.subscribe(NAME, "RolledBack") as queue:
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
        async with manager(lab, fake.Manager(missing=["reboot.target"])) as client:
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
        async with manager(lab) as client, client.subscribe(NAME, "SlotMarked") as queue:
            await call(client, "MarkBad", "ss", "other", "it smells")
            assert (await asyncio.wait_for(queue.get(), 5)).args == ("b", "bad", "it smells")
            await call(client, "MarkGood", "s", "b")
            assert (await asyncio.wait_for(queue.get(), 5)).args == ("b", "armed", "")
            with pytest.raises(bus.RemoteError) as caught:
                await call(client, "MarkGood", "s", "c")
            assert caught.value.dbus_name == "io.hypernet.Error.NoSuchSlot"

    run(story())


def test_tries_that_are_given_back_are_shown_and_no_verdict_is_announced(both_good: Lab) -> None:
    both_good.try_once("hypernet_2.0.0+5.efi", "b")

    async def story() -> None:
        async with manager(both_good) as client, client.subscribe(NAME, "SlotMarked") as queue:
            before = await properties(client)
            assert before["Slots"][1]["tries_left"] == 4
            await call(client, "Rearm", "")
            after = await properties(client)
            assert after["Slots"][1]["tries_left"] == 5
            assert after["LastGood"] == before["LastGood"]
            assert queue.empty()

    run(story())


@pytest.mark.parametrize(
    ("member", "signature", "args"),
    [
        ("Install", "sa{sv}", ("/x.img", {})),
        ("Approve", "", ()),
        ("Arm", "a{sv}", ({},)),
        ("Disarm", "", ()),
        ("ClearDenied", "s", ("all",)),
        ("Rollback", "a{sv}", ({},)),
        ("MarkGood", "s", ("b",)),
        ("MarkBad", "ss", ("b", "x")),
        ("Rearm", "", ()),
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
        running.export(PATH, service.SlotManager(running, find))

    async def story() -> None:
        async with serving(NAME, setup), bus.connect() as client:
            with pytest.raises(bus.RemoteError, match="no machine with slots"):
                await client.get_property(NAME, PATH, NAME, "Slots")
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
            for path, interface in ((PATH, NAME), (job, JOB)):
                (text,) = await client.call(NAME, path, "org.freedesktop.DBus.Introspectable", "Introspect")
                running = {
                    item.get("name", ""): _members(item) for item in ET.fromstring(text).iter("interface")
                }
                assert running[interface] == documented[interface]

    run(story())
