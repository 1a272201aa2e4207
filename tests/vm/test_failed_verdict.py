# SPDX-License-Identifier: Apache-2.0
"""A new version that comes up but is not healthy: the machine goes back by itself and can say why."""

from agents.boot_health.messages import CHECK_FAILED
from tests.vm.releases import START, UNHEALTHY
from tests.vm.server import Server

BACK_SEC = 900.0
TRIES = 3


def test_failed_health_check_leads_back_to_the_old_slot_after_one_boot(server: Server) -> None:
    server.update(UNHEALTHY)
    new = server.slot("b")["root_hash"]

    boots = server.reboot_until(START, BACK_SEC)

    failed = server.journal_times("--boot=-1", f"MESSAGE_ID={CHECK_FAILED}")
    server.print_recovery("failed required check", failed[0])
    assert (boots.count(new), boots[-1]) == (1, server.slot("a")["root_hash"])
    assert server.running() == (START, "good")
    assert server.system_state() == "running"


def test_status_says_why_the_machine_went_back(server: Server) -> None:
    last = server.status()["last_rollback"]

    assert (last["from_version"], last["to_version"]) == (UNHEALTHY, START)
    assert "application" in last["reason"]
    assert (server.slot("b")["state"], server.slot("b")["reason"]) == ("bad", last["reason"])
    assert last["reason"] in server.admin("status").out


def test_journal_of_both_boots_is_kept(server: Server) -> None:
    assert "the booted slot is a trial and the other slot is good" in server.journal(
        "--boot=-1", "--unit=hypernet-boot-failed.service"
    )


def test_login_message_tells_of_the_rollback(server: Server) -> None:
    motd = server.machine.check("/bin/sh", "-c", "cat /run/motd.d/*")

    assert f"went back from {UNHEALTHY} to {START}" in motd
    assert "application" in motd


def test_version_that_failed_here_is_refused_with_its_reason(server: Server) -> None:
    result = server.try_update(UNHEALTHY)

    assert (result.status, result.err.count("\n")) == (11, 1)
    assert "application" in result.err


def test_with_retry_the_tries_are_used_up_first(server: Server) -> None:
    assert server.admin("denied", "clear", UNHEALTHY).status == 0
    server.machine.check("/bin/sh", "-c", "echo 'trial_failure: retry' > /config/hypernet/health.yaml")
    server.update(UNHEALTHY)
    new = server.slot("b")["root_hash"]

    boots = server.reboot_until(START, TRIES * BACK_SEC)

    assert boots == [new] * TRIES + [server.slot("a")["root_hash"]]
    assert (server.running(), server.slot("b")["state"]) == ((START, "good"), "bad")
