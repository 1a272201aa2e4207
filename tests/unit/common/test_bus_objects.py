# SPDX-License-Identifier: Apache-2.0
"""Properties, signals and introspection of a served object, as its callers see them."""

from __future__ import annotations

import asyncio
from typing import Any
from xml.etree import ElementTree

import pytest

from common import bus
from tests.fakes.private_bus import serving
from tests.unit.common.sample import NAME, PATH, Faulty, Sample, call, setup


@pytest.mark.usefixtures("private_bus")
def test_properties_are_read_alone_and_together_and_cannot_be_set() -> None:
    async def main() -> None:
        async with serving(NAME, setup), bus.connect() as client:
            assert await client.get_property(NAME, PATH, NAME, "Level") == 1
            assert await client.get_property(NAME, PATH, "", "Level") == 1
            everything = {"Level": 1, "Slots": [{"name": "a", "booted": True}]}
            assert await client.get_all(NAME, PATH, NAME) == everything
            with pytest.raises(bus.RemoteError, match="cannot be set"):
                await client.call(
                    NAME, PATH, "org.freedesktop.DBus.Properties", "Set", "ssv", NAME, "Level", 2
                )
            with pytest.raises(bus.RemoteError, match="no property Levle"):
                await client.get_property(NAME, PATH, NAME, "Levle")

    asyncio.run(main())


@pytest.mark.usefixtures("private_bus")
def test_one_property_that_fails_does_not_hide_the_others(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving(NAME, setup), bus.connect() as client:
            assert await client.get_all(NAME, PATH, "io.hypernet.Faulty1") == {"Fine": "yes"}
            with pytest.raises(bus.RemoteError, match=r"^Internal error"):
                await client.get_property(NAME, PATH, "io.hypernet.Faulty1", "Broken")

    asyncio.run(main())
    expected = [entry for entry in caplog.records if "The disk is gone" in entry.getMessage()]
    assert [entry.levelname for entry in expected] == ["WARNING"]
    assert expected[0].exc_info is None


@pytest.mark.usefixtures("private_bus")
def test_signals_and_property_changes_arrive_with_their_values() -> None:
    async def main() -> None:
        sample = Sample()
        async with (
            serving(NAME, lambda service: service.export(PATH, sample)),
            bus.connect() as client,
            client.subscribe(NAME, sender=NAME) as signals,
            client.subscribe("org.freedesktop.DBus.Properties", path=PATH) as changes,
        ):
            sample.level_reached(4)
            sample.level = 9
            sample.changed("Level")
            signal = await asyncio.wait_for(signals.get(), 5)
            assert signal == bus.Signal(PATH, "LevelReached", (4, "asked"))
            change = await asyncio.wait_for(changes.get(), 5)
            assert change.args == (NAME, {"Level": 9}, [])
            assert signals.empty()

    asyncio.run(main())


@pytest.mark.usefixtures("private_bus")
def test_an_object_on_two_paths_signals_from_both_until_it_is_removed() -> None:
    async def main() -> None:
        sample = Sample()
        async with serving(NAME, lambda service: service.export("/one", sample)) as server:
            server.service.export("/two", sample)
            async with bus.connect() as client, client.subscribe(NAME) as signals:
                sample.level_reached(1)
                server.service.unexport("/one")
                sample.level_reached(2)
                found = [(await asyncio.wait_for(signals.get(), 5)) for _ in range(3)]
                assert [(s.path, s.args[0]) for s in found] == [("/one", 1), ("/two", 1), ("/two", 2)]
                with pytest.raises(bus.RemoteError, match="no object /one"):
                    await client.call(NAME, "/one", NAME, "Nothing")

    asyncio.run(main())


def test_a_misspelt_property_name_is_an_error_not_an_empty_change() -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="has no property Levle"):
            Sample().changed("Level", "Levle")

    asyncio.run(main())


def test_a_signal_with_a_wrong_type_is_an_error_even_when_nobody_listens() -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="INT64"):
            Sample().level_reached("four")  # type: ignore[arg-type]

    asyncio.run(main())


def test_a_declaration_that_does_not_fit_its_function_is_refused() -> None:
    with pytest.raises(TypeError, match="1 arguments do not fit 'ss'"):

        @bus.method("Take", "ss", "")
        def take(self: Any, one: str) -> None: ...


def test_two_members_of_one_name_are_refused() -> None:
    with pytest.raises(TypeError, match="same name"):

        class Twice(bus.Interface):
            @bus.prop("Same", "s")
            def one(self) -> str:
                return ""

            @bus.prop("Same", "s")
            def two(self) -> str:
                return ""


@pytest.mark.usefixtures("private_bus")
def test_the_running_service_introspects_what_was_declared() -> None:
    (text,) = call("Introspect", interface="org.freedesktop.DBus.Introspectable")
    node = ElementTree.fromstring(text)
    (interface,) = [item for item in node.iter("interface") if item.get("name") == NAME]
    swap = interface.find("method[@name='Swap']")
    assert swap is not None
    assert [dict(argument.items()) for argument in swap] == [
        {"name": "text", "type": "s", "direction": "in"},
        {"name": "number", "type": "x", "direction": "in"},
        {"type": "x", "direction": "out"},
        {"type": "s", "direction": "out"},
    ]
    level = interface.find("property[@name='Level']")
    assert level is not None
    assert dict(level.items()) == {"name": "Level", "type": "x", "access": "read"}
    reached = interface.find("signal[@name='LevelReached']")
    assert reached is not None
    assert [argument.get("type") for argument in reached] == ["x", "s"]


@pytest.mark.usefixtures("private_bus")
def test_a_tree_of_objects_can_be_walked_from_the_root() -> None:
    async def main() -> None:
        async with serving(NAME, setup) as server, bus.connect() as client:
            server.service.export(PATH + "/job/1", Faulty())
            server.service.export("/io/hypernet/Test12", Faulty())
            found = {}
            for path in ("/", "/io/hypernet", PATH, PATH + "/job"):
                (text,) = await client.call(NAME, path, "org.freedesktop.DBus.Introspectable", "Introspect")
                found[path] = [node.get("name") for node in ElementTree.fromstring(text).findall("node")]
            assert found == {
                "/": ["io"],
                "/io/hypernet": ["Test1", "Test12"],
                PATH: ["job"],
                PATH + "/job": ["1"],
            }

    asyncio.run(main())
