# SPDX-License-Identifier: Apache-2.0
"""An object with members of all kinds, for the tests of common.bus."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Any

from common import bus
from common.errors import AgentError, Busy
from tests.fakes.private_bus import serving

NAME = "io.hypernet.Test1"
PATH = "/io/hypernet/Test1"
SECRET = "swordfish"


class State(StrEnum):
    GOOD = "good"


class Sample(bus.Interface):
    INTERFACE = NAME

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.level = 1

    @bus.method("Add", "xx", "x")
    def add(self, left: int, right: int) -> int:
        return left + right

    @bus.method("Swap", "sx", "xs")
    async def swap(self, text: str, number: int) -> tuple[int, str]:
        return number, text

    @bus.method("Nothing", "", "")
    def nothing(self) -> None:
        return None

    @bus.method("Echo", "a{sv}", "a{sv}")
    def echo(self, values: dict[str, Any]) -> dict[str, Any]:
        return values

    @bus.method("Types", "", "v")
    def types(self) -> Any:
        return {
            "flag": True,
            "number": 5,
            "ratio": 0.5,
            "text": "grün",
            "words": ["a", "b"],
            "none": [],
            "nested": {"inner": 1},
            "state": State.GOOD,
            "small": bus.Variant("y", 7),
            "data": b"\0\1",
        }

    @bus.method("WhoSlowly", "d", "s")
    async def who_slowly(self, delay_sec: float) -> str:
        await asyncio.sleep(delay_sec)
        return bus.caller()

    @bus.method("Crash", "", "")
    def crash(self) -> None:
        raise ValueError(SECRET)

    @bus.method("CrashLater", "", "")
    async def crash_later(self) -> None:
        await asyncio.sleep(0)
        raise ValueError(SECRET)

    @bus.method("WrongType", "", "x")
    def wrong_type(self) -> Any:
        return SECRET

    @bus.method("Refuse", "", "")
    async def refuse(self) -> None:
        raise Busy("An installation is running; wait for its end.")

    @bus.method("Wait", "", "")
    async def wait(self) -> None:
        self.entered.set()
        await asyncio.Event().wait()

    @bus.method("Dirty", "", "s")
    def dirty(self) -> str:
        return "a\0b\udc80c"

    @bus.prop("Level", "x")
    def get_level(self) -> int:
        return self.level

    @bus.prop("Slots", "aa{sv}")
    def slots(self) -> list[dict[str, Any]]:
        return [{"name": "a", "booted": True}]

    @bus.signal("LevelReached", "xs")
    def level_reached(self, level: int, reason: str = "asked") -> None:
        """The level was reached."""


class Faulty(bus.Interface):
    INTERFACE = "io.hypernet.Faulty1"

    @bus.prop("Broken", "s")
    def broken(self) -> str:
        raise ValueError(SECRET)

    @bus.prop("Unknown", "s")
    def unknown(self) -> str:
        raise AgentError("The disk is gone; attach it.")

    @bus.prop("Fine", "s")
    def fine(self) -> str:
        return "yes"


def setup(service: bus.Service) -> None:
    service.export(PATH, Sample())
    service.export(PATH, Faulty())


def call(member: str, signature: str = "", *args: Any, interface: str = NAME) -> tuple[Any, ...]:
    """Call a method of a service that lives for this one call."""

    async def main() -> tuple[Any, ...]:
        async with serving(NAME, setup), bus.connect() as client:
            return await client.call(NAME, PATH, interface, member, signature, *args)

    return asyncio.run(main())
