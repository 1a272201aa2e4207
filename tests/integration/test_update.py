# SPDX-License-Identifier: Apache-2.0
"""From one version to the next and back: update, trial boot, rollback, roll forward, as on a real machine.

Only the boot loader is played (slots.py); it takes its turn whenever the machine is switched on.
"""

from pathlib import Path

import pytest

from tests.integration import interfaces
from tests.integration.machine import Machine
from tests.integration.server import NAME, PATH, Server
from tests.integration.slots import ReleaseMaker, SlotDisk

NOTE = """[Unit]
Before=hypernet-post-update.target
[Service]
Type=oneshot
ExecStart=/bin/touch /config/post
[Install]
WantedBy=hypernet-post-update.target
"""
FAILING = "health_checks:\n  - name: probe\n    command: /bin/false\n    retries: 0\n"


@pytest.fixture(scope="module")
def server(machine: Machine, slot_disk: SlotDisk, releases: ReleaseMaker) -> Server:
    server = Server(machine, slot_disk, releases)
    assert server.switch_on() == "a"
    return server


# Each test goes on where the one before it ended: together they are the life of a server.


def test_image_that_nobody_trusts_is_refused_before_anything_is_written(
    server: Server, tmp_path: Path
) -> None:
    stranger = ReleaseMaker(tmp_path).get("0.2.0")
    before = server.disk.entries()

    result = server.machine.run("hypernet-admin", "update", f"--image={server.offer(stranger)}")

    assert (result.returncode, result.stderr.count("\n")) == (13, 1)
    assert (server.disk.entries(), server.slot("b")["state"]) == (before, "empty")


def test_truncated_image_is_refused(server: Server) -> None:
    path = server.offer(server.releases.get("0.2.0"))
    image = server.machine.config / Path(path).name
    image.write_bytes(image.read_bytes()[: -(1 << 20)])

    result = server.machine.run("hypernet-admin", "update", f"--image={path}")

    assert (result.returncode, result.stderr.count("\n")) == (16, 1)


def test_running_version_is_not_installed_again(server: Server) -> None:
    path = server.offer(server.releases.get("0.1.0"))

    result = server.machine.run("hypernet-admin", "update", f"--image={path}")

    assert (result.returncode, result.stderr.count("\n")) == (22, 1)


def test_update_tells_each_stage_and_arms_the_other_slot(server: Server) -> None:
    path = server.offer(server.releases.get("0.2.0"))

    assert server.machine.output("hypernet-admin", "update", f"--image={path}").splitlines() == [
        "Checking",
        "Verifying",
        "Writing",
        "Making bootable",
        "Version 0.2.0 is installed in slot b (armed: the next boot tries it, 3 tries left).",
        "Reboot to start it: systemctl reboot",
    ]


def test_armed_slot_is_the_one_that_the_next_boot_starts(server: Server) -> None:
    assert server.disk.entries() == ["hypernet_0.1.0.efi", "hypernet_0.2.0+3.efi"]
    slot = server.slot("b")
    assert (slot["state"], slot["default"], slot["tries_left"]) == ("armed", True, 3)


def test_interface_of_the_job_is_the_one_that_is_documented(server: Server) -> None:
    name, job = "io.hypernet.SlotManager1", "/io/hypernet/SlotManager1/job"
    # Refused jobs are there, too; the last one is the successful install.
    paths = server.machine.output("busctl", "tree", "--list", name).splitlines()
    last = max(path for path in paths if path.startswith(f"{job}/"))

    xml = server.machine.output("busctl", "introspect", "--xml-interface", name, last)

    assert interfaces.shown(xml, f"{name}.Job") == interfaces.documented(f"{name}.Job")


def test_installed_slot_holds_the_image(server: Server) -> None:
    work = server.releases.get("0.2.0").uki.parent

    assert (server.machine.config / "b.data").read_bytes() == (work / "root").read_bytes()


def test_reboot_tries_the_new_version_and_a_healthy_boot_proves_it(server: Server) -> None:
    assert server.reboot() == "b"

    slot = server.slot("b")
    assert (slot["state"], slot["booted"], slot["version"]) == ("good", True, "0.2.0")
    assert server.machine.run("hypernet-admin", "health").returncode == 0


def test_proven_version_stays_after_another_reboot(server: Server) -> None:
    assert server.reboot() == "b"


def test_rollback_by_hand_goes_back_at_the_next_boot(server: Server) -> None:
    done = server.admin("rollback", "--reason", "the database is slow")

    assert done == {"format": 1, "slot": "a", "version": "0.1.0", "reboot": False}
    assert server.reboot() == "a"


def test_status_says_what_was_rolled_back_and_why(server: Server) -> None:
    last = server.admin("status")["last_rollback"]

    assert (last["from"], last["from_version"], last["to"], last["to_version"]) == (
        "b",
        "0.2.0",
        "a",
        "0.1.0",
    )
    assert last["reason"] == "the database is slow"
    assert server.slot("b")["state"] == "bad"


def test_rollback_to_a_bad_slot_is_refused(server: Server) -> None:
    result = server.machine.run("hypernet-admin", "rollback")

    assert (result.returncode, result.stderr.count("\n")) == (11, 1)


def test_marking_the_slot_good_rolls_forward_in_a_new_trial(server: Server) -> None:
    server.admin("mark", "good", "other")

    assert server.slot("b")["state"] == "armed"
    assert server.reboot() == "b"
    assert server.slot("b")["state"] == "good"


def test_update_whose_boot_fails_a_required_check_goes_back_by_itself(server: Server) -> None:
    assert server.update("0.3.0")["slot"] == "a"
    (server.machine.config / "hypernet/health.yaml").write_text(FAILING)
    server.machine.stop()

    assert server.disk.boot_loader() == "a"
    server.machine.start()
    server.machine.wait_for_reboot()
    (server.machine.config / "hypernet/health.yaml").unlink()

    assert server.switch_on() == "b"
    assert (server.slot("a")["state"], server.slot("b")["state"]) == ("bad", "good")


def test_status_names_the_check_that_led_to_the_automatic_rollback(server: Server) -> None:
    last = server.admin("status")["last_rollback"]

    assert (last["from_version"], last["to_version"]) == ("0.3.0", "0.2.0")
    assert "probe" in last["reason"]


def test_rollback_reboots_when_asked(server: Server) -> None:
    server.update("0.4.0")
    assert server.reboot() == "a"

    # The machine may be gone before the command has said what it did.
    server.machine.run("hypernet-admin", "rollback", "--reboot")
    server.machine.wait_for_reboot()

    assert server.switch_on() == "b"


def test_update_reboots_when_asked_after_the_hooks_of_other_units(server: Server) -> None:
    server.add_unit("note.service", NOTE)
    path = server.offer(server.releases.get("0.5.0"))

    method = ("busctl", "call", NAME, PATH, NAME, "Install", "sa{sv}")
    server.machine.output(*method, path, "1", "reboot", "b", "true")
    server.machine.wait_for_reboot()

    assert (server.machine.config / "post").exists()
    assert server.switch_on() == "a"
    assert (server.slot("a")["version"], server.slot("a")["state"]) == ("0.5.0", "good")
    server.remove_unit("note.service")


def test_no_unit_has_failed_at_the_end(server: Server) -> None:
    assert server.machine.output("systemctl", "list-units", "--failed", "--no-legend") == ""
