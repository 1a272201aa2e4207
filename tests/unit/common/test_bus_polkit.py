# SPDX-License-Identifier: Apache-2.0
"""Who may call a guarded method."""

from __future__ import annotations

import asyncio
import os
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

import pytest

from common import bus
from common.bus import _polkit
from tests.fakes.polkit import Authority, polkit
from tests.fakes.private_bus import connect_unprivileged, serving

NAME = "io.hypernet.Test1"
PATH = "/io/hypernet/Test1"
ACTION = "io.hypernet.Test1.change"
SECOND_ACTION = "io.hypernet.Test1.change-much"

pytestmark = pytest.mark.usefixtures("private_bus")


class Guarded(bus.Interface):
    INTERFACE = NAME

    def __init__(self) -> None:
        self.changes = 0

    @bus.method("Change", "", "", action=ACTION)
    def change(self) -> None:
        self.changes += 1

    @bus.method("ChangeMuch", "", "", action=ACTION)
    async def change_much(self) -> None:
        await bus.require(SECOND_ACTION)
        self.changes += 10

    @bus.method("Look", "", "s")
    def look(self) -> str:
        return "seen"


async def change(
    client: AbstractAsyncContextManager[bus.Client], guarded: Guarded, *, interactive: bool = False
) -> None:
    async with serving(NAME, lambda service: service.export(PATH, guarded)), client as caller:
        await caller.call(NAME, PATH, NAME, "Change", interactive=interactive)


def assert_refused(authority: Authority | None, sentence: str, *, interactive: bool = False) -> None:
    guarded = Guarded()

    async def main() -> None:
        async with polkit(authority) if authority else nullcontext():
            await change(connect_unprivileged(), guarded, interactive=interactive)

    with pytest.raises(bus.RemoteError, match=sentence) as caught:
        asyncio.run(main())
    assert caught.value.dbus_name == "io.hypernet.Error.NotPermitted"
    assert caught.value.exit_status == 4
    assert guarded.changes == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_is_not_asked_and_needs_no_polkit() -> None:
    guarded = Guarded()
    asyncio.run(change(bus.connect(), guarded))
    assert guarded.changes == 1


def test_a_user_whom_polkit_allows_may_call() -> None:
    authority = Authority((True, False))
    guarded = Guarded()

    async def main() -> None:
        async with polkit(authority):
            await change(connect_unprivileged(), guarded)

    asyncio.run(main())
    assert guarded.changes == 1
    ((subject, action, details, flags, cancellation_id),) = authority.asked
    assert subject[0] == "system-bus-name"
    assert subject[1]["name"].startswith(":")
    assert (action, details, flags, cancellation_id) == (ACTION, {}, 0, "")


def test_a_user_whom_polkit_denies_is_refused() -> None:
    assert_refused(Authority((False, False)), "do this as root or ask an administrator")


def test_a_challenge_refuses_a_caller_who_cannot_be_asked() -> None:
    authority = Authority((False, True))
    assert_refused(authority, "a password is needed")
    assert authority.asked[0][3] == 0


def test_a_caller_who_can_be_asked_is_asked() -> None:
    authority = Authority((True, False))

    async def main() -> None:
        async with polkit(authority):
            await change(connect_unprivileged(), Guarded(), interactive=True)

    asyncio.run(main())
    assert authority.asked[0][3] == 1


def test_a_caller_who_was_asked_in_vain_is_refused() -> None:
    assert_refused(Authority((False, True)), "do this as root or ask", interactive=True)


def test_without_polkit_only_root_is_left() -> None:
    assert_refused(None, "polkit did not answer; do this as root")


def test_a_polkit_that_hangs_refuses_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_polkit, "TIMEOUT_SEC", 0.05)
    assert_refused(Authority((True, False), hangs=True), "polkit did not answer")


def test_reading_is_free() -> None:
    async def main() -> None:
        async with (
            serving(NAME, lambda service: service.export(PATH, Guarded())),
            connect_unprivileged() as client,
        ):
            assert await client.call(NAME, PATH, NAME, "Look") == ("seen",)

    asyncio.run(main())


def test_a_second_action_is_asked_for_the_same_caller_in_the_same_way() -> None:
    authority = Authority((True, False))
    guarded = Guarded()

    async def main() -> None:
        async with (
            polkit(authority),
            serving(NAME, lambda service: service.export(PATH, guarded)),
            connect_unprivileged() as client,
        ):
            await client.call(NAME, PATH, NAME, "ChangeMuch", interactive=True)

    asyncio.run(main())
    assert guarded.changes == 10
    first, second = authority.asked
    assert (first[1], second[1]) == (ACTION, SECOND_ACTION)
    assert (first[0], first[3]) == (second[0], second[3])


def test_a_method_does_nothing_if_its_second_action_is_refused() -> None:
    class OnlyTheFirst(Authority):
        async def check_authorization(self, *args: Any) -> tuple[tuple[bool, bool, dict[str, str]]]:
            self.answer = (args[1] == ACTION, False)
            return await super().check_authorization(*args)

    guarded = Guarded()

    async def main() -> None:
        async with (
            polkit(OnlyTheFirst((True, False))),
            serving(NAME, lambda service: service.export(PATH, guarded)),
            connect_unprivileged() as client,
        ):
            await client.call(NAME, PATH, NAME, "ChangeMuch")

    with pytest.raises(bus.RemoteError, match=SECOND_ACTION) as caught:
        asyncio.run(main())
    assert caught.value.dbus_name == "io.hypernet.Error.NotPermitted"
    assert guarded.changes == 0


def test_outside_of_a_method_there_is_nobody_to_ask_about() -> None:
    with pytest.raises(LookupError):
        asyncio.run(bus.require(ACTION))
