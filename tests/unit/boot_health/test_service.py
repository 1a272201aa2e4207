# SPDX-License-Identifier: Apache-2.0
"""io.hypernet.BootHealth1 on a private bus: the service, its XML file, its signals, and single checks."""

from __future__ import annotations

import asyncio
import re
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.boot_health import check, report, service, single
from agents.boot_health.announce import announce
from agents.boot_health.engine import CheckResult, Result
from agents.boot_health.report import Report
from agents.boot_health.verdict import State
from common import bus
from tests.fakes import systemd
from tests.fakes.private_bus import private_bus, private_bus_daemon

from .conftest import BOOT_ID, Journal, Tree

__all__ = ["private_bus", "private_bus_daemon"]

XML = Path(__file__).parents[3] / "units/dbus/interfaces/io.hypernet.BootHealth1.xml"
PROPERTIES = "org.freedesktop.DBus.Properties"
API = CheckResult(
    "api", True, Result.FAILED, 1.5, 3, "no answer", "exit status 7", "hypernet-check-api-3.service"
)
SLOW = CheckResult("slow", False, Result.TIMEOUT, 10.0, 1, "", "no answer within 10 s")
FINE = CheckResult("fine", True, Result.PASSED, 0.1, 1)
CHECKING = Report(State.CHECKING, "", BOOT_ID, True, deadline_usec=1_800_000_000_000_000)
FAILED = Report(
    State.FAILED,
    "Required check failed: api (exit status 7, 3 attempts).",
    BOOT_ID,
    True,
    (FINE, API),
    deadline_usec=1_800_000_000_000_000,
    consecutive_failures=2,
)
HEALTHY = Report(State.HEALTHY, "", BOOT_ID, False, (FINE,))
DEGRADED = Report(
    State.DEGRADED, "Check failed: slow (no answer within 10 s, 1 attempt).", BOOT_ID, False, (FINE, SLOW)
)
CHECKS = """health_checks:
  - name: api
    command: /bin/true
"""


async def owned(client: bus.Client) -> bool:
    (there,) = await client.call(
        "org.freedesktop.DBus", "/", "org.freedesktop.DBus", "NameHasOwner", "s", service.NAME
    )
    return bool(there)


@asynccontextmanager
async def running(tree: Tree) -> AsyncIterator[bus.Client]:
    """The service and a client."""
    task = asyncio.create_task(service.serve(tree.places))
    try:
        async with bus.connect() as client, asyncio.timeout(20):
            while not await owned(client):
                assert not task.done()
                await asyncio.sleep(0.01)
            yield client
    finally:
        task.cancel()
        await asyncio.wait([task])


async def properties(client: bus.Client) -> dict[str, Any]:
    return await client.get_all(service.NAME, service.PATH, service.NAME)


@pytest.mark.usefixtures("private_bus")
def test_the_service_shows_the_report(tree: Tree) -> None:
    report.write(tree.places.report, FAILED)

    async def main() -> dict[str, Any]:
        async with running(tree) as client:
            return await properties(client)

    shown = asyncio.run(main())
    assert shown.pop("Checks")[1] == {
        "name": "api",
        "required": True,
        "result": "failed",
        "duration_sec": 1.5,
        "attempts": 3,
        "output": "no answer",
        "unit": "hypernet-check-api-3.service",
    }
    assert shown == {
        "State": "failed",
        "Reason": FAILED.reason,
        "BootId": BOOT_ID,
        "Trial": True,
        "Deadline": 1_800_000_000_000_000,
        "ConsecutiveFailures": 2,
    }


@pytest.mark.usefixtures("private_bus")
def test_before_the_first_check_the_state_is_unknown(tree: Tree) -> None:
    async def main() -> dict[str, Any]:
        async with running(tree) as client:
            return await properties(client)

    assert asyncio.run(main())["State"] == "unknown"


@pytest.mark.usefixtures("private_bus")
def test_a_report_that_cannot_be_understood_is_unknown(tree: Tree, sent: Journal) -> None:
    tree.places.report.write_text('{"state": "fine"}', encoding="utf-8")

    async def main() -> dict[str, Any]:
        async with running(tree) as client:
            return await properties(client)

    assert asyncio.run(main())["State"] == "unknown"
    assert "systemctl restart hypernet-boot-health" in sent.messages[0][1]


async def signals_of(client: bus.Client, new: Any) -> list[tuple[str, tuple[Any, ...]]]:
    """The signals that follow when `new` is called in a thread, PropertiesChanged with sorted names only."""
    async with (
        client.subscribe(service.NAME, sender=service.NAME) as ours,
        client.subscribe(PROPERTIES, "PropertiesChanged", service.PATH, sender=service.NAME) as changed,
    ):
        await asyncio.to_thread(new)
        first = await changed.get()
        await asyncio.sleep(0.2)
        found = [("PropertiesChanged", (*sorted(first.args[1]),))]
        assert first.args[0] == service.NAME
        while not ours.empty():
            signal = ours.get_nowait()
            found.append((signal.member, signal.args))
        return found


@pytest.mark.usefixtures("private_bus")
def test_the_running_service_announces_what_differs_in_a_new_report(tree: Tree) -> None:
    report.write(tree.places.report, CHECKING)

    async def main() -> Any:
        async with running(tree) as client:
            return await signals_of(client, lambda: report.write(tree.places.report, FAILED))

    assert asyncio.run(main()) == [
        ("PropertiesChanged", ("Checks", "ConsecutiveFailures", "Reason", "State")),
        ("HealthChanged", ("failed", FAILED.reason)),
        ("CheckFailed", ("api", "failed", "no answer")),
    ]


@pytest.mark.usefixtures("private_bus")
@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (
            HEALTHY,
            [("HealthChanged", ("healthy", "")), ("BootCompleted", (BOOT_ID, "healthy"))],
        ),
        (
            DEGRADED,
            [
                ("HealthChanged", ("degraded", DEGRADED.reason)),
                ("CheckFailed", ("slow", "timeout", "")),
                ("BootCompleted", (BOOT_ID, "degraded")),
                ("BootDegraded", (DEGRADED.reason,)),
            ],
        ),
        (
            FAILED,
            [
                ("HealthChanged", ("failed", FAILED.reason)),
                ("CheckFailed", ("api", "failed", "no answer")),
            ],
        ),
    ],
    ids=["healthy", "degraded", "failed"],
)
def test_a_new_report_is_announced_without_the_service(
    tree: Tree, new: Report, expected: list[tuple[str, tuple[str, ...]]]
) -> None:
    report.write(tree.places.report, new)

    async def main() -> Any:
        async with bus.connect() as client:
            found = await signals_of(client, lambda: announce(tree.places))
            assert not await owned(client)
            return found

    changed, *found = asyncio.run(main())
    assert changed[1] == tuple(
        sorted(name for kind, name, _ in members(XML.read_text()) if kind == "property")
    )
    assert found == expected


@pytest.mark.usefixtures("private_bus")
@pytest.mark.parametrize(
    ("before", "kept"),
    [
        (CHECKING, replace(CHECKING, state=State.DEGRADED, reason="No verdict.")),
        (FAILED, replace(FAILED, state=State.DEGRADED)),
        (HEALTHY, replace(HEALTHY, state=State.DEGRADED, reason="Another unit failed.")),
    ],
    ids=["without a verdict", "with a failed check", "for another unit's sake"],
)
def test_a_boot_that_did_not_complete_but_is_kept_is_told_as_degraded_only(
    tree: Tree, before: Report, kept: Report
) -> None:
    report.write(tree.places.report, kept)

    async def main() -> Any:
        async with bus.connect() as client:
            return await signals_of(client, lambda: announce(tree.places, before))

    _, *found = asyncio.run(main())
    assert found == [("HealthChanged", ("degraded", kept.reason)), ("BootDegraded", (kept.reason,))]


@pytest.mark.usefixtures("private_bus")
def test_a_running_service_is_asked_to_announce(tree: Tree) -> None:
    report.write(tree.places.report, CHECKING)

    def new() -> None:
        report.write(tree.places.report, HEALTHY)
        announce(tree.places)

    async def main() -> Any:
        async with running(tree) as client:
            return await signals_of(client, new)

    _, *found = asyncio.run(main())
    assert [member for member, _ in found] == ["HealthChanged", "BootCompleted"]


@pytest.mark.usefixtures("private_bus")
def test_no_verdict_is_passed_over_however_fast_the_next_one_comes(tree: Tree) -> None:
    report.write(tree.places.report, CHECKING)

    def new() -> None:
        for each in (HEALTHY, DEGRADED, CHECKING, HEALTHY):
            report.write(tree.places.report, each)
            announce(tree.places)

    async def main() -> Any:
        async with running(tree) as client:
            return await signals_of(client, new)

    told = [args[0] for member, args in asyncio.run(main()) if member == "HealthChanged"]
    assert told == ["healthy", "degraded", "checking", "healthy"]


@pytest.mark.usefixtures("private_bus")
def test_the_service_stays_while_the_checks_run_and_not_much_longer(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "IDLE_EXIT_SEC", 0.05)
    monkeypatch.setattr(service, "POLL_SEC", 0.02)
    report.write(tree.places.report, CHECKING)

    async def main() -> tuple[bool, bool]:
        async with running(tree) as client:
            await asyncio.sleep(0.3)
            before = await owned(client)
            report.write(tree.places.report, HEALTHY)
            await asyncio.sleep(0.5)
            return before, await owned(client)

    assert asyncio.run(main()) == (True, False)


BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")


@pytest.mark.usefixtures("private_bus")
def test_the_service_outlasts_whoever_has_its_name_for_a_moment(tree: Tree) -> None:
    report.write(tree.places.report, HEALTHY)

    async def main() -> Any:
        async with bus.connect() as other:
            await other.call(*BUS, "RequestName", "su", service.NAME, 4)
            task = asyncio.create_task(service.serve(tree.places))
            await asyncio.sleep(0.3)
            assert not task.done()
            await other.call(*BUS, "ReleaseName", "s", service.NAME)
            while not await owned(other):
                await asyncio.sleep(0.01)
            try:
                return await other.get_property(service.NAME, service.PATH, service.NAME, "State")
            finally:
                task.cancel()
                await asyncio.wait([task])

    assert asyncio.run(main()) == "healthy"


@pytest.mark.usefixtures("private_bus")
def test_a_name_that_stays_taken_is_an_error(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "TAKEN_SEC", 0.2)

    async def main() -> None:
        async with bus.connect() as other:
            await other.call(*BUS, "RequestName", "su", service.NAME, 4)
            await service.serve(tree.places)

    with pytest.raises(bus.NameTaken):
        asyncio.run(main())


def test_without_a_bus_the_announcement_is_left_out(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus")
    report.write(tree.places.report, HEALTHY)

    announce(tree.places)


async def run_a_check(tree: Tree, name: str, manager: systemd.Manager) -> Any:
    async with systemd.systemd(manager), running(tree) as client:
        return await client.call(service.NAME, service.PATH, service.NAME, "Run", "s", name)


@pytest.mark.usefixtures("private_bus")
def test_a_single_check_is_run_by_its_own_unit(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.admin(CHECKS)
    manager = systemd.Manager()
    single.folder(tree.places).mkdir()
    # What the unit runs; here it has run before the service asks for it.
    monkeypatch.setattr(check, "run_one", lambda _places, name: replace(API, name=name))
    assert single.run(tree.places, "api") == 0

    (result,) = asyncio.run(run_a_check(tree, "api", manager))
    assert manager.asked == ["start hypernet-boot-health-run@api.service replace"]
    assert (result["name"], result["result"], result["unit"]) == ("api", "failed", API.unit)


@pytest.mark.usefixtures("private_bus")
@pytest.mark.parametrize(
    ("name", "results", "state", "error"),
    [
        ("other", {}, HEALTHY, "InvalidArgument"),
        ("../x", {}, HEALTHY, "InvalidArgument"),
        ("api", {"hypernet-boot-health-run@api.service": "failed"}, HEALTHY, "Failed"),
        ("api", {}, CHECKING, "Busy"),
    ],
    ids=["unknown", "no-name", "not-run", "checking"],
)
def test_a_check_that_cannot_be_run_is_an_error(
    tree: Tree, name: str, results: dict[str, str], state: Report, error: str
) -> None:
    tree.admin(CHECKS)
    report.write(tree.places.report, state)

    with pytest.raises(bus.RemoteError) as raised:
        asyncio.run(run_a_check(tree, name, systemd.Manager(results)))
    assert raised.value.dbus_name == f"io.hypernet.Error.{error}"


def members(text: str) -> set[tuple[str, str, tuple[str, ...]]]:
    """Kind, name, and the types of each member of our interface in introspection data."""
    (interface,) = [
        item for item in ET.fromstring(text).iter("interface") if item.get("name") == service.NAME
    ]
    return {
        (
            item.tag,
            item.get("name", ""),
            (
                item.get("type", ""),
                item.get("access", ""),
                *(arg.get("type", "") for arg in item.iter("arg")),
            ),
        )
        for item in interface
        if item.tag in ("method", "property", "signal")
    }


@pytest.mark.usefixtures("private_bus")
def test_the_running_service_is_what_its_xml_file_says(tree: Tree) -> None:
    async def main() -> str:
        async with running(tree) as client:
            (text,) = await client.call(
                service.NAME, service.PATH, "org.freedesktop.DBus.Introspectable", "Introspect"
            )
            return str(text)

    assert members(asyncio.run(main())) == members(XML.read_text())


def test_the_manual_page_of_the_interface_names_every_member_and_the_action() -> None:
    page = (XML.parents[3] / "packaging/man/io.hypernet.BootHealth1.5").read_text().replace("\\-", "-")
    names = {name for _, name, _ in members(XML.read_text())}

    assert [name for name in names if not re.search(rf"^\.B {name}\b", page, re.MULTILINE)] == []
    assert service.RUN_ACTION in page.split(".SH AUTHORIZATION")[1].split(".SH ERRORS")[0]
