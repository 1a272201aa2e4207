# SPDX-License-Identifier: Apache-2.0
"""The agents on the real system bus: activation, introspection, one rule of polkit, end."""

import json
import time

import pytest

from tests.integration import interfaces
from tests.integration.callers import Call, call
from tests.integration.machine import Machine
from tests.integration.root_tree import TOP, USER
from tests.integration.slots import SlotDisk

AGENTS = {
    "io.hypernet.SlotManager1": "hypernet-slot-manager.service",
    "io.hypernet.BootHealth1": "hypernet-boot-health-bus.service",
}
"""Bus name and unit of each agent on the bus."""


def object_path(name: str) -> str:
    return "/" + name.replace(".", "/")


@pytest.fixture(scope="module")
def healthy(machine: Machine, slot_disk: SlotDisk) -> Machine:
    """A running machine with a good slot a and an empty slot b."""
    slot_disk.boot_loader()
    machine.boot()
    return machine


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


@pytest.mark.parametrize("name", AGENTS)
def test_plain_user_may_read_every_property(healthy: Machine, name: str) -> None:
    properties = ("org.freedesktop.DBus.Properties", "GetAll", "s", name)
    shown = healthy.output("busctl", "--json=short", "call", name, object_path(name), *properties, user=USER)

    known = {key.split()[1] for key in interfaces.documented(name) if key.startswith("property ")}
    assert json.loads(shown)["data"][0].keys() == known


@pytest.mark.parametrize(
    "verb",
    [
        ["update", "--image=/config/new.img"],
        ["rollback"],
        ["mark", "good", "other"],
        ["mark", "bad", "a"],
        ["health", "--run=mounts"],
    ],
    ids=" ".join,
)
def test_admin_tells_a_plain_user_that_it_is_not_permitted(healthy: Machine, verb: list[str]) -> None:
    result = healthy.run("hypernet-admin", *verb, user=USER)

    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (4, "", 1)


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
        name = "io.hypernet.SlotManager1"
        rollback: Call = (object_path(name), name, "Rollback", "a{sv}", [{}])
        assert call(healthy, [rollback], user=USER) == ["io.hypernet.Error.OtherSlotNotGood"]
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
