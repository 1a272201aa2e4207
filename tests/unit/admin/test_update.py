# SPDX-License-Identifier: Apache-2.0
"""The verb `update` from the command line to the bus and back, and Ctrl-C while it runs."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agents.admin.model import Job
from agents.admin.update import JobFailed
from common.errors import EXIT_STATUS_BY_NAME
from tests.unit.admin.lab import SCRIPT, TOP, Lab
from tests.unit.admin.terminal import CTRL_C, Terminal

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
        "format": 1,
        "result": "done",
        "slot": "b",
        "version": "0.2.0",
        "state": "armed",
        "dry_run": False,
        "reboot": False,
        "error_name": "",
        "error_message": "",
        "bytes_total": 3 << 20,
        "bytes_copied": 0,
        "bytes_skipped": 0,
        "bytes_zero": 0,
        "bytes_fetched": 0,
    }


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


def test_options_of_the_update_reach_the_slot_manager(lab: Lab) -> None:
    lab.start()

    lab.admin("update", "--image=/new.img", "--allow-downgrade", "--slot=b", "--stage-only", "--dry-run")

    options = {"arm": False, "allow-downgrade": True, "dry-run": True, "slot": "b"}
    assert lab.calls() == [["Install", "/new.img", options]]


def test_files_that_we_can_open_are_passed_on_open(lab: Lab, tmp_path: Path) -> None:
    for name in ("new.img.zst", "new.manifest.json", "new.manifest.json.asc"):
        (tmp_path / name).write_text(name)
    lab.start()

    result = lab.admin("update", f"--image={tmp_path / 'new.img.zst'}", "--reboot")

    assert result.returncode == 0
    files = ["new.img.zst", "new.manifest.json", "new.manifest.json.asc"]
    assert lab.calls() == [["InstallFile", *files, {"reboot": True}]]


def test_dry_run_says_that_nothing_was_written(lab: Lab) -> None:
    lab.start()

    result = lab.admin("update", "--image=/new.img", "--dry-run")

    assert result.stdout.splitlines()[-1] == (
        "Version 0.2.0 can be installed into slot b; nothing was written."
    )


def test_staged_update_tells_how_to_arm_it(lab: Lab) -> None:
    slot_a, slot_b = SCRIPT["slots"]["Slots"]
    staged = {**slot_b, "state": "staged", "tries_left": -1}
    lab.start(after={"Install": {"Slots": [slot_a, staged]}})

    result = lab.admin("update", "--image=/new.img", "--stage-only")

    assert result.stdout.splitlines()[-2:] == [
        "Version 0.2.0 is installed in slot b (verified, but not armed: no boot starts it yet).",
        "Let the next boot try it: hypernet-admin arm",
    ]


def test_update_with_reboot_says_that_the_machine_reboots(lab: Lab) -> None:
    lab.start()

    result = lab.admin("update", "--image=/new.img", "--reboot")

    assert lab.calls() == [["Install", "/new.img", {"reboot": True}]]
    assert result.stdout.splitlines()[-1] == "The machine reboots now to start it."


def test_version_that_runs_already_is_nothing_to_do(lab: Lab) -> None:
    lab.start(job=failed("SameVersion", "Version 0.2.0 runs already."))

    assert lab.admin("update", "--image=/new.img").returncode == 22


def test_update_from_a_url_tells_how_much_was_fetched(lab: Lab) -> None:
    ended = {**SCRIPT["job"][-1], "BytesFetched": 1 << 20}
    lab.start(job=[*SCRIPT["job"][:-1], ended])

    result = lab.admin("update", "--image=https://updates.test/hypernet-0.2.0.img")

    assert lab.calls() == [["Install", "https://updates.test/hypernet-0.2.0.img", {}]]
    assert "Fetched 1.0 MiB of 3.0 MiB." in result.stdout.splitlines()


def test_terminal_shows_a_bar_with_rate_and_time_left(lab: Lab) -> None:
    lab.start(job=[{**RUNNING[0], "Rate": 1 << 20, "Remaining": 65_000_000}, *SCRIPT["job"]], stage_sec=0.3)

    terminal = Terminal(lab, "update", "--image=/new.img")
    terminal.wait_for(" 25.0%")

    assert terminal.end() == 0
    assert "1.0 MiB/s  1 min 5 s left" in terminal.shown
    assert "systemctl reboot" in terminal.shown


def test_interrupt_without_a_terminal_cancels_at_once_and_waits_for_the_end(lab: Lab) -> None:
    lab.start(job=RUNNING)

    process = lab.popen("update", "--image=/new.img", stdout=subprocess.DEVNULL)
    lab.wait_for_call("Install")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)

    assert lab.calls()[1:] == [["Cancel"]]
    assert process.returncode == 21
    assert stderr == (
        "hypernet-admin: Cancelling the update, please wait.\n"
        "hypernet-admin: The update was cancelled; the running system was not touched.\n"
    )


def test_second_interrupt_leaves_the_update_running_and_says_so(lab: Lab) -> None:
    lab.start(job=RUNNING, refuse={"Cancel": ["NotPermitted", "You may not."]})

    process = lab.popen("update", "--image=/new.img", stdout=subprocess.DEVNULL)
    lab.wait_for_call("Install")
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    # The call is seen before its answer is: the second interrupt must not overtake what is said about it.
    stderr = process.stderr.readline() + process.stderr.readline()
    process.send_signal(signal.SIGINT)
    stderr += process.communicate(timeout=20)[1]

    assert process.returncode == 130
    assert "hypernet-admin: The update was not cancelled: You may not.\n" in stderr
    assert stderr.endswith("' how it ended.\n")
    assert "hypernet-admin: Interrupted; the update itself goes on" in stderr


@pytest.mark.parametrize("answer", ["y\n", "YES\n"])
def test_interrupt_on_a_terminal_asks_and_cancels_after_a_yes(lab: Lab, answer: str) -> None:
    lab.start(job=RUNNING)

    terminal = Terminal(lab, "update", "--image=/new.img")
    terminal.wait_for(" 25.0%")
    terminal.type(CTRL_C)
    terminal.wait_for("Cancel the update? [y/N] ")
    assert ["Cancel"] not in lab.calls()
    terminal.type(answer)

    assert terminal.end() == 21
    assert lab.calls()[1:] == [["Cancel"]]


@pytest.mark.parametrize("answer", ["\n", "n\n", "\x04"], ids=["enter", "no", "end-of-file"])
def test_update_goes_on_after_any_other_answer(lab: Lab, answer: str) -> None:
    lab.start(job=[RUNNING[0], RUNNING[0], RUNNING[0], *SCRIPT["job"]], stage_sec=0.7)

    terminal = Terminal(lab, "update", "--image=/new.img")
    terminal.wait_for(" 25.0%")
    terminal.type(CTRL_C)
    terminal.wait_for("Cancel the update? [y/N] ")
    terminal.type(answer)

    assert terminal.end() == 0
    assert lab.calls()[1:] == []
    assert terminal.shown.count("Cancel the update?") == 1


def test_update_that_ends_while_the_question_is_open_is_reported(lab: Lab) -> None:
    lab.start(job=[RUNNING[0], RUNNING[0], *SCRIPT["job"]], stage_sec=0.5)

    terminal = Terminal(lab, "update", "--image=/new.img")
    terminal.wait_for(" 25.0%")
    terminal.type(CTRL_C)

    assert terminal.end() == 0
    assert "Cancel the update? [y/N] \r\n" in terminal.shown
    assert "Version 0.2.0 is installed in slot b" in terminal.shown


def test_second_interrupt_at_the_question_leaves_the_update_running(lab: Lab) -> None:
    lab.start(job=RUNNING)

    terminal = Terminal(lab, "update", "--image=/new.img")
    terminal.wait_for(" 25.0%")
    terminal.type(CTRL_C)
    terminal.wait_for("Cancel the update? [y/N] ")
    terminal.type(CTRL_C)

    assert terminal.end() == 130
    assert lab.calls()[1:] == []
    assert "Interrupted; the update itself goes on" in terminal.shown
    assert "Traceback" not in terminal.shown


@pytest.mark.parametrize(("name", "status"), EXIT_STATUS_BY_NAME.items())
def test_each_error_of_a_job_becomes_its_exit_status(name: str, status: int) -> None:
    error = JobFailed(
        Job(result="failed", error_name=f"io.hypernet.Error.{name}", error_message="It is so.")
    )

    assert (error.exit_status, str(error)) == (status, "It is so.")


@pytest.mark.parametrize("form", [(), ("--json=short",)], ids=["text", "json"])
def test_a_reboot_that_could_not_be_started_is_no_success(lab: Lab, form: tuple[str, ...]) -> None:
    sentence = "Slot b is the default now, but the reboot could not be started: No. Run 'reboot'."
    lab.start(job=[{"Stage": "done", "Result": "done", "ErrorMessage": sentence}])

    result = lab.admin("update", "--image=/new.img", "--reboot", *form)

    assert result.returncode == 1
    assert result.stderr == f"hypernet-admin: Version 0.2.0 is installed in slot b. {sentence}\n"
    assert "reboots now" not in result.stdout
    if form:
        assert json.loads(result.stdout)["reboot"] is False
