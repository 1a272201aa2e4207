# SPDX-License-Identifier: Apache-2.0
"""Methods of a served object, as their callers see them."""

from __future__ import annotations

import asyncio
import logging

import pytest

from common import bus, journal
from tests.fakes.private_bus import serving
from tests.unit.common.sample import NAME, PATH, SECRET, Sample, call, setup


def error_of(member: str) -> bus.RemoteError:
    with pytest.raises(bus.RemoteError) as caught:
        call(member)
    return caught.value


def test_a_decorated_method_can_be_called_directly() -> None:
    async def main() -> None:
        sample = Sample()
        assert sample.add(2, 3) == 5
        assert await sample.swap("x", 1) == (1, "x")
        assert sample.slots() == [{"name": "a", "booted": True}]
        sample.level_reached(3)
        sample.changed("Level")

    asyncio.run(main())


@pytest.mark.usefixtures("private_bus")
def test_plain_and_async_methods_answer_one_and_several_values() -> None:
    assert call("Add", "xx", 2, 3) == (5,)
    assert call("Swap", "sx", "text", 7) == (7, "text")


@pytest.mark.usefixtures("private_bus")
def test_a_method_annotated_to_return_none_is_served() -> None:
    assert call("Nothing") == ()


@pytest.mark.usefixtures("private_bus")
def test_values_in_variants_arrive_as_plain_python_values() -> None:
    assert call("Types") == (
        {
            "flag": True,
            "number": 5,
            "ratio": 0.5,
            "text": "grün",
            "words": ["a", "b"],
            "none": [],
            "nested": {"inner": 1},
            "state": "good",
            "small": 7,
            "data": b"\0\1",
        },
    )


@pytest.mark.usefixtures("private_bus")
def test_options_of_the_caller_arrive_as_plain_python_values() -> None:
    options = {"arm": True, "hosts": ["a"], "rate": bus.Variant("u", 9)}
    assert call("Echo", "a{sv}", options) == ({"arm": True, "hosts": ["a"], "rate": 9},)


@pytest.mark.usefixtures("private_bus")
def test_text_that_the_bus_refuses_is_replaced_and_the_connection_stays() -> None:
    assert call("Dirty") == ("a\ufffdb?c",)


@pytest.mark.usefixtures("private_bus")
def test_two_callers_at_once_are_told_apart() -> None:
    async def main() -> None:
        async with serving(NAME, setup), bus.connect() as first, bus.connect() as second:
            answers = await asyncio.gather(
                first.call(NAME, PATH, NAME, "WhoSlowly", "d", 0.06),
                second.call(NAME, PATH, NAME, "WhoSlowly", "d", 0.03),
                first.call(NAME, PATH, NAME, "WhoSlowly", "d", 0.0),
            )
            names = [first._connection.unique_name, second._connection.unique_name]
            assert list(answers) == [(names[0],), (names[1],), (names[0],)]

    asyncio.run(main())


def test_there_is_no_caller_outside_of_a_method() -> None:
    with pytest.raises(LookupError):
        bus.caller()


@pytest.mark.usefixtures("private_bus")
@pytest.mark.parametrize("member", ["Crash", "CrashLater", "WrongType"])
def test_a_defect_reaches_the_caller_without_its_text_and_traceback(member: str) -> None:
    journal.setup("slot-manager")
    error = error_of(member)
    assert error.dbus_name == "io.hypernet.Error.Internal"
    assert error.exit_status == 70
    assert str(error) == (
        "Internal error in slot-manager; see 'journalctl -t hypernet-slot-manager' for details."
    )


@pytest.mark.usefixtures("private_bus")
def test_the_details_of_a_defect_are_in_our_journal(caplog: pytest.LogCaptureFixture) -> None:
    error_of("Crash")
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert SECRET in str(record.exc_info[1])


@pytest.mark.usefixtures("private_bus")
def test_an_expected_error_keeps_its_name_and_sentence() -> None:
    error = error_of("Refuse")
    assert error.dbus_name == "io.hypernet.Error.Busy"
    assert error.exit_status == 10
    assert error.message == "An installation is running; wait for its end."


@pytest.mark.usefixtures("private_bus")
def test_an_expected_error_is_not_logged_as_a_defect(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    error_of("Refuse")
    ours = [record for record in caplog.records if "Refuse" in record.getMessage()]
    assert [(record.levelno, record.exc_info) for record in ours] == [(logging.INFO, None)]
    assert max(record.levelno for record in caplog.records) == logging.INFO


@pytest.mark.usefixtures("private_bus")
def test_a_call_that_is_cut_off_by_the_stop_is_answered() -> None:
    async def main() -> None:
        sample = Sample()
        async with bus.connect() as client:
            async with serving(NAME, lambda service: service.export(PATH, sample)):
                pending = asyncio.create_task(client.call(NAME, PATH, NAME, "Wait"))
                await sample.entered.wait()
            with pytest.raises(bus.RemoteError, match="was cancelled") as caught:
                await pending
            assert caught.value.dbus_name == "io.hypernet.Error.Cancelled"

    asyncio.run(main())


@pytest.mark.usefixtures("private_bus")
@pytest.mark.parametrize(
    ("path", "interface", "member", "signature", "error"),
    [
        (PATH, NAME, "Missing", "", "UnknownMethod"),
        (PATH, NAME, "Add", "", "InvalidArgs"),
        (PATH, "io.hypernet.Other1", "Add", "", "UnknownInterface"),
        ("/elsewhere", NAME, "Add", "", "UnknownObject"),
        ("/elsewhere", "org.freedesktop.DBus.Introspectable", "Introspect", "", "UnknownObject"),
        (PATH, "org.freedesktop.DBus.Properties", "Get", "", "UnknownMethod"),
    ],
)
def test_a_wrong_call_gets_the_standard_error(
    path: str, interface: str, member: str, signature: str, error: str
) -> None:
    async def main() -> None:
        async with serving(NAME, setup), bus.connect() as client:
            with pytest.raises(bus.RemoteError) as caught:
                await client.call(NAME, path, interface, member, signature)
            assert caught.value.dbus_name == f"org.freedesktop.DBus.Error.{error}"

    asyncio.run(main())


@pytest.mark.usefixtures("private_bus")
def test_a_call_that_names_no_interface_finds_the_method() -> None:
    async def main() -> None:
        async with serving(NAME, setup), bus.connect() as client:
            assert await client.call(NAME, PATH, None, "Add", "xx", 2, 3) == (5,)  # type: ignore[arg-type]

    asyncio.run(main())
