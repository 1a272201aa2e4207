# SPDX-License-Identifier: Apache-2.0
"""What becomes of a machine whose boots fail in the ways that userspace, or the watchdog, can tell.

One server and one new version, which fails by unit files and checks that the tests write to the config
partition. Each test goes on where the last ended; it prints how long the machine took to be healthy again.
"""

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.boot_health.messages import CHECK_FAILED
from tests.vm import releases as release_builder
from tests.vm.power import CUTS
from tests.vm.releases import GOOD as NEW
from tests.vm.releases import START, TEST_UNITS
from tests.vm.server import BOOT_SEC, Server, running_server

BACK_SEC = 900.0
CRASHES_SEC = 300.0
HEALTH = "/config/hypernet/health.yaml"
UNITS = f"{TEST_UNITS}/{NEW}"
APPLICATION = "hypernet-app-demo.service"
CRASHING = "[Service]\nType=notify\nExecStart=/bin/sh -c 'echo >> /run/crashes; exit 1'\n"


@pytest.fixture(scope="module")
def server(vm_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    releases = release_builder.prepare(vm_cache, (START, NEW))
    with running_server(releases, tmp_path_factory.mktemp("server"), START) as server:
        yield server


def configure(server: Server, *checks: dict[str, Any], **settings: object) -> None:
    """Write health.yaml; what is JSON is YAML, too."""
    server.write(HEALTH, json.dumps({**settings, "health_checks": checks}))


def in_new(command: str) -> str:
    """A check's command that does something in the new version only."""
    return f"/bin/sh -c '! grep -q IMAGE_VERSION={NEW} /etc/os-release || {command}'"


def try_again(server: Server, units: dict[str, str]) -> int:
    """Arm the new version with these unit files; returns the place on the console where its trial begins."""
    server.shell(f"rm -rf {UNITS}")
    for name, text in units.items():
        server.write(f"{UNITS}/{name}", text)
    result = server.admin("mark", "good", "other")
    assert result.status == 0, result.err
    return server.watch.now()


def back_after_one_boot(server: Server, reason: str) -> None:
    """Demand that one boot of the new version leads back to the old one and that status says why."""
    new, old = server.slot("b")["root_hash"], server.slot("a")["root_hash"]

    boots = server.reboot_until(START, BACK_SEC)

    status, text = server.status(), server.admin("status").out
    last, other = status["last_rollback"], server.slot("b")
    assert boots == [new, old], text
    assert (server.running(), other["state"]) == ((START, "good"), "bad"), text
    assert (last["from_version"], last["to_version"]) == (NEW, START)
    assert reason in last["reason"]
    assert last["reason"] in text


def property_of(server: Server, name: str) -> str:
    place = ("io.hypernet.BootHealth1", "/io/hypernet/BootHealth1", "io.hypernet.BootHealth1")
    return server.machine.check("/bin/busctl", "get-property", *place, name).strip()


def test_power_cuts_while_a_boot_is_blessed_cost_no_slot(server: Server) -> None:
    times = "ExecMainStartTimestampMonotonic,ExecMainExitTimestampMonotonic"
    argv = ("/bin/systemctl", "show", "hypernet-bless.service", "--value", f"--property={times}")
    began, ended = sorted(int(line) / 1e6 for line in server.machine.check(*argv).split())
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}; blessing takes {ended - began:.1f} s")
    dice = random.Random(seed)
    configure(server, {"name": "wanted", "command": "/bin/false", "retries": 0, "required": False})
    say = "DeviceAllow=/dev/ttyS0 rw\nExecStartPre=+/bin/sh -c 'echo it is blessed now > /dev/ttyS0'\n"
    server.write(f"{UNITS}/hypernet-bless.service.d/10-test.conf", f"[Service]\n{say}")
    server.update(NEW)
    new, known, before = server.slot("b")["root_hash"], len(server.machine.boots()), server.boot_id()
    cuts, place = max(CUTS // 2, 1), server.watch.now()
    server.machine.run("/bin/systemctl", "reboot")

    for _ in range(cuts):
        server.watch.wait("it is blessed now", place, BOOT_SEC)
        time.sleep(dice.uniform(0.3, 1.1) * (ended - began))  # the first third only starts Python
        server.machine.kill()
        failed_at, place = time.time(), server.watch.now()
        server.machine.start()
    server.wait_settled(after=before)

    server.print_recovery("power cut during blessing", failed_at)
    assert server.machine.boots()[known:] == [new] * (cuts + 1)
    assert (server.running(), server.slot("a")["state"]) == ((NEW, "good"), "good")
    assert server.entries() == [f"hypernet_{START}.efi", f"hypernet_{NEW}+5.efi"]


def test_failing_wanted_check_degrades_the_machine_and_the_slot_is_good_all_the_same(server: Server) -> None:
    (health,) = (line for line in server.admin("status").out.splitlines() if "Health:" in line)

    assert "degraded" in health
    assert "wanted" in health
    assert (server.running(), server.admin("health").status) == ((NEW, "good"), 20)
    assert property_of(server, "ConsecutiveFailures") == "u 0"


def test_application_that_crashes_five_times_is_given_up_and_nothing_reboots(server: Server) -> None:
    before = server.boot_id()
    server.write(f"/run/systemd/system/{APPLICATION}", CRASHING)
    server.machine.check("/bin/systemctl", "daemon-reload")

    server.machine.run("/bin/systemctl", "start", APPLICATION)
    server.machine.wait_until(
        lambda: server.machine.run("/bin/systemctl", "is-failed", APPLICATION).status == 0,
        "the end of the restarts",
        CRASHES_SEC,
    )

    assert server.shell("cat /run/crashes").count("\n") == 5
    assert (server.boot_id(), server.running()) == (before, (NEW, "good"))
    server.machine.wait_until(
        lambda: "Finished" in server.journal("--boot", f"--unit=hypernet-alert@{APPLICATION}.service"),
        "an alert",
        BOOT_SEC,
    )


def test_good_slot_whose_check_hangs_is_left_after_as_many_boots_as_are_allowed(server: Server) -> None:
    new, old = server.slot("b")["root_hash"], server.slot("a")["root_hash"]
    known = len(server.machine.boots())
    hanging = {"name": "hanging", "command": in_new("sleep 600"), "timeout": "10s", "retries": 0}
    configure(server, hanging, max_failed_boots=2)

    server.reboot()

    assert (server.running(), property_of(server, "ConsecutiveFailures")) == ((NEW, "good"), "u 1")
    assert "hanging" in server.admin("status").out
    server.reboot_until(START, BACK_SEC)
    server.print_recovery(
        "check that hangs", server.journal_times("--boot=-1", f"MESSAGE_ID={CHECK_FAILED}")[0]
    )
    status, text = server.status(), server.admin("status").out
    assert server.machine.boots()[known:] == [new, new, old], text
    assert (server.running(), server.slot("b")["state"]) == ((START, "good"), "bad"), text
    assert "2 boots in a row" in status["last_rollback"]["reason"]
    assert "hanging" in status["last_rollback"]["reason"]
    assert status["last_rollback"]["reason"] in text


def test_application_that_crashes_five_times_in_a_trial_leads_back(server: Server) -> None:
    check = {"name": "application", "command": in_new(f"systemctl is-active {APPLICATION}")}
    configure(server, {**check, "after": [APPLICATION], "retries": 0})
    units = {APPLICATION: CRASHING, "hypernet.target.d/10-test.conf": f"[Unit]\nWants={APPLICATION}\n"}
    try_again(server, units)

    back_after_one_boot(server, "application")

    crashed = server.journal_times("--boot=-1", f"UNIT={APPLICATION}", "EXIT_STATUS=1")
    server.print_recovery("application that crashes", crashed[0])
    assert len(crashed) == 5


def test_boot_that_never_completes_leads_back(server: Server) -> None:
    """The deadline holds although no check can begin; both slots have to keep it."""
    configure(server, deadline="3min")
    stuck = "[Service]\nType=oneshot\nExecStart=/bin/sleep infinity\nTimeoutStartSec=infinity\n"
    units = {
        "stuck.service": stuck,
        "hypernet.target.d/10-test.conf": "[Unit]\nWants=stuck.service\n",
    }
    try_again(server, units)

    back_after_one_boot(server, "hypernet.target was still starting at the deadline")

    server.print_recovery(
        "boot that never completes", server.journal_times("--boot=-1", "UNIT=stuck.service")[0]
    )


def test_kernel_that_hangs_is_reset_by_the_watchdog_and_leads_back(server: Server) -> None:
    """As if two tries had ended so before: the last of three is enough to see."""
    hang = "/bin/sh -c 'echo 0 > /proc/sys/kernel/panic; echo c > /proc/sysrq-trigger'"
    units = {
        "hang.service": f"[Unit]\nAfter=hypernet.target\n[Service]\nType=oneshot\nExecStart={hang}\n",
        "multi-user.target.d/10-test.conf": "[Unit]\nWants=hang.service\n",
    }
    place = try_again(server, units)
    server.shell(f"mv /efi/EFI/Linux/hypernet_{NEW}+3.efi /efi/EFI/Linux/hypernet_{NEW}+1-2.efi")

    back_after_one_boot(server, "used up its 3 tries")

    server.print_recovery("kernel that hangs", server.watch.wait("sysrq: Trigger a crash", place))


def test_nothing_reboots_between_two_bad_slots(server: Server) -> None:
    """The other slot is bad by now; this one fails with a check that would fail in any."""
    old, known = server.slot("a")["root_hash"], len(server.machine.boots())
    configure(server, {"name": "shared-data", "command": "/bin/false", "retries": 0}, max_failed_boots=1)

    server.reboot()

    boot, text = server.boot_id(), server.admin("status").out
    time.sleep(20)
    assert (server.machine.boots()[known:], server.boot_id()) == ([old], boot)
    assert (server.slot("a")["default"], server.slot("b")["state"]) == (True, "bad")
    assert "shared-data" in text
    assert "degraded" in text
    assert "not good" in server.journal("--boot", "--unit=hypernet-boot-failed.service")
