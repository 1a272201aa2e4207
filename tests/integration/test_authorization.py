# SPDX-License-Identifier: Apache-2.0
"""Who may do what, with the real bus, polkit and logind: each caller against each method."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest

from tests.integration import interfaces
from tests.integration.callers import Call, call
from tests.integration.machine import Machine
from tests.integration.root_tree import ADMIN, PASSWORD, USER
from tests.integration.slots import SlotDisk

NAME = "io.hypernet.SlotManager1"
PATH = "/io/hypernet/SlotManager1"
HEALTH = "io.hypernet.BootHealth1"
HEALTH_PATH = "/io/hypernet/BootHealth1"
NOT_PERMITTED = "io.hypernet.Error.NotPermitted"

NOTHING = "/config/missing.img"

PROGRAM = "/usr/bin/hypernet-admin"
"""A file that everybody can open, and that is no image."""

METHODS: dict[str, Call] = {
    "Install": (PATH, NAME, "Install", "sa{sv}", [NOTHING, {}]),
    "Install allow-downgrade": (PATH, NAME, "Install", "sa{sv}", [NOTHING, {"allow-downgrade": True}]),
    "InstallFile": (PATH, NAME, "InstallFile", "hhha{sv}", [*[PROGRAM] * 3, {}]),
    "Approve": (PATH, NAME, "Approve", "", []),
    "Arm": (PATH, NAME, "Arm", "a{sv}", [{}]),
    "Disarm": (PATH, NAME, "Disarm", "", []),
    "ClearDenied": (PATH, NAME, "ClearDenied", "s", ["all"]),
    "Rollback": (PATH, NAME, "Rollback", "a{sv}", [{}]),
    "MarkGood": (PATH, NAME, "MarkGood", "s", ["other"]),
    "MarkBad": (PATH, NAME, "MarkBad", "ss", ["other", "a test"]),
    "Rearm": (PATH, NAME, "Rearm", "", []),
    "Cancel": (f"{PATH}/job/1", f"{NAME}.Job", "Cancel", "", []),
    "Run": (HEALTH_PATH, HEALTH, "Run", "s", ["nothing"]),
}
"""A call of each method that changes something. None of them finds anything to change."""

READING: dict[str, Call] = {
    "Get": (PATH, "org.freedesktop.DBus.Properties", "Get", "ss", [NAME, "BootedSlot"]),
    "GetAll": (PATH, "org.freedesktop.DBus.Properties", "GetAll", "s", [NAME]),
    "Introspect": (PATH, "org.freedesktop.DBus.Introspectable", "Introspect", "", []),
    "Ping": (PATH, "org.freedesktop.DBus.Peer", "Ping", "", []),
    "GetAll of a job": (
        f"{PATH}/job/1",
        "org.freedesktop.DBus.Properties",
        "GetAll",
        "s",
        [f"{NAME}.Job"],
    ),
    "Get of health": (HEALTH_PATH, "org.freedesktop.DBus.Properties", "Get", "ss", [HEALTH, "State"]),
    "GetAll of health": (HEALTH_PATH, "org.freedesktop.DBus.Properties", "GetAll", "s", [HEALTH]),
}

# Caller: user, password that is typed when polkit asks, whether polkit runs, whether changes are allowed.
CALLERS: dict[str, tuple[str, str | None, bool, bool]] = {
    "root": ("root", None, True, True),
    "administrator with the password": (ADMIN, PASSWORD, True, True),
    "administrator with a wrong password": (ADMIN, "wrong", True, False),
    "administrator who cannot be asked": (ADMIN, None, True, False),
    "plain user": (USER, None, True, False),
    "root without polkit": ("root", None, False, True),
    "administrator without polkit": (ADMIN, None, False, False),
    "plain user without polkit": (USER, None, False, False),
}


@pytest.fixture(scope="module")
def healthy(machine: Machine, slot_disk: SlotDisk) -> Machine:
    """A running machine with a good slot a and an empty slot b."""
    slot_disk.boot_loader()
    machine.boot()
    return machine


@contextmanager
def without_polkit(machine: Machine) -> Iterator[None]:
    machine.output("systemctl", "mask", "--runtime", "--now", "polkit.service")
    try:
        yield
    finally:
        machine.output("systemctl", "unmask", "--runtime", "polkit.service")


def restart(machine: Machine, unit: str) -> None:
    """More often than systemd lets a unit be restarted."""
    machine.output("systemctl", "reset-failed", unit)
    machine.output("systemctl", "restart", unit)


@pytest.fixture(scope="module")
def results(healthy: Machine) -> dict[str, dict[str, str]]:
    """What each caller got for each call."""
    found = {}
    calls = {**METHODS, **READING}
    for caller, (user, password, running, _) in CALLERS.items():
        restart(healthy, "hypernet-slot-manager.service")
        assert call(healthy, [METHODS["Install"]]) == ["called"]
        with nullcontext() if running else without_polkit(healthy):
            answers = call(healthy, list(calls.values()), user=user, password=password)
        found[caller] = dict(zip(calls, answers, strict=True))
    return found


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("caller", CALLERS)
def test_only_those_may_change_something_who_are_documented(
    results: dict[str, dict[str, str]], caller: str, method: str
) -> None:
    *_, allowed = CALLERS[caller]

    assert (results[caller][method] != NOT_PERMITTED) is allowed, results[caller][method]


@pytest.mark.parametrize("method", READING)
@pytest.mark.parametrize("caller", CALLERS)
def test_everyone_may_read(results: dict[str, dict[str, str]], caller: str, method: str) -> None:
    assert results[caller][method] == "called"


def test_the_table_has_every_method_that_is_documented(healthy: Machine) -> None:
    documented = {
        member.split()[1]
        for interface in (NAME, f"{NAME}.Job", HEALTH)
        for member in interfaces.documented(interface)
        if member.startswith("method ")
    }
    assert {member for _, _, member, _, _ in METHODS.values()} == documented


def test_polkit_knows_every_action(healthy: Machine) -> None:
    actions = ("install", "downgrade", "arm", "clear-denied", "rollback", "mark")

    ours = {f"{HEALTH}.run", *(f"{NAME}.{action}" for action in actions)}
    assert ours <= set(healthy.output("pkaction").splitlines())


@pytest.mark.parametrize(
    ("allowed", "options", "error"),
    [
        (["install"], {}, ""),
        (["install"], {"allow-downgrade": True}, NOT_PERMITTED),
        (["install", "downgrade"], {"allow-downgrade": True}, ""),
        (["downgrade"], {"allow-downgrade": True}, NOT_PERMITTED),
    ],
)
def test_a_downgrade_needs_the_action_of_its_own_beside_that_of_an_installation(
    healthy: Machine, allowed: list[str], options: dict[str, object], error: str
) -> None:
    actions = ", ".join(f'"{NAME}.{action}"' for action in allowed)
    rule = healthy.root / "etc/polkit-1/rules.d/10-test.rules"
    rule.write_text(
        "polkit.addRule(function(action, subject) {"
        f' if ([{actions}].indexOf(action.id) >= 0 && subject.user == "{USER}")'
        " return polkit.Result.YES; });"
    )
    restart(healthy, "polkit.service")
    try:
        (answer,) = call(healthy, [(PATH, NAME, "Install", "sa{sv}", [NOTHING, options])], user=USER)
    finally:
        rule.unlink()
        restart(healthy, "polkit.service")

    assert answer == (error or "called")
