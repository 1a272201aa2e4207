# SPDX-License-Identifier: Apache-2.0
"""What units alone make of a boot: the measured behaviour of systemd that the policy is built on.

Each machine here is booted by a real systemd; only the boot loader's part is played (see slots.py).
"""

from collections.abc import Iterator

import pytest

from tests.integration.boots import Boots, has_run, journal, report, state, wait_until
from tests.integration.machine import Machine
from tests.integration.server import Server
from tests.integration.slots import LOADER_VENDOR, ReleaseMaker, SlotDisk

FAILING = (
    "max_failed_boots: {limit}\nhealth_checks:\n  - name: probe\n    command: /bin/false\n    retries: 0\n"
)
HANGING = "health_checks:\n  - name: probe\n    command: /bin/sleep 120\n    timeout: 150s\n    retries: 0\n"

LATE_CHECK = """[Unit]
After=multi-user.target
Before=boot-complete.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
[Install]
RequiredBy=boot-complete.target
"""

BROKEN_MOUNT = """[Unit]
DefaultDependencies=no
Before=local-fs.target
[Service]
Type=oneshot
ExecStart=/bin/false
[Install]
RequiredBy=local-fs.target
"""

HEALED = """[Service]
ExecStartPre=/bin/sh -c 'test -e /run/second || { touch /run/second; exit 1; }'
ExecStart=/bin/sleep infinity
[Install]
WantedBy=hypernet.target
"""

HEALED_CHECK = """health_checks:
  - name: healed
    command: systemctl is-active hypernet-app-healed.service
    user: root
    retries: 9
    interval: 1s
"""

CRASHING = """[Service]
ExecStart=/bin/false
[Install]
WantedBy=hypernet.target
"""

SOON = "[Service]\nRestartSec=500ms\n"

COUNT_PATH = f"LoaderBootCountPath-{LOADER_VENDOR}"
COUNTED = """[Service]
Environment=HYPERNET_EFIVARS=/etc/systemd/system/efivars HYPERNET_WAIT_SEC=1
"""

SHORT_LIMIT = "[Unit]\nJobTimeoutSec=6s\n"

SLOW = "health_checks:\n  - {name: probe, command: /bin/sleep 5, timeout: 30s, retries: 0}\n"
GATE = """[Unit]
After=basic.target
Before=boot-complete.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sleep 1
ExecStart=/bin/test -e /run/repaired
[Install]
RequiredBy=boot-complete.target
"""
LATE_GATE = GATE.replace("After=basic.target", "After=hypernet-boot-health.service")

STUCK = """[Service]
Type=oneshot
TimeoutStartSec=infinity
ExecStart=/bin/sleep infinity
"""

FSTAB = "../../fstab"
SLOW_AND_GONE = """tmpfs /srv tmpfs nofail,nodev,x-systemd.requires=slow.service 0 0
none /opt nosuchfs nofail 0 0
"""
SLOW_UNIT = """[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
ExecStart=/bin/sleep 8
"""


@pytest.fixture(scope="module")
def server(machine: Machine, slot_disk: SlotDisk, releases: ReleaseMaker) -> Server:
    return Server(machine, slot_disk, releases)


@pytest.fixture
def boots(server: Server) -> Iterator[Boots]:
    boots = Boots(server)
    yield boots
    boots.clean()


def test_boot_that_the_loader_does_not_count_is_judged_all_the_same(boots: Boots) -> None:
    machine = boots.boot()

    assert state(machine, "boot-complete.target") == "active"
    assert report(machine)["state"] == "healthy"


def test_nothing_but_hypernet_bless_pulls_in_the_verdict(boots: Boots) -> None:
    boots.mask("hypernet-bless.service")

    machine = boots.boot()

    assert state(machine, "multi-user.target") == "active"
    assert state(machine, "boot-complete.target") == "inactive"
    assert not has_run(machine, "hypernet-boot-health.service")


def test_failed_check_starts_the_decision_although_the_target_itself_does_not_fail(boots: Boots) -> None:
    boots.health(FAILING.format(limit=10))

    machine = boots.boot()

    assert state(machine, "boot-complete.target") == "inactive"
    assert has_run(machine, "hypernet-boot-failed.service")
    assert report(machine)["consecutive_failures"] == 1
    assert "probe" in report(machine)["reason"]


def test_boot_without_a_verdict_in_time_starts_the_decision(boots: Boots) -> None:
    boots.health(HANGING)
    boots.add("boot-complete.target.d/20-test.conf", SHORT_LIMIT)

    boots.server.disk.boot_loader()
    machine = boots.machine
    machine.start()
    machine.enter()
    wait_until(lambda: has_run(machine, "hypernet-boot-failed.service"))
    wait_until(lambda: state(machine, "hypernet-boot-failed.service") == "inactive")

    assert report(machine)["reason"].startswith("The boot reached no verdict")
    assert report(machine)["state"] == "degraded"


def test_verdict_that_would_come_after_the_decision_is_not_waited_for_and_does_not_overwrite_it(
    boots: Boots,
) -> None:
    boots.health(SLOW)
    boots.enable("gate.service", "boot-complete.target", GATE, kind="requires")

    machine = boots.boot()

    assert has_run(machine, "hypernet-boot-health.service")
    assert has_run(machine, "hypernet-boot-failed.service")
    assert state(machine, "hypernet-boot-health.service") == "failed"
    assert report(machine)["reason"] == "The boot reached no verdict; failed units: gate.service."
    assert report(machine)["state"] == "degraded"
    assert report(machine)["consecutive_failures"] >= 1

    repair(machine)


def test_boot_that_only_another_unit_spoils_is_degraded_until_it_is_repaired(boots: Boots) -> None:
    boots.enable("gate.service", "boot-complete.target", LATE_GATE, kind="requires")

    machine = boots.boot()

    assert has_run(machine, "hypernet-boot-failed.service")
    assert report(machine)["reason"].startswith("All required checks passed, but another unit ")
    assert "gate.service" in report(machine)["reason"]
    assert report(machine)["state"] == "degraded"
    assert report(machine)["consecutive_failures"] >= 1

    repair(machine)


def repair(machine: Machine) -> None:
    """Take away what keeps gate.service from starting, and make the boot a good one as the manual says."""
    machine.output("touch", "/run/repaired")
    machine.output("systemctl", "reset-failed")  # else the check of units still finds gate.service
    machine.output("systemctl", "start", "hypernet-bless")

    assert state(machine, "boot-complete.target") == "active"
    assert state(machine, "hypernet-bless.service") == "active"
    assert (report(machine)["state"], report(machine)["consecutive_failures"]) == ("healthy", 0)
    machine.output("systemctl", "restart", "hypernet-boot-health")
    assert report(machine)["state"] == "healthy"


def test_deadline_holds_although_a_unit_of_the_application_never_finishes_starting(boots: Boots) -> None:
    boots.health("deadline: 15s\n")
    boots.enable("stuck.service", "hypernet.target", STUCK)

    boots.server.disk.boot_loader()
    machine = boots.machine
    machine.start()
    machine.enter()
    wait_until(lambda: has_run(machine, "hypernet-boot-failed.service"))
    wait_until(lambda: state(machine, "hypernet-boot-failed.service") == "inactive")

    assert "mounts (hypernet.target was still starting at the deadline)" in report(machine)["reason"]
    assert (report(machine)["state"], state(machine, "stuck.service")) == ("degraded", "activating")


def test_slow_mount_is_waited_for_and_one_that_fails_only_degrades_if_fstab_lets_it(boots: Boots) -> None:
    boots.add("slow.service", SLOW_UNIT)
    boots.add(FSTAB, SLOW_AND_GONE)

    machine = boots.boot()

    (check,) = (each for each in report(machine)["checks"] if each["name"] == "mounts-nofail")
    assert check["output"] == "/opt is not mounted."
    assert 2 < check["duration_sec"] < 60
    assert (report(machine)["state"], state(machine, "boot-complete.target")) == ("degraded", "active")


def test_check_ordered_after_multi_user_target_does_not_drop_the_verdict(boots: Boots) -> None:
    boots.enable("late-check.service", "boot-complete.target", LATE_CHECK, kind="requires")

    machine = boots.boot()

    assert state(machine, "late-check.service") == "active"
    assert state(machine, "boot-complete.target") == "active"
    assert state(machine, "hypernet-bless.service") == "active"
    assert "ordering cycle" not in journal(machine, ["_PID=1"])


def test_application_that_fails_first_and_is_restarted_does_not_spoil_the_boot(boots: Boots) -> None:
    boots.enable("hypernet-app-healed.service", "hypernet.target", HEALED)
    boots.add("hypernet-app-healed.service.d/20-test.conf", SOON)
    boots.health(HEALED_CHECK)

    machine = boots.boot()

    assert (
        machine.output("systemctl", "show", "--value", "--property=NRestarts", "hypernet-app-healed") == "1"
    )
    assert state(machine, "boot-complete.target") == "active"
    assert not has_run(machine, "hypernet-boot-failed.service")


def test_application_that_crashes_five_times_has_failed_and_an_alert_is_raised_once(boots: Boots) -> None:
    boots.enable("hypernet-app-crash.service", "hypernet.target", CRASHING)
    boots.add("hypernet-app-crash.service.d/20-test.conf", SOON)

    machine = boots.boot()
    unit = "hypernet-app-crash.service"
    wait_until(lambda: state(machine, unit) == "failed")

    assert journal(machine, ["_PID=1", f"UNIT={unit}"]).count("Main process exited") == 5
    alert = f"hypernet-alert@{unit}.service"
    wait_until(lambda: has_run(machine, alert) and state(machine, alert) == "inactive")
    assert journal(machine, ["_PID=1", f"UNIT={alert}"]).count("Finished") == 1
    assert state(machine, "multi-user.target") == "active"


@pytest.mark.parametrize("key", ["Restart", "RestartUSec", "StartLimitBurst", "StartLimitIntervalUSec"])
def test_unit_named_as_an_application_takes_its_monitoring_by_that_name(boots: Boots, key: str) -> None:
    boots.add("hypernet-app-web.service", "[Service]\nExecStart=/bin/true\n")
    machine = boots.boot()

    expected = {
        "Restart": "on-failure",
        "RestartUSec": "10s",
        "StartLimitBurst": "5",
        "StartLimitIntervalUSec": "10min",
    }
    said = machine.output("systemctl", "show", "--value", f"--property={key}", "hypernet-app-web.service")
    assert said == expected[key]


def test_emergency_mode_cancels_the_verdict_and_ends_by_its_own_hook(boots: Boots) -> None:
    boots.enable("broken.service", "local-fs.target", BROKEN_MOUNT, kind="requires")

    machine = boots.boot()

    assert state(machine, "emergency.target") == "active"
    assert state(machine, "boot-complete.target") == "inactive"
    assert not has_run(machine, "hypernet-boot-failed.service")
    # It stays: a boot that the loader did not count would be repeated for ever.
    assert state(machine, "hypernet-emergency.service") == "active"
    assert "stays as it is" in journal(machine, ["_SYSTEMD_UNIT=hypernet-emergency.service"])


def test_emergency_mode_of_a_boot_that_the_loader_counts_ends_in_a_reboot(boots: Boots) -> None:
    boots.enable("broken.service", "local-fs.target", BROKEN_MOUNT, kind="requires")
    boots.add("hypernet-emergency.service.d/20-test.conf", COUNTED)
    boots.add("efivars/" + COUNT_PATH, "counted")

    boots.server.disk.boot_loader()
    boots.machine.start()

    boots.machine.wait_for_reboot()
