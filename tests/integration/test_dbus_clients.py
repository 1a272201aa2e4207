# SPDX-License-Identifier: Apache-2.0
"""Everything by D-Bus, with clients that know nothing of us (busctl, gdbus), and the journal of it."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agents.slot_manager import messages
from tests.integration import listeners
from tests.integration.listeners import CLIENTS, Heard
from tests.integration.machine import Machine
from tests.integration.server import NAME, PATH, Server
from tests.integration.slots import ReleaseMaker, SlotDisk

JOB = f"{NAME}.Job"

HOOK = """[Unit]
Before=hypernet-pre-update.target
[Service]
Type=oneshot
ExecStart={command}
[Install]
RequiredBy=hypernet-pre-update.target
"""


@pytest.fixture(scope="module")
def server(machine: Machine, slot_disk: SlotDisk, releases: ReleaseMaker) -> Server:
    """Version 0.1.0 is in slot a and good, slot b is empty."""
    (machine.root / "var/log/journal").mkdir()  # kept over the reboots
    server = Server(machine, slot_disk, releases)
    assert server.switch_on() == "a"
    return server


def gdbus(server: Server, method: str, *arguments: str) -> str:
    """Call a method with gdbus; return what it prints."""
    call = ("gdbus", "call", "--system", "--dest", NAME, "--object-path", PATH)
    return server.machine.output(*call, "--method", f"{NAME}.{method}", *arguments)


def busctl(server: Server, method: str, *arguments: str, path: str = PATH, interface: str = NAME) -> str:
    """Call a method with busctl; return what it prints."""
    return server.machine.output("busctl", "call", NAME, path, interface, method, *arguments)


def install(server: Server, version: str, options: str = "{}") -> str:
    """Start an installation with gdbus; return the path of the job."""
    said = gdbus(server, "Install", server.offer(server.releases.get(version)), options)
    match = re.fullmatch(r"\(objectpath '(/io/hypernet/SlotManager1/job/\d+)',\)", said)
    assert match, said
    return match[1]


def slot(server: Server, name: str) -> dict[str, object]:
    (found,) = (each for each in server.property("Slots") if each["name"]["data"] == name)
    return {key: value["data"] for key, value in found.items()}


@contextmanager
def hook(server: Server, command: str) -> Iterator[None]:
    """Let hypernet-pre-update.target require hook.service, which runs `command`."""
    server.add_unit("hook.service", HOOK.format(command=command))
    try:
        yield
    finally:
        server.remove_unit("hook.service")


@pytest.fixture(scope="module")
def seen() -> Heard:
    """All signals that were heard in these tests."""
    return Heard()


@contextmanager
def watching(server: Server, seen: Heard) -> Iterator[list[str]]:
    """Collect the lines that gdbus prints of the slot manager's signals while the context lasts."""
    lines: list[str] = []
    with listeners.listening(server.machine, NAME) as heard:
        yield lines
    lines += [text for _, text in heard.gdbus]
    seen.busctl += heard.busctl
    seen.gdbus += heard.gdbus


def entries(server: Server, message_id: str) -> list[dict[str, str]]:
    """The journal's entries with a MESSAGE_ID, oldest first."""
    server.machine.output("journalctl", "--sync")
    lines = server.machine.output("journalctl", "-o", "json", f"MESSAGE_ID={message_id}").splitlines()
    return [json.loads(line) for line in lines]


# Each test goes on where the one before it ended.


def test_dry_run_says_what_would_be_installed_and_writes_nothing(server: Server, seen: Heard) -> None:
    before = server.disk.entries()

    with watching(server, seen) as lines:
        job = install(server, "0.2.0", "{'dry-run': <true>}")
        server.wait_for(job, "done")

    (finished,) = [line for line in lines if ".Finished" in line]
    assert "Version 0.2.0 can be installed into slot b; nothing was written." in finished
    assert server.property("DryRun", job, JOB) is True
    assert (server.disk.entries(), slot(server, "b")["state"]) == (before, "empty")


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("interface", [NAME, JOB])
def test_every_property_can_be_read_and_has_its_type(server: Server, interface: str, client: str) -> None:
    known = listeners.documented(interface, "property")
    path = PATH if interface == NAME else f"{PATH}/job/1"

    found = {name: listeners.read(server.machine, client, path, interface, name)[0] for name in known}

    assert found == known


def test_failed_unit_of_the_preparations_stops_the_update_and_is_named(server: Server, seen: Heard) -> None:
    before = server.disk.entries()
    with hook(server, "/bin/false"), watching(server, seen):
        job = install(server, "0.2.0")
        server.wait_for(job, "failed")

        assert server.property("ErrorName", job, JOB) == "io.hypernet.Error.PreUpdateFailed"
        assert server.property("ErrorMessage", job, JOB) == (
            "hook.service failed before the update, so nothing was written; see 'systemctl status "
            "hook.service' and try again."
        )
    assert (server.disk.entries(), slot(server, "b")["state"]) == (before, "empty")


def test_refusal_is_in_the_journal_with_its_fields_and_an_explanation(server: Server) -> None:
    entry = entries(server, messages.INSTALL_REFUSED)[-1]

    assert (entry["SLOT"], entry["VERSION"], entry["SOURCE"]) == ("b", "0.2.0", "/config/hypernet-0.2.0.img")
    assert entry["ERROR_NAME"] == "io.hypernet.Error.PreUpdateFailed"
    assert entry["JOB"].startswith(f"{PATH}/job/")
    assert entry["OWNER"] == "root"
    assert entry["ROOTHASH"] == server.releases.get("0.2.0").root_hash
    explained = server.machine.output("journalctl", "-x", f"MESSAGE_ID={messages.INSTALL_REFUSED}")
    assert "Subject: Installation of /config/hypernet-0.2.0.img was refused" in explained
    assert "Nothing was written" in explained


def test_second_installation_is_refused_with_who_runs_the_first(server: Server) -> None:
    with hook(server, "/bin/sleep infinity"):
        job = install(server, "0.2.0")
        again = server.machine.run(
            "busctl", "call", NAME, PATH, NAME, "Install", "sa{sv}", "/config/hypernet-0.2.0.img", "0"
        )
        assert again.returncode != 0
        sentence = rf"Slot b is being written by root since \d\d:\d\d:\d\d \(job {job}\); wait for its end"
        assert re.search(sentence, again.stderr), again.stderr
        assert server.property("Operation") == "installing"
        assert server.property("CurrentJob") == job

        # While units prepare the update, too, the job can be cancelled.
        busctl(server, "Cancel", path=job, interface=JOB)
        server.wait_for(job, "cancelled")
    assert (server.property("Operation"), slot(server, "b")["state"]) == ("idle", "empty")


def test_targets_of_an_update_are_left_behind_by_none(server: Server) -> None:
    for when in ("pre", "post"):
        unit = f"hypernet-{when}-update.target"
        shown = server.machine.output("systemctl", "show", "--value", "--property=ActiveState", unit)
        assert shown == "inactive"


def test_preparations_run_before_the_first_write_of_each_update(server: Server) -> None:
    with hook(server, "/bin/sh -c 'ls /efi/EFI/Linux >> /config/prepared'"):
        server.wait_for(install(server, "0.2.0", "{'arm': <false>}"), "done")
        server.wait_for(install(server, "0.2.0", "{'arm': <false>, 'slot': <'b'>}"), "done")

    first, *rest = (server.machine.config / "prepared").read_text().splitlines()
    assert first == "hypernet_0.1.0.efi"
    assert rest, "the second update has not run them again"


def test_staged_release_waits_until_it_is_approved_and_armed(server: Server, seen: Heard) -> None:
    assert (slot(server, "b")["state"], server.property("DefaultSlot")) == ("staged", "a")

    gdbus(server, "Approve")
    assert (slot(server, "b")["state"], slot(server, "b")["approved"]) == ("approved", True)
    assert server.reboot() == "a"

    with watching(server, seen) as lines:
        gdbus(server, "Arm", "{}")
        assert (slot(server, "b")["state"], server.property("DefaultSlot")) == ("armed", "b")
        busctl(server, "Disarm")
        assert (slot(server, "b")["state"], server.property("DefaultSlot")) == ("staged", "a")
        busctl(server, "Arm", "a{sv}", "0")
    signals = [match[1] for line in lines if (match := re.search(r"\.(Slot(?:Dis)?[Aa]rmed \(.*\))", line))]
    assert signals == [f"{each} ('b', '0.2.0')" for each in ("SlotArmed", "SlotDisarmed", "SlotArmed")]


def test_armed_release_is_tried_proves_good_and_is_rolled_back(server: Server, seen: Heard) -> None:
    assert server.reboot() == "b"
    assert slot(server, "b")["state"] == "good"

    with watching(server, seen):
        said = gdbus(server, "Rollback", "{'reason': <'too slow'>}")

    assert said == "('a',)"
    (denied,) = server.property("Denied")
    assert (denied["version"]["data"], denied["reason"]["data"]) == ("0.2.0", "too slow")
    assert server.reboot() == "a"


def test_release_that_failed_here_is_refused_until_it_is_cleared(server: Server, seen: Heard) -> None:
    job = install(server, "0.2.0")
    server.wait_for(job, "failed")
    assert server.property("ErrorName", job, JOB) == "io.hypernet.Error.Denied"
    assert "too slow" in server.property("ErrorMessage", job, JOB)

    assert gdbus(server, "ClearDenied", "0.2.0") == "(uint32 1,)"
    with watching(server, seen) as lines:
        server.wait_for(install(server, "0.2.0"), "done")
    assert [line for line in lines if ".UpdateInstalled ('b', '0.2.0')" in line]
    assert [line for line in lines if "'Rate': <uint64" in line and "'Remaining': <uint64" in line]


def test_slot_is_marked_bad_and_good_again(server: Server, seen: Heard) -> None:
    with watching(server, seen) as lines:
        busctl(server, "MarkBad", "ss", "other", "too slow again")
        gdbus(server, "MarkGood", "other")

    marked = [match[1] for line in lines if (match := re.search(r"\.SlotMarked \((.*)\)", line))]
    assert marked == ["'b', 'bad', 'too slow again'", "'b', 'armed', ''"]


@pytest.mark.parametrize("client", CLIENTS)
def test_every_documented_signal_was_heard(seen: Heard, client: str) -> None:
    documented = {name for interface in (NAME, JOB) for name in listeners.documented(interface, "signal")}

    assert seen.members(client) >= documented | {"PropertiesChanged"}


@pytest.mark.parametrize(
    ("message_id", "fields"),
    [
        (messages.INSTALL_STARTED, {"SLOT": "b", "VERSION": "0.2.0", "OWNER": "root"}),
        (messages.UPDATE_INSTALLED, {"SLOT": "b", "VERSION": "0.2.0", "OWNER": "root"}),
        (messages.INSTALL_REFUSED, {"SLOT": "b", "VERSION": "0.2.0"}),
        (messages.SLOT_ARMED, {"SLOT": "b", "VERSION": "0.2.0"}),
        (messages.SLOT_DISARMED, {"SLOT": "b", "VERSION": "0.2.0"}),
        (messages.UPDATE_SUCCEEDED, {"SLOT": "b", "VERSION": "0.2.0"}),
        (messages.ROLLED_BACK, {"SLOT": "a", "VERSION": "0.1.0", "REASON": "too slow"}),
        (messages.DENIAL_CLEARED, {"VERSION": "0.2.0"}),
    ],
)
def test_each_step_is_in_the_journal_with_its_fields_and_an_explanation(
    server: Server, message_id: str, fields: dict[str, str]
) -> None:
    entry = entries(server, message_id)[-1]

    assert entry.items() >= fields.items()
    explained = server.machine.output("journalctl", "-x", f"MESSAGE_ID={message_id}")
    assert "-- Defined-By: hypernet" in explained.replace("\u2591\u2591", "--")
