# SPDX-License-Identifier: Apache-2.0
"""The agents on the real system bus: activation, introspection, permissions, end."""

import json
import time

import pytest

from tests.integration import interfaces
from tests.integration.machine import Machine
from tests.integration.root_tree import TOP, USER
from tests.integration.slots import SlotDisk

AGENTS = {
    "io.hypernet.SlotManager1": "hypernet-slot-manager.service",
    "io.hypernet.BootHealth1": "hypernet-boot-health-bus.service",
}
"""Bus name and unit of each agent on the bus."""

MUTATING = [
    ("Install", "sa{sv}", ["/config/new.img", {}]),
    ("Rollback", "a{sv}", [{}]),
    ("MarkGood", "s", ["other"]),
    ("MarkBad", "ss", ["other", "a test"]),
]

CALL = """
import asyncio, json, sys
sys.path.insert(0, "/usr/lib/hypernet")
from common import bus
from common.errors import AgentError
async def main(name, path, interactive, member, signature, arguments):
    async with bus.connect() as client:
        try:
            await client.call(name, path, name, member, signature, *arguments, interactive=interactive)
        except AgentError as error:
            return error.dbus_name
    return "called"
print(asyncio.run(main(*json.loads(sys.argv[1]))))
"""


def object_path(name: str) -> str:
    return "/" + name.replace(".", "/")


@pytest.fixture(scope="module")
def healthy(machine: Machine, slot_disk: SlotDisk) -> Machine:
    """A running machine with a good slot a and an empty slot b."""
    slot_disk.boot_loader()
    machine.boot()
    return machine


def call(machine: Machine, user: str, member: str, signature: str, arguments: list[object]) -> str:
    """Call a method of the slot manager; return "called" or the name of the error."""
    name = "io.hypernet.SlotManager1"
    values = json.dumps([name, object_path(name), False, member, signature, arguments])
    return machine.output("/usr/bin/python3", "-I", "-", values, user=user, stdin=CALL)


def main_pid(machine: Machine, unit: str) -> int:
    return int(machine.output("systemctl", "show", "--value", "--property=MainPID", unit))


@pytest.mark.parametrize("name", AGENTS)
def test_agent_is_started_by_a_call_on_the_bus(healthy: Machine, name: str) -> None:
    healthy.output("systemctl", "stop", AGENTS[name])

    healthy.output("busctl", "call", name, object_path(name), "org.freedesktop.DBus.Peer", "Ping")

    assert main_pid(healthy, AGENTS[name]) > 0


@pytest.mark.parametrize("name", AGENTS)
def test_interface_of_the_running_agent_is_the_one_that_is_documented(healthy: Machine, name: str) -> None:
    xml = healthy.output("busctl", "introspect", "--xml-interface", name, object_path(name))

    assert interfaces.shown(xml, name) == interfaces.documented(name)


def test_every_documented_interface_is_installed(healthy: Machine) -> None:
    for path in (TOP / "units/dbus/interfaces").iterdir():
        installed = healthy.root / f"usr/share/dbus-1/interfaces/{path.name}"
        assert installed.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("member", "signature", "arguments"), MUTATING, ids=[each[0] for each in MUTATING])
def test_plain_user_may_not_change_slots(
    healthy: Machine, member: str, signature: str, arguments: list[object]
) -> None:
    assert call(healthy, USER, member, signature, arguments) == "io.hypernet.Error.NotPermitted"


@pytest.mark.parametrize(("member", "signature", "arguments"), MUTATING, ids=[each[0] for each in MUTATING])
def test_root_may_change_slots(
    healthy: Machine, member: str, signature: str, arguments: list[object]
) -> None:
    assert "NotPermitted" not in call(healthy, "root", member, signature, arguments)


@pytest.mark.parametrize("name", AGENTS)
def test_plain_user_may_read_every_property(healthy: Machine, name: str) -> None:
    properties = ("org.freedesktop.DBus.Properties", "GetAll", "s", name)
    shown = healthy.output("busctl", "--json=short", "call", name, object_path(name), *properties, user=USER)

    known = {key.split()[1] for key in interfaces.documented(name) if key.startswith("property ")}
    assert json.loads(shown)["data"][0].keys() == known


@pytest.mark.parametrize(
    "verb",
    [["update", "--image=/config/new.img"], ["rollback"], ["mark", "good", "other"], ["mark", "bad", "a"]],
    ids=" ".join,
)
def test_admin_tells_a_plain_user_that_it_is_not_permitted(healthy: Machine, verb: list[str]) -> None:
    result = healthy.run("hypernet-admin", *verb, user=USER)

    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (4, "", 1)


def test_polkit_knows_every_action(healthy: Machine) -> None:
    actions = {f"io.hypernet.SlotManager1.{action}" for action in ("install", "rollback", "mark")}

    assert actions <= set(healthy.output("pkaction").splitlines())


def test_administrator_can_let_a_user_roll_back_with_a_polkit_rule(healthy: Machine) -> None:
    rule = healthy.root / "etc/polkit-1/rules.d/10-test.rules"
    rule.write_text(
        "polkit.addRule(function(action, subject) {"
        ' if (action.id == "io.hypernet.SlotManager1.rollback" && subject.user == "alice")'
        " return polkit.Result.YES; });"
    )
    healthy.output("systemctl", "restart", "polkit.service")
    try:
        # Slot b is empty: the method was allowed to look at that.
        assert call(healthy, USER, "Rollback", "a{sv}", [{}]) == "io.hypernet.Error.OtherSlotNotGood"
    finally:
        rule.unlink()
        healthy.output("systemctl", "restart", "polkit.service")


def test_plain_user_cannot_own_the_name_of_an_agent(healthy: Machine) -> None:
    for unit in AGENTS.values():
        healthy.output("systemctl", "stop", unit)
    request = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "RequestName", "su")

    result = healthy.run("busctl", "call", *request, "io.hypernet.SlotManager1", "4", user=USER)

    assert (result.returncode, result.stderr) == (1, "Call failed: Access denied\n")


@pytest.mark.parametrize("unit", AGENTS.values())
def test_agent_restarts_and_stops_cleanly(healthy: Machine, unit: str) -> None:
    healthy.output("systemctl", "restart", unit)
    before = main_pid(healthy, unit)
    healthy.output("systemctl", "restart", unit)
    after = main_pid(healthy, unit)
    healthy.output("systemctl", "stop", unit)

    assert 0 != before != after
    shown = healthy.output("systemctl", "show", "--property=ActiveState,Result,ExecMainStatus", unit)
    assert sorted(shown.splitlines()) == ["ActiveState=inactive", "ExecMainStatus=0", "Result=success"]


def test_every_unit_passes_systemd_verify(healthy: Machine) -> None:
    units = sorted(path.name for path in (TOP / "units").iterdir() if path.is_file())

    verify = ("systemd-analyze", "verify", "--recursive-errors=no", "--man=no")
    result = healthy.run(*verify, *(f"/lib/systemd/system/{unit}" for unit in units))

    assert (result.returncode, result.stderr) == (0, "")


def test_no_process_of_ours_stays_when_there_is_nothing_to_do(healthy: Machine) -> None:
    healthy.output("hypernet-admin", "status")
    assert ours(healthy) != []

    deadline = time.monotonic() + 90
    while ours(healthy) and time.monotonic() < deadline:
        time.sleep(1)

    assert ours(healthy) == []
    for unit in AGENTS.values():
        assert healthy.output("systemctl", "show", "--value", "--property=Result", unit) == "success"


def ours(machine: Machine) -> list[str]:
    """Return the command lines of the agents' processes."""
    lines = machine.output("ps", "-e", "-o", "args=").splitlines()
    return [line for line in lines if "/usr/lib/hypernet/" in line]


def test_no_unit_has_failed_at_the_end(healthy: Machine) -> None:
    assert healthy.output("systemctl", "list-units", "--failed", "--no-legend") == ""
