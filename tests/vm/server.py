# SPDX-License-Identifier: Apache-2.0
"""A server under test: an installed disk in QEMU, driven as an administrator would drive it."""

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.boot_health.messages import VERDICT_DEGRADED, VERDICT_HEALTHY
from hypernet_release import install
from hypernet_release.qemu import Machine, MachineError, Result
from tests.vm.releases import REPOSITORY, Releases
from tests.vm.watch import Watch

DISK_BYTES = 4 << 30
BOOT_SEC = 300.0
UPDATE_SEC = 600.0
SHARE = "/mnt"


@dataclass
class Server:
    """machine: switched on. releases: visible in the guest below /mnt. watch: sees the console."""

    machine: Machine
    releases: Releases
    watch: Watch = field(default_factory=Watch)

    def wait_settled(self, timeout_sec: float = BOOT_SEC, *, after: str = "") -> None:
        """Wait until a boot other than `after` (a boot id) has run all its jobs, and mount the releases."""
        self.machine.wait_until(lambda: self.boot_id() not in ("", after), "the next boot", timeout_sec)
        self.machine.run("/bin/systemctl", "is-system-running", "--wait", timeout_sec=timeout_sec)
        self.machine.check("/bin/mount", "-t", "9p", "-o", "trans=virtio,ro,msize=524288", "releases", SHARE)

    def boot_id(self) -> str:
        return self.machine.check("/bin/cat", "/proc/sys/kernel/random/boot_id").strip()

    def system_state(self) -> str:
        return self.machine.run("/bin/systemctl", "is-system-running").out.strip()

    def admin(self, *argv: str, timeout_sec: float = 120.0) -> Result:
        return self.machine.run("/usr/bin/hypernet-admin", *argv, timeout_sec=timeout_sec)

    def status(self) -> dict[str, Any]:
        """What `hypernet-admin status --json` says."""
        result = self.admin("status", "--json=short")
        if result.status != 0:
            raise MachineError(f"hypernet-admin status: {result.err.strip()}")
        values: dict[str, Any] = json.loads(result.out)
        return values

    def slot(self, name: str) -> dict[str, Any]:
        """One slot of the status."""
        (found,) = (slot for slot in self.status()["slots"] if slot["name"] == name)
        return dict(found)

    def running(self) -> tuple[str, str]:
        """Version and state of the slot that is booted."""
        (booted,) = (slot for slot in self.status()["slots"] if slot["booted"])
        return booted["version"], booted["state"]

    def entries(self) -> list[str]:
        """Names of the boot entries on the ESP."""
        return sorted(self.machine.check("/bin/ls", "/efi/EFI/Linux").split())

    def update(self, version: str, *options: str) -> None:
        """Install a version into the other slot; it is armed then, unless the options say otherwise."""
        result = self.try_update(version, *options)
        assert result.status == 0, result.err

    def try_update(self, version: str, *options: str) -> Result:
        """Like `update`, but returns how it ended."""
        image = f"{SHARE}/{self.releases.image(version).name}"
        return self.admin("update", "--image", image, *options, timeout_sec=UPDATE_SEC)

    def reboot(self) -> None:
        """Reboot once and wait for the boot that follows."""
        before = self.boot_id()
        self.machine.run("/bin/systemctl", "reboot")
        self.wait_settled(after=before)

    def reboot_until(self, version: str, timeout_sec: float) -> list[str]:
        """Reboot and wait until `version` is up and settled, through all reboots that happen by themselves.

        Returns the root hashes of all boots since, in order, this last one included.
        """
        known = len(self.machine.boots())
        before = self.boot_id()
        self.machine.run("/bin/systemctl", "reboot")
        self.machine.wait_until(
            lambda: self.boot_id() != before and self.machine.version() == version,
            f"{version} running",
            timeout_sec,
        )
        self.wait_settled(after=before)
        return self.machine.boots()[known:]

    def write(self, path: str, text: str) -> None:
        """Write a file in the guest, and the folders above it."""
        folder, name = shlex.quote(path.rpartition("/")[0]), shlex.quote(path)
        self.shell(f"mkdir -p {folder} && printf %s {shlex.quote(text)} > {name} && sync")

    def shell(self, command: str) -> str:
        return self.machine.check("/bin/sh", "-c", command)

    def journal(self, *match: str) -> str:
        return self.machine.check("/bin/journalctl", "--no-pager", "--output=cat", *match)

    def journal_times(self, *match: str) -> list[float]:
        """When the entries were written, in seconds since 1970: the guest starts with the host's clock."""
        argv = ("/bin/journalctl", "--no-pager", "--output=json", "--output-fields=MESSAGE", *match)
        lines = self.machine.check(*argv).splitlines()
        return [int(json.loads(line)["__REALTIME_TIMESTAMP"]) / 1e6 for line in lines]

    def print_recovery(self, what: str, failed_at: float) -> None:
        """Print the time from a failure (seconds since 1970) to the verdict on the boot that runs now."""
        verdicts = (f"MESSAGE_ID={VERDICT_HEALTHY}", f"MESSAGE_ID={VERDICT_DEGRADED}")
        took = self.journal_times("--boot", *verdicts)[-1] - failed_at
        print(f"{what}: {took:.0f} s until {self.running()[0]} was healthy", flush=True)


def install_server(releases: Releases, folder: Path, version: str) -> Path:
    """Install a version on a new disk file; returns its path."""
    disk = folder / "disk.img"
    request = install.Request(
        image=releases.image(version),
        disk=disk,
        definitions=REPOSITORY / "packaging/image/repart.d",
        size_bytes=DISK_BYTES,
        wipe=False,
    )
    install.install(request)
    return disk


@contextmanager
def running_server(releases: Releases, folder: Path, version: str) -> Iterator[Server]:
    """Install a version on a new disk, boot it, and switch it off and remove the disk in the end."""
    disk, watch = install_server(releases, folder, version), Watch()
    with Machine(disk, folder, share=releases.folder, on_console=watch.see) as machine:
        server = Server(machine, releases, watch)
        server.wait_settled()
        yield server
    disk.unlink()
