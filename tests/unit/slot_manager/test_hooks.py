# SPDX-License-Identifier: Apache-2.0
"""What units of other agents do before and after an update, with a stand-in for systemd on a real bus."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from agents.slot_manager import hooks, messages
from agents.slot_manager.errors import PreUpdateFailed
from common import bus, journal
from common.errors import AgentError, Cancelled
from tests.fakes.private_bus import private_bus, private_bus_daemon  # noqa: F401
from tests.fakes.systemd import Manager, systemd

pytestmark = pytest.mark.usefixtures("private_bus")


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 30))


async def pre_update(manager: Manager, **units: list[str]) -> None:
    async with systemd(manager, **units), bus.connect() as client:
        await hooks.pre_update(client, threading.Event())


def test_the_preparations_are_awaited() -> None:
    manager = Manager()
    run(pre_update(manager))
    assert manager.asked == ["start hypernet-pre-update.target replace"]


def test_a_failed_unit_is_named_with_the_command_that_explains_it() -> None:
    manager = Manager({hooks.PRE_UPDATE: "dependency"}, failed=["b.service", "c.service", "w.service"])
    units = {"requires": ["a.service", "b.service", "c.service"], "wants": ["w.service"]}
    with pytest.raises(PreUpdateFailed) as caught:
        run(pre_update(manager, **units))
    assert str(caught.value) == (
        "b.service and c.service failed before the update, so nothing was written; see 'systemctl status "
        "b.service c.service' and try again."
    )
    assert (caught.value.dbus_name, caught.value.exit_status) == ("io.hypernet.Error.PreUpdateFailed", 25)


def test_a_failure_without_a_failed_unit_names_the_result() -> None:
    with pytest.raises(PreUpdateFailed, match=r"was not reached \(timeout\), so nothing was written"):
        run(pre_update(Manager({hooks.PRE_UPDATE: "timeout"}), requires=["a.service"]))


def test_a_unit_that_is_only_wanted_is_named_if_no_other_failed() -> None:
    manager = Manager({hooks.PRE_UPDATE: "timeout"}, failed=["w.service"])
    with pytest.raises(PreUpdateFailed, match=r"^w\.service failed before the update"):
        run(pre_update(manager, requires=["a.service"], wants=["w.service"]))


def test_an_update_does_not_go_on_without_systemd() -> None:
    async def story() -> None:
        async with bus.connect() as client:
            await hooks.pre_update(client, threading.Event())

    with pytest.raises(PreUpdateFailed, match="could not be started, so nothing was written"):
        run(story())


def test_an_update_does_not_go_on_without_the_target() -> None:
    with pytest.raises(PreUpdateFailed, match=r"Unit hypernet-pre-update\.target not found"):
        run(pre_update(Manager(missing=[hooks.PRE_UPDATE])))


def test_a_cancelled_job_does_not_wait_for_its_preparations() -> None:
    manager, cancelled = Manager(endless=[hooks.PRE_UPDATE]), threading.Event()

    async def story() -> None:
        async with systemd(manager), bus.connect() as client:
            asyncio.get_running_loop().call_later(0.1, cancelled.set)
            await hooks.pre_update(client, cancelled)

    with pytest.raises(Cancelled):
        run(story())
    assert manager.asked[-1] == "stop hypernet-pre-update.target replace"


def test_failed_work_after_an_update_is_only_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(journal, "send", lambda text, **fields: told.append((text, fields)))

    async def story() -> None:
        manager = Manager({hooks.POST_UPDATE: "dependency"}, failed=["x.service"])
        async with systemd(manager, requires=["x.service"]), bus.connect() as client:
            await hooks.post_update(client, "b")
            await hooks.post_update(client, "b")

    run(story())
    assert len(told) == 2
    text, fields = told[0]
    assert text == (
        "Work after the update of slot b failed, the update itself stands: x.service failed (dependency)."
    )
    assert (fields["message_id"], fields["slot"]) == (messages.POST_UPDATE_FAILED, "b")


def test_work_after_an_update_that_cannot_be_started_is_only_logged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    monkeypatch.setattr(journal, "send", lambda text, **fields: told.append(text))

    async def story() -> None:
        async with bus.connect() as client:
            await hooks.post_update(client, "b")

    run(story())
    (text,) = told
    assert "the update itself stands" in text


def test_a_reboot_is_queued_so_that_nothing_replaces_it() -> None:
    manager = Manager()

    async def story() -> None:
        async with systemd(manager), bus.connect() as client:
            await hooks.reboot(client)

    run(story())
    assert manager.asked == ["start reboot.target replace-irreversibly"]


def test_a_reboot_that_systemd_refuses_is_an_error() -> None:
    async def story() -> None:
        async with systemd(Manager(missing=["reboot.target"])), bus.connect() as client:
            await hooks.reboot(client)

    with pytest.raises(AgentError, match="not found"):
        run(story())
