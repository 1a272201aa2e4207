# SPDX-License-Identifier: Apache-2.0
"""The verb `health` with its options, from the command line to the bus and back."""

import json
import signal
import subprocess
from typing import Any

import pytest

from tests.unit.admin.lab import Lab

CHECKING = {"State": "checking", "Reason": "", "Checks": []}
CHECK = {
    **{"name": "net", "required": True, "result": "failed", "duration_sec": 1.5, "attempts": 2},
    **{"output": "no route", "unit": "hypernet-check-net-2.service"},
}
VERDICT = {"State": "degraded", "Reason": "No net.", "Checks": [CHECK]}


def watch(lab: Lab, *argv: str, lines: int) -> tuple[list[str], int, str]:
    """Run `health --watch` until it has printed a number of lines; return them, status, standard error."""
    # A shell without job control lets what it starts in the background ignore this signal.
    usual = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    process = lab.popen("health", "--watch", *argv, stdout=subprocess.PIPE, **usual)
    assert process.stdout is not None
    found = [process.stdout.readline() for _ in range(lines)]
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=20)
    return found, process.returncode, error


def test_watch_shows_each_new_verdict_and_ctrl_c_ends_it_without_complaint(lab: Lab) -> None:
    lab.start("health", health=CHECKING, verdicts=[VERDICT])

    lines, status, error = watch(lab, lines=3)

    assert lines == [
        "Health: the checks of this boot are still running\n",
        "\n",
        "Health: degraded: No net.\n",
    ]
    assert (status, error) == (20, "")


def test_watch_in_short_json_is_one_line_for_each_verdict(lab: Lab) -> None:
    lab.start("health", health=CHECKING, verdicts=[VERDICT, {"State": "healthy", "Reason": ""}])

    lines, status, _ = watch(lab, "--json=short", lines=3)

    assert [json.loads(line)["state"] for line in lines] == ["checking", "degraded", "healthy"]
    assert json.loads(lines[2])["checks"] == [CHECK]
    assert status == 0


@pytest.mark.parametrize(
    ("result", "status"), [("passed", 0), ("failed", 20), ("timeout", 20), ("skipped", 20)]
)
def test_run_has_the_agent_run_the_check_and_tells_how_it_ended(lab: Lab, result: str, status: int) -> None:
    lab.start("health", result={**CHECK, "result": result})

    done = lab.admin("health", "--run=net")

    assert lab.calls() == [["Run", "net"]]
    assert (done.returncode, done.stderr) == (status, "")
    assert done.stdout == f"Check net: {result} (1.5 s, 2 attempts)\n  no route\n"


def test_run_in_json_has_all_that_the_agent_says(lab: Lab) -> None:
    lab.start("health", result=CHECK)

    values: dict[str, Any] = json.loads(lab.admin("health", "--run", "net", "--json=short").stdout)

    assert values == {"format": 1, **CHECK}


def test_run_of_a_check_that_is_not_there_is_one_sentence(lab: Lab) -> None:
    lab.start("health", refuse={"Run": ["InvalidArgument", "There is no health check 'x'."]})

    done = lab.admin("health", "--run=x")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "hypernet-admin: There is no health check 'x'.\n"


def test_run_names_the_unit_to_look_at_when_the_agent_is_not_there(lab: Lab) -> None:
    done = lab.admin("health", "--run=net")

    assert (done.returncode, done.stdout) == (7, "")
    assert "journalctl -u hypernet-boot-health-bus.service" in done.stderr
