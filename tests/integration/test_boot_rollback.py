# SPDX-License-Identifier: Apache-2.0
"""What failed boots of a server with two slots lead to, over several boots; see test_update.py for trials
that fail their checks.
"""

from collections.abc import Iterator

import pytest

from agents.slot_manager.record import Store
from tests.integration.boots import Boots, has_run, journal, report, state, wait_until
from tests.integration.machine import Machine
from tests.integration.root_tree import USER
from tests.integration.server import Server
from tests.integration.slots import ReleaseMaker, SlotDisk

FAILING = "max_failed_boots: 2\nhealth_checks:\n  - name: probe\n    command: /bin/false\n    retries: 0\n"
HANGING = "health_checks:\n  - name: probe\n    command: /bin/sleep 100\n    timeout: 120s\n"


@pytest.fixture(scope="module")
def server(machine: Machine, slot_disk: SlotDisk, releases: ReleaseMaker) -> Server:
    server = Server(machine, slot_disk, releases)
    assert server.switch_on() == "a"
    assert server.update("0.2.0")["slot"] == "b"
    return server


@pytest.fixture
def boots(server: Server) -> Iterator[Boots]:
    boots = Boots(server)
    yield boots
    boots.clean()


def entry(server: Server, version: str) -> str:
    (name,) = (name for name in server.disk.entries() if name.startswith(f"hypernet_{version}"))
    return name


def begin_trial_that_hangs(server: Server, boots: Boots) -> None:
    """Boot slot b, which is on trial, until its health check runs."""
    if server.machine.running:
        server.machine.stop()
    boots.health(HANGING)
    assert server.disk.boot_loader() == "b"
    server.machine.start()
    server.machine.enter()
    wait_until(lambda: state(server.machine, "hypernet-boot-health.service") == "activating")


# Each test goes on where the one before it ended: together they are the life of a server.


def test_stopping_the_counting_unit_without_a_shutdown_forgives_nothing(
    server: Server, boots: Boots
) -> None:
    begin_trial_that_hangs(server, boots)
    records = Store(server.machine.root / "var/lib/hypernet/slot-manager")
    before = entry(server, "0.2.0"), records.load()
    assert before[0] == "hypernet_0.2.0+2-1.efi"
    assert len(before[1].attempts) == 1

    server.machine.output("systemctl", "stop", "hypernet-slot-manager-attempt.service")

    assert state(server.machine, "hypernet-boot-health.service") == "activating"
    assert (entry(server, "0.2.0"), records.load()) == before


@pytest.mark.parametrize(
    ("time", "left"), [("first", "+2-1.efi"), ("second", "+2-1.efi"), ("third", "+1-2.efi")]
)
def test_reboots_by_hand_before_the_verdict_of_a_trial_are_forgiven_twice(
    server: Server, boots: Boots, time: str, left: str
) -> None:
    begin_trial_that_hangs(server, boots)

    server.machine.run("systemctl", "reboot")
    server.machine.wait_for_reboot()

    assert entry(server, "0.2.0") == f"hypernet_0.2.0{left}"


def test_trial_that_was_only_rebooted_can_still_prove_itself(server: Server) -> None:
    assert server.switch_on() == "b"
    assert (server.slot("a")["state"], server.slot("b")["state"]) == ("good", "good")


def test_first_failed_boot_of_a_good_slot_stays_degraded_and_costs_it_no_try(
    server: Server, boots: Boots
) -> None:
    server.machine.stop()
    boots.health(FAILING)

    assert server.switch_on() == "b"

    assert "probe" in report(server.machine)["reason"]
    assert report(server.machine)["consecutive_failures"] == 1
    assert entry(server, "0.2.0") == "hypernet_0.2.0+5.efi"
    said = journal(server.machine, ["-t", "hypernet-slot-manager"])
    assert "was marked good" not in said
    assert server.admin("status")["health"]["state"] == "degraded"


def test_last_allowed_failed_boot_in_a_row_goes_back_to_the_other_slot(server: Server, boots: Boots) -> None:
    boots.health(FAILING)

    assert server.disk.boot_loader() == "b"
    server.machine.start()
    server.machine.wait_for_reboot()

    assert entry(server, "0.1.0") == "hypernet_0.1.0.efi"
    assert entry(server, "0.2.0").startswith("hypernet_0.2.0+0")


def test_two_slots_that_fail_do_not_reboot_into_each_other(server: Server, boots: Boots) -> None:
    boots.health(FAILING)
    for failures in (1, 2, 3):
        assert server.switch_on() == "a"
        assert report(server.machine)["consecutive_failures"] == failures
        assert not has_run(server.machine, "hypernet-rollback.service")
        motd = server.machine.output("cat", "/run/motd.d/hypernet-rollback", user=USER)
        assert "went back from 0.2.0 to 0.1.0" in motd
        told = server.machine.root / "var/lib/hypernet/slot-manager/rollback-told"
        assert told.exists()
        server.machine.stop()


def test_good_boot_ends_the_row_and_status_explains_the_rollback(server: Server) -> None:
    assert server.switch_on() == "a"

    assert report(server.machine)["consecutive_failures"] == 0
    status = server.admin("status")
    assert status["last_rollback"]["from_version"] == "0.2.0"
    assert status["last_rollback"]["reason"].startswith("2 boots in a row failed, the last one so: ")
    assert "probe (exit status 1, 1 attempt)" in status["last_rollback"]["reason"]


@pytest.mark.parametrize(
    ("end", "result"),
    [("TimeoutStartSec=1", "timeout"), ("ExecStart=/bin/sh -c 'kill -KILL $$$$'", "signal")],
)
def test_bless_that_is_ended_by_force_is_told(server: Server, end: str, result: str) -> None:
    unit = "hypernet-bless.service"
    drop_in = server.machine.root / f"etc/systemd/system/{unit}.d/end.conf"
    drop_in.parent.mkdir(exist_ok=True)
    command = end if end.startswith("ExecStart=") else f"ExecStart=/bin/sleep 60\n{end}"
    drop_in.write_text(f"[Service]\nExecStart=\n{command}\n")
    server.machine.output("systemctl", "stop", "hypernet-alerter.path", "hypernet-alerter.service")
    server.machine.output("systemctl", "daemon-reload")
    try:
        assert server.machine.run("systemctl", "restart", unit).returncode != 0
    finally:
        drop_in.unlink()
        server.machine.output("systemctl", "daemon-reload")

    told = server.machine.output("sh", "-c", "cat /run/hypernet/alerts/*.json")
    assert f"The unit {unit} has failed ({result})." in told
