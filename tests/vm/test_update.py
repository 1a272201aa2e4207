# SPDX-License-Identifier: Apache-2.0
"""The life of a healthy server: first boot, update, rollback. Each test goes on where the last ended."""

from tests.vm.releases import GOOD, START
from tests.vm.server import Server

SLOT_MANAGER = ("io.hypernet.SlotManager1", "/io/hypernet/SlotManager1", "io.hypernet.SlotManager1")


def test_first_boot_runs_from_slot_a_over_dm_verity(server: Server) -> None:
    source = server.machine.check("/bin/findmnt", "--noheadings", "--output", "SOURCE,FSTYPE", "/").split()
    kind = server.machine.check("/bin/cat", "/sys/block/dm-0/dm/uuid").strip()

    assert (source, kind.startswith("CRYPT-VERITY-"), server.status()["booted_slot"]) == (
        ["/dev/mapper/root", "erofs"],
        True,
        "a",
    )


def test_first_boot_completes_without_a_failed_unit(server: Server) -> None:
    complete = server.machine.check("/bin/systemctl", "is-active", "boot-complete.target").strip()

    assert (complete, server.system_state()) == ("active", "running")


def test_first_boot_is_blessed(server: Server) -> None:
    assert (server.entries(), server.running()) == ([f"hypernet_{START}.efi"], (START, "good"))


def test_partitions_are_mounted_with_their_hardening_options(server: Server) -> None:
    for place in ("/config", "/data", "/media", "/var/log", "/var/cache", "/efi"):
        options = (
            server.machine.check("/bin/findmnt", "--noheadings", "--output", "OPTIONS", place)
            .strip()
            .split(",")
        )

        assert {"nodev", "nosuid", "noexec"} <= set(options), place


def test_staged_update_is_not_started_by_a_chance_reboot(server: Server) -> None:
    server.update(GOOD, "--stage-only")
    assert server.slot("b")["state"] == "staged"

    server.reboot()

    assert (server.running(), server.slot("b")["state"]) == ((START, "good"), "staged")


def test_armed_update_boots_the_other_slot_and_it_proves_good(server: Server) -> None:
    machine_id = server.machine.check("/bin/cat", "/etc/machine-id")
    assert server.admin("arm").status == 0
    assert (server.slot("b")["state"], server.slot("b")["tries_left"]) == ("armed", 3)

    server.reboot()

    assert server.running() == (GOOD, "good")
    assert server.slot("a")["state"] == "good"
    assert server.system_state() == "running"
    assert server.machine.check("/bin/cat", "/etc/machine-id") == machine_id


def test_blessed_update_is_armed_again_because_there_is_a_good_slot_to_go_back_to(server: Server) -> None:
    assert server.entries() == [f"hypernet_{START}.efi", f"hypernet_{GOOD}+5.efi"]


def test_installing_the_running_version_is_refused(server: Server) -> None:
    result = server.admin("update", "--image", f"/mnt/hypernet-{GOOD}.img", timeout_sec=600)

    assert (result.status, result.err.count("\n")) == (22, 1)
    assert server.slot("a")["state"] == "good"


def test_older_version_is_refused_unless_a_downgrade_is_asked_for(server: Server) -> None:
    argv = ("update", "--image", f"/mnt/hypernet-{START}.img", "--dry-run")
    refused = server.admin(*argv, timeout_sec=600)
    allowed = server.admin(*argv, "--allow-downgrade", timeout_sec=600)

    assert (refused.status, refused.err.count("\n"), allowed.status) == (11, 1, 0), allowed.err


def test_rollback_works_with_busctl_alone(server: Server) -> None:
    argv = (
        "/bin/busctl",
        "call",
        *SLOT_MANAGER,
        "Rollback",
        "a{sv}",
        "1",
        "reason",
        "s",
        "new release is slow",
    )
    assert server.machine.check(*argv).split() == ["s", '"a"']

    server.reboot()

    last = server.status()["last_rollback"]
    assert server.running() == (START, "good")
    assert (last["from_version"], last["to_version"], last["reason"]) == (GOOD, START, "new release is slow")


def test_version_that_was_rolled_back_can_be_tried_again(server: Server) -> None:
    assert server.admin("mark", "good", "other").status == 0

    server.reboot()

    assert server.running() == (GOOD, "good")


def test_status_is_readable_on_a_terminal(server: Server) -> None:
    text = server.admin("status").out

    assert f"Version: {GOOD}" in text
    assert "Last rollback: from" in text


def test_downgrade_that_was_asked_for_boots_and_proves_good(server: Server) -> None:
    server.update(START, "--allow-downgrade")

    server.reboot()

    assert server.running() == (START, "good")
    assert server.slot("b")["state"] == "good"
