# SPDX-License-Identifier: Apache-2.0
"""A server with two slots: the test machine, its disk, and what an administrator does with them."""

import json
import time
from typing import Any

from tests.integration.machine import Machine
from tests.integration.slots import Release, ReleaseMaker, SlotDisk

NAME = "io.hypernet.SlotManager1"
PATH = "/io/hypernet/SlotManager1"


class Server:
    """The machine and its disk; version 0.1.0 is in slot a and good."""

    def __init__(self, machine: Machine, disk: SlotDisk, releases: ReleaseMaker) -> None:
        self.machine = machine
        self.disk = disk
        self.releases = releases

    def switch_on(self) -> str:
        """Boot; return the slot that was started."""
        slot = self.disk.boot_loader()
        self.machine.boot()
        return slot

    def reboot(self) -> str:
        """Shut down and boot again."""
        self.machine.stop()
        return self.switch_on()

    def admin(self, *argv: str) -> dict[str, Any]:
        """Run hypernet-admin, which must succeed, and return its JSON."""
        values: dict[str, Any] = json.loads(self.machine.output("hypernet-admin", *argv, "--json=short"))
        return values

    def slot(self, name: str) -> dict[str, Any]:
        (slot,) = (slot for slot in self.admin("status")["slots"] if slot["name"] == name)
        return dict(slot)

    def offer(self, release: Release) -> str:
        """Copy an image with its sidecars onto the machine; return its path there."""
        release.offer(self.machine.config)
        return f"/config/{release.image.name}"

    def update(self, version: str) -> dict[str, Any]:
        """Install a version."""
        return self.admin("update", f"--image={self.offer(self.releases.get(version))}")

    def property(self, name: str, path: str = PATH, interface: str = NAME) -> Any:
        """Return a property of slot-manager, as busctl reads it."""
        said = self.machine.output("busctl", "--json=short", "get-property", NAME, path, interface, name)
        return json.loads(said)["data"]

    def wait_for(self, job: str, *results: str) -> str:
        """Wait until a job has ended; return its result, which has to be one of `results`."""
        deadline = time.monotonic() + 60
        while not (result := str(self.property("Result", job, f"{NAME}.Job"))):
            assert time.monotonic() < deadline, f"{job} does not end"
            time.sleep(0.1)
        assert result in results, self.property("ErrorMessage", job, f"{NAME}.Job")
        return result

    def add_unit(self, name: str, text: str) -> None:
        """Install and enable a unit of an administrator."""
        (self.machine.root / "etc/systemd/system" / name).write_text(text)
        self.machine.output("systemctl", "enable", name)

    def remove_unit(self, name: str) -> None:
        """Take such a unit away."""
        self.machine.output("systemctl", "disable", "--now", name)
        (self.machine.root / "etc/systemd/system" / name).unlink()
        self.machine.output("systemctl", "daemon-reload")
        self.machine.run("systemctl", "reset-failed", name)
