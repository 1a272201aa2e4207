# SPDX-License-Identifier: Apache-2.0
"""What of ours is left when a boot is over: nothing."""

import re
import time

import pytest

from tests.integration.machine import Machine
from tests.integration.slots import SlotDisk

AFTER_SEC = 10.0


@pytest.fixture(scope="module")
def quiet(machine: Machine, slot_disk: SlotDisk) -> Machine:
    """A machine ten seconds after boot-complete.target was reached; nobody has asked anything."""
    slot_disk.boot_loader()
    machine.boot()
    time.sleep(max(0.0, AFTER_SEC - since_completed_sec(machine)))
    return machine


def since_completed_sec(machine: Machine) -> float:
    show = ("systemctl", "show", "--value", "--property=ActiveEnterTimestampMonotonic")
    completed = int(machine.output(*show, "boot-complete.target"))
    assert completed, "the boot is not complete"
    return time.clock_gettime(time.CLOCK_MONOTONIC) - completed / 1e6


def test_no_process_of_ours_is_resident_ten_seconds_after_the_boot_is_complete(quiet: Machine) -> None:
    tree = quiet.output("systemd-cgls", "--no-pager", "--full")

    assert since_completed_sec(quiet) < AFTER_SEC + 5
    assert "systemd-journald.service" in tree
    assert [line for line in tree.splitlines() if re.search(r"hypernet|python", line)] == []


def test_every_agent_that_ran_ended_well(quiet: Machine) -> None:
    listing = quiet.output("systemctl", "list-units", "--all", "--plain", "--no-legend", "hypernet-*")
    states = {line.split()[0]: line.split()[2] for line in listing.splitlines()}

    assert states["hypernet-boot-health.service"] == "active"
    assert "failed" not in states.values()


def test_a_question_is_still_answered_and_its_process_goes_away_again(quiet: Machine) -> None:
    assert quiet.run("hypernet-admin", "health").returncode == 0

    deadline = time.monotonic() + AFTER_SEC + 5
    while "hypernet" in quiet.output("systemd-cgls", "--no-pager", "--full"):
        assert time.monotonic() < deadline, "a process of ours stays"
        time.sleep(0.5)
