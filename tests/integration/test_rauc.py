# SPDX-License-Identifier: Apache-2.0
"""The slots driven through RAUC's D-Bus interface, by a client that knows nothing but that."""

import json
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration import interfaces
from tests.integration.machine import Machine
from tests.integration.root_tree import TOP, USER
from tests.integration.server import Server
from tests.integration.slots import ReleaseMaker, SlotDisk

UNIT = "hypernet-rauc.service"
LINK = "etc/systemd/system/dbus-de.pengutronix.rauc.service"
OBJECT = ("de.pengutronix.rauc", "/")
INTERFACE = "de.pengutronix.rauc.Installer"
XML = TOP / f"units/dbus/interfaces/{INTERFACE}.xml"

PUBLISHED = {
    "method Install": (None, None, [("in", "s")]),
    "method InstallBundle": (None, None, [("in", "s"), ("in", "a{sv}")]),
    "method Info": (None, None, [("in", "s"), ("out", "s"), ("out", "s")]),
    "method InspectBundle": (None, None, [("in", "s"), ("in", "a{sv}"), ("out", "a{sv}")]),
    "method Mark": (None, None, [("in", "s"), ("in", "s"), ("out", "s"), ("out", "s")]),
    "method GetSlotStatus": (None, None, [("out", "a(sa{sv})")]),
    "method GetArtifactStatus": (None, None, [("out", "aa{sv}")]),
    "method GetPrimary": (None, None, [("out", "s")]),
    "property Operation": ("s", "read", []),
    "property LastError": ("s", "read", []),
    "property Progress": ("(isi)", "read", []),
    "property Compatible": ("s", "read", []),
    "property Variant": ("s", "read", []),
    "property SystemVersion": ("s", "read", []),
    "property BootSlot": ("s", "read", []),
    "signal Completed": (None, None, [("out", "i")]),
}
"""What RAUC publishes as src/de.pengutronix.rauc.Installer.xml."""

CLIENT = """
import asyncio, json, sys
sys.path.insert(0, "/usr/lib/hypernet")
from common import bus
NAME, PATH, INTERFACE = "de.pengutronix.rauc", "/", "de.pengutronix.rauc.Installer"
PROPERTIES = "org.freedesktop.DBus.Properties"

async def main(source):
    seen = []
    async with (
        bus.connect() as client,
        client.subscribe(PROPERTIES, "PropertiesChanged", PATH, sender=NAME) as changes,
        client.subscribe(INTERFACE, "Completed", PATH, sender=NAME) as completed,
    ):
        await client.get_all(NAME, PATH, INTERFACE)
        if source:
            await client.call(NAME, PATH, INTERFACE, "InstallBundle", "sa{sv}", source, {})
            seen.append(["Operation", await client.get_property(NAME, PATH, INTERFACE, "Operation")])
        else:
            print("listening", flush=True)
        result = (await asyncio.wait_for(completed.get(), 60)).args[0]
        now = await client.get_all(NAME, PATH, INTERFACE)
        while not changes.empty():
            seen += [list(each) for each in changes.get_nowait().args[1].items()]
    return {"result": result, "seen": seen, "now": now}

print(json.dumps(asyncio.run(main(sys.argv[1]))))
"""
"""Install a bundle, or listen if there is none to install, as a program written for RAUC would do."""


@pytest.fixture(scope="module")
def server(machine: Machine, slot_disk: SlotDisk, releases: ReleaseMaker) -> Iterator[Server]:
    """A running machine with a good 0.1.0 in slot a, an empty slot b, and RAUC's interface disabled."""
    server = Server(machine, slot_disk, releases)
    assert server.switch_on() == "a"
    yield server
    (machine.root / LINK).unlink(missing_ok=True)


def call(server: Server, member: str, *arguments: str, user: str = "root") -> Any:
    """Call a method with busctl and return what it answers."""
    output = server.machine.output(
        "busctl", "--json=short", "call", *OBJECT, INTERFACE, member, *arguments, user=user
    )
    return json.loads(output)["data"] if output else []


def get(server: Server, name: str) -> Any:
    output = server.machine.output("busctl", "--json=short", "get-property", *OBJECT, INTERFACE, name)
    return json.loads(output)["data"]


def error(server: Server, member: str, *arguments: str, user: str = "root") -> str:
    """Call a method that has to fail and return the sentence."""
    result = server.machine.run("busctl", "call", *OBJECT, INTERFACE, member, *arguments, user=user)
    assert result.returncode != 0
    return result.stderr.removeprefix("Call failed: ").rstrip("\n")


def slot_status(server: Server, name: str) -> dict[str, Any]:
    (slots,) = call(server, "GetSlotStatus")
    return {key: value["data"] for key, value in dict(slots)[name].items()}


def wait_until_idle(server: Server) -> None:
    deadline = time.monotonic() + 60
    while get(server, "Operation") != "idle":
        assert time.monotonic() < deadline
        time.sleep(0.1)


def run_client(server: Server, source: str, *, user: str = "root") -> dict[str, Any]:
    output = server.machine.output("/usr/bin/python3", "-I", "-", source, user=user, stdin=CLIENT)
    values: dict[str, Any] = json.loads(output)
    return values


# Each test goes on where the one before it ended.


def test_interface_is_off_until_an_administrator_enables_it(server: Server) -> None:
    refused = server.machine.run("busctl", "call", *OBJECT, INTERFACE, "GetPrimary")
    assert refused.returncode != 0

    server.machine.output("systemctl", "enable", UNIT)

    assert call(server, "GetPrimary") == ["rootfs.0"]


def test_documented_interface_is_the_one_that_rauc_publishes() -> None:
    assert interfaces.documented(INTERFACE) == PUBLISHED


def test_running_interface_is_the_one_that_is_documented(server: Server) -> None:
    xml = server.machine.output("busctl", "introspect", "--xml-interface", *OBJECT)

    assert interfaces.shown(xml, INTERFACE) == interfaces.documented(INTERFACE)


def members(kind: str) -> list[ET.Element]:
    return list(ET.parse(XML).getroot().iter(kind))


@pytest.mark.parametrize("member", members("property"), ids=lambda member: str(member.get("name")))
def test_property_of_the_interface_file_has_its_type(server: Server, member: ET.Element) -> None:
    name = str(member.get("name"))
    output = server.machine.output(
        "busctl", "--json=short", "get-property", *OBJECT, INTERFACE, name, user=USER
    )

    assert json.loads(output)["type"] == member.get("type")


@pytest.mark.parametrize("member", members("method"), ids=lambda member: str(member.get("name")))
def test_method_of_the_interface_file_answers_with_its_type(server: Server, member: ET.Element) -> None:
    values = {
        "source": [server.offer(server.releases.get("0.1.0"))],
        "bundle": [server.offer(server.releases.get("0.1.0"))],
        "args": ["0"],
        "state": ["good"],
        "slot_identifier": ["booted"],
    }
    arguments = [arg for arg in member.findall("arg") if arg.get("direction") == "in"]
    given = [value for arg in arguments for value in values[str(arg.get("name"))]]
    signature = ["".join(str(arg.get("type")) for arg in arguments)] if arguments else []
    wait_until_idle(server)

    output = server.machine.output(
        "busctl",
        "--json=short",
        "call",
        *OBJECT,
        INTERFACE,
        str(member.get("name")),
        *signature,
        *given,
    )

    declared = "".join(
        str(arg.get("type")) for arg in member.findall("arg") if arg.get("direction") == "out"
    )
    assert (json.loads(output)["type"] if output else "") == declared


def test_running_version_is_refused_and_completed_tells_it(server: Server) -> None:
    wait_until_idle(server)

    client = run_client(server, server.offer(server.releases.get("0.1.0")))

    assert client["result"] == 1
    assert client["now"]["LastError"].endswith(".")
    assert client["now"]["Operation"] == "idle"


def test_image_is_inspected_in_the_shape_that_rauc_gives_it(server: Server) -> None:
    (info,) = call(server, "InspectBundle", "sa{sv}", server.offer(server.releases.get("0.2.0")), "0")

    # In two variants, as RAUC wraps it.
    assert info["update"] == {
        "type": "v",
        "data": {
            "type": "a{sv}",
            "data": {
                "compatible": {"type": "s", "data": "hypernet"},
                "version": {"type": "s", "data": "0.2.0"},
            },
        },
    }
    (image,) = info["images"]["data"]["data"]
    assert (image["slot-class"]["data"], image["size"]["type"]) == ("rootfs", "t")


def test_image_that_nobody_trusts_is_not_inspected(server: Server, tmp_path: Path) -> None:
    stranger = server.offer(ReleaseMaker(tmp_path).get("0.2.0"))

    assert error(server, "Info", "s", stranger).endswith(".")


def test_compatible_is_the_product_of_the_images(server: Server) -> None:
    image = server.offer(server.releases.get("0.2.0"))

    assert call(server, "Info", "s", image) == [get(server, "Compatible"), "0.2.0"]


def test_client_that_knows_only_rauc_installs_an_image(server: Server) -> None:
    client = run_client(server, server.offer(server.releases.get("0.2.0")))

    assert client["result"] == 0
    assert client["seen"][0] == ["Operation", "installing"]
    steps = [value for name, value in client["seen"] if name == "Progress"]
    assert steps[0] == [0, "Installing", 1]
    assert steps[-1] == [100, "Installing done.", 1]
    assert {"Copying image to rootfs.1", "Copying image to rootfs.1 done."} <= {step[1] for step in steps}
    percents = [step[0] for step in steps]
    assert percents == sorted(percents)
    assert (client["now"]["Operation"], client["now"]["LastError"]) == ("idle", "")


def test_installed_slot_is_the_primary_one(server: Server) -> None:
    assert call(server, "GetPrimary") == ["rootfs.1"]
    slot = slot_status(server, "rootfs.1")
    assert (slot["state"], slot["boot-status"], slot["status"]) == ("inactive", "good", "ok")
    assert (slot["bundle.compatible"], slot["bundle.version"]) == ("hypernet", "0.2.0")
    assert slot["installed.timestamp"] <= slot["activated.timestamp"]
    assert slot_status(server, "rootfs.0")["state"] == "booted"


def test_running_slot_is_activated_again_and_the_other_one_after_that(server: Server) -> None:
    assert call(server, "Mark", "ss", "active", "booted") == ["rootfs.0", "activated slot rootfs.0"]
    assert call(server, "GetPrimary") == ["rootfs.0"]
    assert server.slot("b")["state"] == "staged"

    assert call(server, "Mark", "ss", "active", "rootfs.1") == ["rootfs.1", "activated slot rootfs.1"]
    assert call(server, "GetPrimary") == ["rootfs.1"]


def test_new_version_runs_after_a_reboot(server: Server) -> None:
    assert server.reboot() == "b"

    assert (get(server, "BootSlot"), get(server, "SystemVersion")) == ("b", "0.2.0")
    assert call(server, "Mark", "ss", "good", "booted") == ["rootfs.1", "marked slot rootfs.1 as good"]


def test_installation_by_hypernet_admin_is_told_to_clients_that_listen(server: Server) -> None:
    get(server, "Operation")
    server.update("0.3.0")
    wait_until_idle(server)

    assert get(server, "Progress") == [100, "Installing done.", 1]
    assert slot_status(server, "rootfs.0")["bundle.version"] == "0.3.0"


def test_slot_that_is_marked_bad_is_not_booted(server: Server) -> None:
    assert call(server, "Mark", "ss", "bad", "other") == ["rootfs.0", "marked slot rootfs.0 as bad"]

    assert slot_status(server, "rootfs.0")["boot-status"] == "bad"
    assert call(server, "GetPrimary") == ["rootfs.1"]
    assert "RAUC" in server.slot("a")["reason"]


@pytest.mark.parametrize(
    ("member", "arguments"),
    [
        ("InstallBundle", ["sa{sv}", "/config/x.img", "0"]),
        ("Install", ["s", "/config/x.img"]),
        ("InspectBundle", ["sa{sv}", "/config/x.img", "0"]),
        ("Info", ["s", "/config/x.img"]),
        ("Mark", ["ss", "good", "booted"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_plain_user_may_not_change_anything(server: Server, member: str, arguments: list[str]) -> None:
    before = server.disk.entries()

    assert error(server, member, *arguments, user=USER).startswith(
        "Not authorized for io.hypernet.SlotManager1."
    )
    assert server.disk.entries() == before


@pytest.mark.parametrize("member", ["GetSlotStatus", "GetPrimary", "GetArtifactStatus"])
def test_plain_user_may_read(server: Server, member: str) -> None:
    assert call(server, member, user=USER)


def test_polkit_rule_for_slot_manager_counts_for_rauc_s_interface(server: Server) -> None:
    rule = server.machine.root / "etc/polkit-1/rules.d/10-test.rules"
    rule.write_text(
        "polkit.addRule(function(action, subject) {"
        f' if (action.id == "io.hypernet.SlotManager1.install" && subject.user == "{USER}")'
        " return polkit.Result.YES; });"
    )
    server.machine.output("systemctl", "restart", "polkit.service")
    try:
        old = server.offer(server.releases.get("0.1.0"))
        assert run_client(server, old, user=USER)["result"] == 1
        downgrade = ["sa{sv}", old, "1", "ignore-version-limit", "b", "true"]
        assert "SlotManager1.downgrade" in error(server, "InstallBundle", *downgrade, user=USER)
    finally:
        rule.unlink()
        server.machine.output("systemctl", "restart", "polkit.service")


def test_argument_that_would_weaken_a_check_is_refused(server: Server) -> None:
    image = server.offer(server.releases.get("0.4.0"))

    refusal = error(server, "InstallBundle", "sa{sv}", image, "1", "tls-no-verify", "b", "true")

    assert "'tls-no-verify' is not supported" in refusal
    assert get(server, "Operation") == "idle"


def test_service_restarts_and_stops_cleanly(server: Server) -> None:
    server.machine.output("systemctl", "restart", UNIT)
    assert call(server, "GetPrimary") == ["rootfs.1"]
    server.machine.output("systemctl", "stop", UNIT)

    shown = server.machine.output("systemctl", "show", "--property=Result,ExecMainStatus", UNIT)
    assert sorted(shown.splitlines()) == ["ExecMainStatus=0", "Result=success"]


def test_interface_is_off_again_when_it_is_disabled(server: Server) -> None:
    server.machine.output("systemctl", "disable", UNIT)

    assert server.machine.run("busctl", "call", *OBJECT, INTERFACE, "GetPrimary").returncode != 0


def test_no_unit_has_failed_at_the_end(server: Server) -> None:
    assert server.machine.output("systemctl", "list-units", "--failed", "--no-legend") == ""
