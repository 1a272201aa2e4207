# SPDX-License-Identifier: Apache-2.0
"""A new version that does not even come up: the loader counts three attempts, then the old slot is back."""

import pytest

from tests.vm.releases import GOOD, NO_ROOT, PANIC, START
from tests.vm.server import Server

BACK_SEC = 900.0
TRIES = 3


@pytest.mark.parametrize(
    ("version", "failure"),
    [(PANIC, "Kernel panic - not syncing"), (NO_ROOT, "Timed out waiting for device")],
    ids=["kernel panic", "initrd without its root"],
)
def test_three_attempts_are_made_and_the_old_slot_comes_back(
    server: Server, version: str, failure: str
) -> None:
    server.update(version)
    new, place = server.slot("b")["root_hash"], server.watch.now()

    boots = server.reboot_until(START, BACK_SEC)

    server.print_recovery(failure, server.watch.wait(failure, place))
    last = server.status()["last_rollback"]
    assert boots == [new] * TRIES + [server.slot("a")["root_hash"]]
    assert (server.running(), server.slot("b")["state"]) == ((START, "good"), "bad")
    assert (last["from_version"], last["to_version"]) == (version, START)
    assert f"used up its {TRIES} tries" in last["reason"]
    assert last["reason"] in server.admin("status").out


def test_block_that_changed_after_the_install_is_stopped_by_dm_verity(server: Server) -> None:
    server.update(GOOD)
    new = server.slot("b")
    # systemd's own binary is read in every boot; one bit of it is enough.
    place = server.machine.check(
        "/usr/bin/python3",
        "-c",
        "import sys\n"
        "needle = open('/usr/lib/systemd/systemd', 'rb').read(4096)\n"
        "block = 0\n"
        f"with open('{new['device']}', 'r+b') as device:\n"
        "    while (data := device.read(4096)) != needle:\n"
        "        block += 1\n"
        "        assert data\n"
        "    device.seek(block * 4096 + 100)\n"
        "    device.write(bytes([data[100] ^ 1]))\n"
        "print(block)\n",
        timeout_sec=300,
    )
    assert int(place) > 0

    boots = server.reboot_until(START, BACK_SEC)

    assert boots == [new["root_hash"]] * TRIES + [server.slot("a")["root_hash"]]
    assert (server.running(), server.slot("b")["state"]) == ((START, "good"), "bad")
    assert server.system_state() == "running"
