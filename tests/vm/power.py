# SPDX-License-Identifier: Apache-2.0
"""A server whose power fails while it updates itself, again and again.

QEMU is killed as a whole: what the guest had in memory is lost, and of its writes to the disk those that
QEMU had not done yet. What it had done survives on the host, flushed or not; the loss of writes that a disk
had only promised is the subject of the power cut tests that need no virtual machine.
"""

from __future__ import annotations

import json
import os
import random
import time
from dataclasses import dataclass, field
from typing import Any

from agents.slot_manager.messages import UPDATE_INSTALLED
from tests.vm.releases import GOOD, START
from tests.vm.server import SHARE, Server

SLOT_MANAGER = ("io.hypernet.SlotManager1", "/io/hypernet/SlotManager1", "io.hypernet.SlotManager1")
CUTS = int(os.environ.get("HYPERNET_POWER_CUTS", "2"))
"""How many in each file; one takes about a minute and a half without KVM, ten each before a release."""


@dataclass
class Chain:
    """One server through many power cuts. duration_sec: how long an install takes that nobody disturbs."""

    server: Server
    dice: random.Random
    duration_sec: float = 0.0
    booted: dict[str, Any] = field(default_factory=dict)
    other: dict[str, Any] = field(default_factory=dict)

    def begin(self) -> None:
        """Write the empty slot as a whole, without arming it, and remember how long that took."""
        self._look_up()
        begin = time.monotonic()
        self.server.update(self.next_version(), "--stage-only")
        self.duration_sec = time.monotonic() - begin
        self._look_up()

    def next_version(self) -> str:
        """The version that is not running."""
        return START if self.booted["version"] == GOOD else GOOD

    def forget(self) -> None:
        """Take all content from the other slot."""
        number = int(self.other["device"].removeprefix("/dev/vda"))
        for device in (f"/dev/vda{number}", f"/dev/vda{number + 1}"):
            self.server.machine.check("/sbin/blkdiscard", "--force", device)

    def cut(self, number: int, *, after_sec: float | None = None) -> None:
        """Start an install, cut the power at some moment of it, switch on again, and look."""
        machine, version = self.server.machine, self.next_version()
        if after_sec is None:
            after_sec = self.dice.uniform(0.0, self.duration_sec)
        options = ["1", "allow-downgrade", "b", "true"] if version == START else ["0"]
        image = f"{SHARE}/{self.server.releases.image(version).name}"
        before, known = self.server.boot_id(), len(machine.boots())
        machine.check("/bin/busctl", "call", *SLOT_MANAGER, "Install", "sa{sv}", image, *options)
        time.sleep(after_sec)
        machine.kill()
        machine.start()
        self.server.wait_settled(after=before)
        self._require_health(machine.boots()[known:])
        told = f"runs {self.booted['version']}, the other slot is {self.other['state']}"
        print(f"cut {number}: {version}, {after_sec:.1f} of {self.duration_sec:.1f} s: {told}", flush=True)
        if self.booted["version"] == version:
            self.duration_sec = min(self.duration_sec, after_sec)  # the next one is not to be too late

    def _require_health(self, boots: list[str]) -> None:
        """Demand that a verified, healthy slot runs and that the state of both is explained."""
        status = self._look_up()
        booted, other = self.booted, self.other
        assert boots == [booted["root_hash"]], "it came up at once, in the slot that it says"
        assert (booted["state"], booted["default"]) == ("good", True), status
        assert self.server.system_state() == "running"
        assert self.server.machine.check("/bin/cat", "/sys/block/dm-0/dm/uuid").startswith("CRYPT-VERITY-")
        assert status["operation"] == "idle"
        assert other["state"] in ("empty", "staged", "good"), status
        if other["state"] == "empty":
            # No other reason: no install may fail because an earlier one was interrupted.
            assert other["reason"].endswith("was interrupted"), status
            assert other["reason"] in self.server.admin("status").out

    def _look_up(self) -> dict[str, Any]:
        status = self.server.status()
        (self.booted,) = (slot for slot in status["slots"] if slot["booted"])
        (self.other,) = (slot for slot in status["slots"] if not slot["booted"])
        return status

    def finish(self) -> dict[str, Any]:
        """Install without disturbance, boot it, and return the fields of the journal's entry."""
        version = self.next_version()
        self.server.update(version, *(["--allow-downgrade"] if version == START else []))
        entry = newest_install(self.server)
        self.server.reboot()
        assert self.server.running() == (version, "good")
        return entry


def newest_install(server: Server) -> dict[str, Any]:
    """The journal's entry of the last finished install."""
    argv = ("/bin/journalctl", "--no-pager", "--output=json", "--lines=1", f"MESSAGE_ID={UPDATE_INSTALLED}")
    entry: dict[str, Any] = json.loads(server.machine.check(*argv))
    return entry
