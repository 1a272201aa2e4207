# SPDX-License-Identifier: Apache-2.0
"""hypernet-admin from the command line to the bus and back."""

import json
import os
import pty
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.unit.admin.lab import TOP, Lab

RUNNING = [{"Stage": "write", "Progress": 0.25}]


def failed(name: str, message: str) -> list[dict[str, Any]]:
    return [
        {"Stage": "verify"},
        {
            "Stage": "verify",
            "Result": "failed",
            "ErrorName": f"io.hypernet.Error.{name}",
            "ErrorMessage": message,
        },
    ]


def test_status_shows_slots_and_health(lab: Lab) -> None:
    lab.start()

    result = lab.admin("status")

    assert (result.returncode, result.stderr) == (0, "")
    assert "Slot a (booted, next boot)\n          State: good, 5 tries left\n" in result.stdout
    assert "         Health: healthy\n" in result.stdout


def test_status_succeeds_on_a_degraded_machine(lab: Lab) -> None:
    lab.start(health={"State": "degraded", "Reason": "Check net failed.", "Checks": []})

    result = lab.admin("status")

    assert result.returncode == 0
    assert "Health: degraded: Check net failed.\n" in result.stdout


def test_status_shows_the_slots_when_health_cannot_be_asked(lab: Lab) -> None:
    lab.start("slots")

    result = lab.admin("status")

    assert result.returncode == 0
    assert "Slot b\n" in result.stdout
    assert "Health: unknown: io.hypernet.BootHealth1 cannot be reached" in result.stdout


def test_status_in_json_has_the_properties_and_the_health(lab: Lab) -> None:
    lab.start()

    result = lab.admin("status", "--json=short")

    values = json.loads(result.stdout)
    assert result.stdout.count("\n") == 1
    assert (values["booted_slot"], values["slots"][1]["version"]) == ("a", "0.2.0")
    assert values["health"] == {"state": "healthy", "reason": "", "checks": []}


def test_health_in_json_is_pretty_when_nothing_else_is_asked_for(lab: Lab) -> None:
    lab.start()

    result = lab.admin("--json", "health")

    assert result.stdout == '{\n    "state": "healthy",\n    "reason": "",\n    "checks": []\n}\n'


@pytest.mark.parametrize(
    ("state", "status"),
    [("healthy", 0), ("degraded", 20), ("failed", 20), ("checking", 20), ("unknown", 20)],
)
def test_exit_status_of_health_says_whether_the_boot_is_healthy(lab: Lab, state: str, status: int) -> None:
    lab.start("health", health={"State": state, "Reason": "", "Checks": []})

    assert lab.admin("health").returncode == status


def test_update_passes_an_absolute_path_and_prints_stages_and_the_next_step(lab: Lab) -> None:
    lab.start()

    result = lab.admin("update", "--image", "new.img")

    assert lab.calls() == [["Install", str(TOP / "new.img"), {}]]
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == (
        "Checking\n"
        "Writing\n"
        "Making bootable\n"
        "Version 0.2.0 is installed in slot b (armed: the next boot tries it, 3 tries left).\n"
        "Reboot to start it: systemctl reboot\n"
    )


def test_update_in_json_prints_the_result_and_nothing_else(lab: Lab) -> None:
    lab.start()

    result = lab.admin("update", "--image=/new.img", "--json=short")

    assert json.loads(result.stdout) == {
        "result": "done",
        "slot": "b",
        "version": "0.2.0",
        "error_name": "",
        "error_message": "",
    }


def test_update_shows_a_bar_on_a_terminal(lab: Lab) -> None:
    lab.start()
    ours, theirs = pty.openpty()

    process = lab.popen("update", "--image=/new.img", stdout=theirs)
    os.close(theirs)
    output = b""
    while b"systemctl reboot" not in output:
        output += os.read(ours, 4096)
    process.wait(20)
    os.close(ours)

    assert b"[##" in output
    assert b" 50.0%" in output


@pytest.mark.parametrize(("name", "status"), [("BadSignature", 12), ("Truncated", 16), ("NeverHeardOf", 1)])
def test_failed_update_is_one_sentence_and_the_exit_status_of_its_error(
    lab: Lab, name: str, status: int
) -> None:
    lab.start(job=failed(name, "It is wrong; get another one."))

    result = lab.admin("update", "--image=/new.img")

    assert (result.returncode, result.stderr) == (status, "hypernet-admin: It is wrong; get another one.\n")


def test_failed_update_is_told_in_json_too(lab: Lab) -> None:
    lab.start(job=failed("BadSignature", "It is wrong."))

    result = lab.admin("update", "--image=/new.img", "--json=short")

    values = json.loads(result.stdout)
    assert (values["result"], values["error_name"]) == ("failed", "io.hypernet.Error.BadSignature")


def test_refused_update_is_one_sentence(lab: Lab) -> None:
    lab.start(refuse={"Install": ["Busy", "Another update is running."]})

    result = lab.admin("update", "--image=/new.img")

    assert (result.returncode, result.stderr) == (10, "hypernet-admin: Another update is running.\n")


def test_interrupt_cancels_the_update_once_and_waits_for_its_end(lab: Lab) -> None:
    lab.start(job=RUNNING)

    process = lab.popen("update", "--image=/new.img", stdout=subprocess.DEVNULL)
    lab.wait_for_call("Install")
    while process.poll() is None and ["Cancel"] not in lab.calls():
        process.send_signal(signal.SIGINT)
        lab.wait_for_call("Cancel")
    _, stderr = process.communicate(timeout=20)

    assert lab.calls()[1:] == [["Cancel"]]
    assert process.returncode == 21
    assert stderr == (
        "hypernet-admin: Cancelling the update, please wait.\n"
        "hypernet-admin: The update was cancelled; the running system was not touched.\n"
    )


def test_second_interrupt_stops_waiting(lab: Lab) -> None:
    lab.start(job=RUNNING, refuse={"Cancel": ["NotPermitted", "You may not."]})

    process = lab.popen("update", "--image=/new.img", stdout=subprocess.DEVNULL)
    lab.wait_for_call("Install")
    process.send_signal(signal.SIGINT)
    lab.wait_for_call("Cancel")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)

    assert process.returncode == 130
    assert "Traceback" not in stderr


def test_rollback_says_what_the_next_boot_starts(lab: Lab) -> None:
    lab.start()

    result = lab.admin("rollback", "--reason", "too slow")

    assert lab.calls() == [["Rollback", {"reboot": False, "reason": "too slow"}]]
    assert result.stdout == (
        "The next boot starts slot b (version 0.2.0).\nReboot to start it: systemctl reboot\n"
    )


def test_rollback_reboots_when_asked(lab: Lab) -> None:
    lab.start()

    result = lab.admin("rollback", "--reboot")

    assert lab.calls() == [["Rollback", {"reboot": True}]]
    assert result.stdout == "The machine reboots now into slot b (version 0.2.0).\n"


def test_rollback_in_json(lab: Lab) -> None:
    lab.start()

    result = lab.admin("rollback", "--json=short")

    assert json.loads(result.stdout) == {"slot": "b", "version": "0.2.0", "reboot": False}


def test_refused_rollback_has_the_exit_status_of_policy(lab: Lab) -> None:
    lab.start(refuse={"Rollback": ["OtherSlotNotGood", "Slot b is not good."]})

    result = lab.admin("rollback")

    assert (result.returncode, result.stderr) == (11, "hypernet-admin: Slot b is not good.\n")


def test_mark_good_shows_the_slot_as_it_is_then(lab: Lab) -> None:
    lab.start()

    result = lab.admin("mark", "good", "other")

    assert lab.calls() == [["MarkGood", "other"]]
    assert result.stdout == "Slot b (version 0.2.0): armed: the next boot tries it, 3 tries left.\n"


def test_mark_bad_passes_the_reason(lab: Lab) -> None:
    lab.start()

    lab.admin("mark", "bad", "b", "--reason", "no network")

    assert lab.calls() == [["MarkBad", "b", "no network"]]


def test_mark_bad_without_a_reason_says_who_did_it(lab: Lab) -> None:
    lab.start()

    lab.admin("mark", "bad", "b")

    assert lab.calls() == [["MarkBad", "b", "marked bad by an administrator"]]


def test_mark_in_json_prints_the_slot(lab: Lab) -> None:
    lab.start()

    result = lab.admin("mark", "good", "b", "--json=short")

    assert json.loads(result.stdout)["name"] == "b"


@pytest.mark.parametrize("verb", [["status"], ["health"], ["update", "--image=/x"], ["rollback"]])
def test_missing_agent_is_one_sentence_that_names_the_unit(lab: Lab, verb: list[str]) -> None:
    result = lab.admin(*verb)

    unit = "hypernet-boot-health-bus" if verb == ["health"] else "hypernet-slot-manager"
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (7, "", 1)
    assert f"'journalctl -u {unit}.service' says why.\n" in result.stderr


def test_missing_bus_is_one_sentence(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lab.environment, "DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/nothing")

    result = lab.admin("status")

    assert (result.returncode, result.stderr.count("\n")) == (7, 1)
    assert result.stderr.startswith("hypernet-admin: Cannot connect to the system bus")


def test_usage_error_is_one_sentence(lab: Lab) -> None:
    result = lab.admin("update")

    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "hypernet-admin: The following arguments are required: --image;" in result.stderr


def test_reader_that_goes_away_is_no_error_message(lab: Lab) -> None:
    lab.start()
    reader, writer = os.pipe()
    os.close(reader)

    process = lab.popen("status", stdout=writer)
    os.close(writer)
    _, stderr = process.communicate(timeout=20)

    assert (process.returncode, stderr) == (1, "")
