# SPDX-License-Identifier: Apache-2.0
"""Installations over the bus, with the real engine behind it."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import Any

import pytest

from agents.slot_manager import hooks
from agents.slot_manager.properties import NAME
from agents.slot_manager.service import PATH
from common import bus
from tests.fakes import systemd as fake
from tests.fakes.polkit import Authority, polkit
from tests.fakes.private_bus import connect_unprivileged, private_bus, private_bus_daemon, serving  # noqa: F401
from tests.fakes.slot_images import BuiltImage, copy_image
from tests.fakes.slot_lab import Lab
from tests.fakes.slot_service import JOB, call, finished, manager, properties, run

XML = Path(__file__).parents[3] / "units/dbus/interfaces/io.hypernet.SlotManager1.xml"

pytestmark = pytest.mark.usefixtures("private_bus")


def test_an_update_over_the_bus_ends_with_an_armed_slot(lab: Lab, images: dict[str, BuiltImage]) -> None:
    async def story() -> None:
        async with manager(lab) as client, client.subscribe(NAME, "UpdateInstalled") as installed:
            job, args = await finished(client, images["2.0.0"].path)
            assert args == ("done", "", "Installed 2.0.0 into slot b; it is armed.")
            assert (await asyncio.wait_for(installed.get(), 5)).args == ("b", "2.0.0")
            state = await properties(client)
            assert state["DefaultSlot"] == "b"
            assert (state["BootedSlot"], state["Operation"], state["CurrentJob"]) == ("a", "idle", "/")
            assert [(slot["name"], slot["state"]) for slot in state["Slots"]] == [
                ("a", "good"),
                ("b", "armed"),
            ]
            values = await client.get_all(NAME, job, JOB)
            assert (values["Stage"], values["Progress"], values["Version"]) == ("done", 1.0, "2.0.0")
            assert values["BytesDone"] == values["BytesTotal"] > 0
            parts = [values[f"Bytes{name}"] for name in ("Copied", "Skipped", "Zero", "Fetched")]
            assert sum(parts) == len(images["2.0.0"].root)

    run(story())


def test_open_files_are_installed_and_closed(
    lab: Lab, releases: dict[str, BuiltImage], tmp_path: Path
) -> None:
    image = copy_image(releases["2.0.0"], tmp_path / "copy")
    manifest = image.beside(".manifest.json")

    async def story() -> None:
        async with manager(lab) as client, bus.connect(descriptors=True) as caller:
            before = len(os.listdir("/proc/self/fd"))
            with open(image.path) as one, open(manifest) as two, open(f"{manifest}.asc") as three:
                numbers = [file.fileno() for file in (one, two, three)]
                async with client.subscribe(JOB, "Finished") as queue:
                    await caller.call(NAME, PATH, NAME, "InstallFile", "hhha{sv}", *numbers, {})
                    signal = await asyncio.wait_for(queue.get(), 30)
            assert signal.args[0] == "done"
            assert await client.get_property(NAME, signal.path, JOB, "Source") == str(image.path)
            await asyncio.sleep(0.1)
            assert len(os.listdir("/proc/self/fd")) <= before

    run(story())
    assert lab.data("b").startswith(image.root)


def test_a_refused_image_is_told_by_name_and_sentence(
    lab: Lab, images: dict[str, BuiltImage], tmp_path: Path
) -> None:
    image = copy_image(images["2.0.0"], tmp_path / "copy")
    image.path.with_name(image.path.name + ".sha256").write_text("0" * 64 + "  x\n")

    async def story() -> None:
        async with manager(lab) as client, client.subscribe(NAME, "InstallFailed") as failed:
            job, (result, name, message) = await finished(client, image.path)
            assert (result, name) == ("failed", "io.hypernet.Error.ChecksumMismatch")
            assert image.path.name in message
            assert (await asyncio.wait_for(failed.get(), 5)).args == (str(image.path), name, message)
            assert (await properties(client))["LastError"] == message
            assert (await client.get_all(NAME, job, JOB))["ErrorMessage"] == message

    run(story())


def test_a_job_can_be_cancelled(lab: Lab, images: dict[str, BuiltImage]) -> None:
    async def story() -> None:
        async with manager(lab) as client, client.subscribe(JOB, "Finished") as queue:
            (job,) = await call(client, "Install", "sa{sv}", str(images["2.0.0"].path), {})
            await client.call(NAME, job, JOB, "Cancel")
            result, name, _ = (await asyncio.wait_for(queue.get(), 30)).args
            assert (result, name) == ("cancelled", "io.hypernet.Error.Cancelled")

    run(story())


def test_a_second_installation_is_refused_with_who_runs_the_first(
    lab: Lab, images: dict[str, BuiltImage]
) -> None:
    systemd = fake.Manager(endless=[hooks.PRE_UPDATE])

    async def story() -> None:
        async with manager(lab, systemd) as client, client.subscribe(JOB, "Finished") as queue:
            (job,) = await call(client, "Install", "sa{sv}", str(images["2.0.0"].path), {})
            for member, signature, args in (
                ("Install", "sa{sv}", (str(images["2.0.0"].path), {})),
                ("MarkGood", "s", ("booted",)),
                ("Rearm", "", ()),
            ):
                # A slot can be changed until the engine holds the lock.
                while not systemd.asked:
                    await asyncio.sleep(0.01)
                with pytest.raises(bus.RemoteError) as caught:
                    await call(client, member, signature, *args)
                assert caught.value.dbus_name == "io.hypernet.Error.Busy"
                assert re.fullmatch(
                    rf"Slot b is being written by root since [\d:]{{8}} \(job {job}\); wait for its end or "
                    r"cancel it\.",
                    str(caught.value),
                )
            await client.call(NAME, job, JOB, "Cancel")
            assert (await asyncio.wait_for(queue.get(), 30)).args[0] == "cancelled"

    run(story())


def test_a_failed_preparation_stops_the_update_before_anything_is_written(
    lab: Lab, images: dict[str, BuiltImage]
) -> None:
    before = lab.condition()
    systemd = fake.Manager({hooks.PRE_UPDATE: "dependency"}, failed=["backup.service"])

    async def story() -> None:
        async with manager(lab, systemd) as client:
            _, (result, name, message) = await finished(client, images["2.0.0"].path)
            assert (result, name) == ("failed", "io.hypernet.Error.PreUpdateFailed")
            assert message.startswith("backup.service failed before the update, so nothing was written")

    run(story())
    assert lab.condition() == before
    assert systemd.asked == ["start hypernet-pre-update.target replace"]


def test_the_hooks_of_other_units_run_around_the_update(lab: Lab, images: dict[str, BuiltImage]) -> None:
    systemd = fake.Manager()

    async def story() -> None:
        async with manager(lab, systemd) as client:
            await finished(client, images["2.0.0"].path, reboot=True)

    run(story())
    assert systemd.asked == [
        "start hypernet-pre-update.target replace",
        "start hypernet-post-update.target replace",
        "start reboot.target replace-irreversibly",
    ]


def test_a_reboot_that_fails_after_an_update_is_told_with_its_success(
    lab: Lab, images: dict[str, BuiltImage]
) -> None:
    async def story() -> None:
        async with manager(lab, fake.Manager(missing=["reboot.target"])) as client:
            job, (result, name, message) = await finished(client, images["2.0.0"].path, reboot=True)
            assert (result, name) == ("done", "")
            assert "it is armed. Slot b is the default now, but the reboot could not be started" in message
            sentence = await client.get_property(NAME, job, JOB, "ErrorMessage")
            assert sentence.startswith("Slot b is the default now, but the reboot could not be started")
            assert await client.get_property(NAME, PATH, NAME, "LastError") == sentence

    run(story())


def test_a_dry_run_changes_nothing_and_runs_no_hook(lab: Lab, images: dict[str, BuiltImage]) -> None:
    systemd, before = fake.Manager(), lab.snapshot()

    async def story() -> None:
        async with (
            manager(lab, systemd) as client,
            client.subscribe(NAME, "UpdateInstalled") as installed,
            client.subscribe(NAME, "SlotArmed") as armed,
        ):
            job, args = await finished(client, images["2.0.0"].path, dry_run=True)
            assert args == ("done", "", "Version 2.0.0 can be installed into slot b; nothing was written.")
            assert (await client.get_all(NAME, job, JOB))["DryRun"] is True
            assert installed.empty()
            assert armed.empty()

    run(story())
    assert (lab.snapshot(), systemd.asked) == (before, [])


def test_a_refused_dry_run_is_no_failed_installation(
    lab: Lab, images: dict[str, BuiltImage], tmp_path: Path
) -> None:
    async def story() -> None:
        async with manager(lab) as client, client.subscribe(NAME, "InstallFailed") as failed:
            _, (result, name, _) = await finished(client, tmp_path / "missing.img", dry_run=True)
            assert result == "failed"
            assert name.startswith("io.hypernet.Error.")
            assert (await properties(client))["LastError"] == ""
            assert failed.empty()

    run(story())


def test_the_wrong_slot_is_refused(lab: Lab, images: dict[str, BuiltImage]) -> None:
    async def story() -> None:
        async with manager(lab) as client:
            _, (_, name, _) = await finished(client, images["2.0.0"].path, slot="a")
            assert name == "io.hypernet.Error.InvalidArgument"
            _, (result, _, _) = await finished(client, images["2.0.0"].path, slot="b")
            assert result == "done"

    run(story())


@pytest.mark.parametrize("other", [{"dry-run": True}, {"arm": False}])
def test_a_reboot_into_what_is_not_armed_is_refused(lab: Lab, other: dict[str, bool]) -> None:
    async def story() -> None:
        async with manager(lab) as client:
            with pytest.raises(bus.RemoteError) as caught:
                await call(client, "Install", "sa{sv}", "/x.img", {"reboot": True, **other})
            assert caught.value.dbus_name == "io.hypernet.Error.InvalidArgument"

    run(story())


def test_a_job_says_whose_it_is_and_since_when(lab: Lab, images: dict[str, BuiltImage]) -> None:
    async def story() -> None:
        async with manager(lab) as client:
            job, _ = await finished(client, images["2.0.0"].path)
            values = await client.get_all(NAME, job, JOB)
            assert (values["Owner"], values["DryRun"], values["Rate"], values["Remaining"]) == (
                "root",
                False,
                0,
                0,
            )
            assert values["Started"] > 0

    run(story())


def test_a_downgrade_needs_an_action_of_its_own(
    both_good: Lab, images: dict[str, BuiltImage], tmp_path: Path
) -> None:
    authority = Authority((True, False))

    async def ask(user: bus.Client, **options: bool) -> str:
        try:
            given = {key.replace("_", "-"): value for key, value in options.items()}
            await call(user, "Install", "sa{sv}", str(tmp_path / "missing.img"), given)
        except bus.RemoteError as error:
            return error.dbus_name
        return "started"

    async def story() -> None:
        async with manager(both_good), connect_unprivileged() as user:
            async with polkit(authority):
                assert await ask(user, allow_downgrade=True) == "started"
                assert [action for _, action, *_ in authority.asked] == [
                    "io.hypernet.SlotManager1.install",
                    "io.hypernet.SlotManager1.downgrade",
                ]
            async with polkit(OnlyInstall((True, False))):
                assert await ask(user, allow_downgrade=True) == "io.hypernet.Error.NotPermitted"

    run(story())


class OnlyInstall(Authority):
    """Allows to install, and nothing else."""

    async def check_authorization(self, *args: Any) -> tuple[tuple[bool, bool, dict[str, str]]]:
        self.answer = (args[1] == "io.hypernet.SlotManager1.install", False)
        return await super().check_authorization(*args)


def test_a_stop_of_the_service_leaves_no_half_written_slot(lab: Lab, images: dict[str, BuiltImage]) -> None:
    async def story() -> None:
        async with manager(lab) as client:
            await call(client, "Install", "sa{sv}", str(images["2.0.0"].path), {})

    run(story())
    assert lab.machine.view().slots["b"].state in ("empty", "armed")
    assert lab.machine.view().record.installing is None


@pytest.mark.parametrize("options", [{"arm": "yes"}, {"force": True}, {"slot": True}])
def test_an_unknown_or_wrong_option_is_refused(lab: Lab, options: dict[str, Any]) -> None:
    async def story() -> None:
        async with manager(lab) as client:
            with pytest.raises(bus.RemoteError) as caught:
                await call(client, "Install", "sa{sv}", "/x.img", options)
            assert caught.value.dbus_name == "io.hypernet.Error.InvalidArgument"

    run(story())
