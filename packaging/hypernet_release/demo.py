# SPDX-License-Identifier: Apache-2.0
"""packaging/demo: build four versions, install one, let a machine update itself and go back by itself."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from common import process
from common.errors import AgentError, report
from hypernet_release.qemu import Machine

_REPOSITORY = Path(__file__).resolve().parents[2]
_WORK = _REPOSITORY / "build/demo"
_BOOT_SEC = 300.0
_BACK_SEC = 900.0
_BROKEN_CHECK = "health_checks:\n  - name: application\n    command: /bin/false\n    retries: 0\n"
_NEXT = """
    What to try next:
      packaging/demo --shell         the same machine, with a login on this terminal (Ctrl-A X ends it)
        hypernet-admin status        what is in the slots, and why
        mount -t 9p -o trans=virtio,ro releases /mnt
        hypernet-admin update --image /mnt/hypernet-0.2.0.img
        journalctl -b -1 -u hypernet-boot-failed.service
      tests/run                      all tests
"""


class Builds(threading.Thread):
    """Builds the versions one after another while the machine runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.error: BaseException | None = None
        self._ready = {version: threading.Event() for version in ("0.1.0", "0.2.0", "0.3.0", "0.4.0")}

    def run(self) -> None:
        try:
            for version, ready in self._ready.items():
                _build(version)
                ready.set()
        except BaseException as error:
            self.error = error
            for ready in self._ready.values():
                ready.set()

    def wait(self, version: str) -> None:
        """Wait until a version is built. Raises what its build raised."""
        self._ready[version].wait()
        if self.error is not None:
            raise self.error


class Show:
    """What the person at the screen sees: a headline for each act, the machine's console below it."""

    def __init__(self) -> None:
        self._begin = time.monotonic()

    def act(self, text: str) -> None:
        seconds = time.monotonic() - self._begin
        print(f"\n\033[1m==> [{seconds // 60:.0f}:{seconds % 60:02.0f}] {text}\033[0m", flush=True)

    def console(self, chunk: bytes) -> None:
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; returns 0 if everything happened as announced."""
    parser = argparse.ArgumentParser(
        prog="demo", description="Update and automatic rollback, in a virtual machine."
    )
    parser.add_argument(
        "--shell", action="store_true", help="leave the machine running, with a login on this terminal"
    )
    arguments = parser.parse_args(argv)
    try:
        _perform(shell=arguments.shell)
        return 0
    except (Exception, KeyboardInterrupt) as error:
        return report(error, program="demo")


def _perform(*, shell: bool) -> None:
    show = Show()
    show.act("Building 0.1.0 from Debian packages; 0.2.0 (good), 0.3.0 (not healthy), 0.4.0 (panics) follow")
    shutil.rmtree(_WORK / "machine", ignore_errors=True)
    (_WORK / "machine").mkdir(parents=True)
    _make_key()
    builds = Builds()
    builds.start()
    builds.wait("0.1.0")
    disk = _WORK / "machine/disk.img"
    show.act("Installing 0.1.0 on an empty disk: the partitions of the layout, the image in slot A")
    _hypernet_image("install", str(_image("0.1.0")), str(disk), "--size=4G")
    machine = Machine(disk, _WORK / "machine", share=_WORK / "releases", cores=2, on_console=show.console)
    with machine:
        show.act("Switching the machine on: firmware, boot loader, kernel, dm-verity root, health checks")
        _settle(machine, "0.1.0")
        _status(machine)
        builds.wait("0.2.0")
        show.act("Updating to 0.2.0, into slot B, while slot A runs")
        _update(machine, "0.2.0")
        show.act("One reboot")
        _reboot(machine, "0.2.0")
        show.act("0.2.0 came up healthy and was blessed")
        _status(machine)
        builds.wait("0.3.0")
        show.act("Updating to 0.3.0, whose health check fails")
        _update(machine, "0.3.0")
        _reboot(machine, "0.2.0")
        show.act("0.3.0 was not healthy: the machine is back in 0.2.0, by itself")
        _status(machine)
        builds.wait("0.4.0")
        show.act("Updating to 0.4.0, whose kernel panics: the boot loader counts three attempts")
        _update(machine, "0.4.0")
        _reboot(machine, "0.2.0")
        show.act("0.4.0 used up its tries: the machine is back in 0.2.0, by itself")
        _status(machine)
        machine.power_off()
    show.act("Done")
    print(textwrap.dedent(_NEXT), flush=True)
    if shell:
        with Machine(
            disk, _WORK / "machine", share=_WORK / "releases", cores=2, interactive=True
        ) as machine:
            machine.wait_off(None)


def _image(version: str) -> Path:
    return _WORK / f"releases/hypernet-{version}.img"


def _make_key() -> None:
    """A key of the demo's own, made once, as a vendor would have one."""
    home = _WORK / "gnupg"
    if home.exists():
        return
    home.mkdir(mode=0o700)
    argv = ["gpg", "--batch", "--quiet", f"--homedir={home}", "--passphrase=", "--quick-generate-key"]
    process.run([*argv, "Hypernet demo <demo@example.org>", "ed25519", "sign", "never"], timeout_sec=120)


def _build(version: str) -> None:
    argv = ["build", str(_REPOSITORY / "packaging/image/build-config.yaml"), f"--version={version}"]
    argv += [
        f"--output={_WORK / 'releases'}",
        f"--gnupg-home={_WORK / 'gnupg'}",
        f"--cache={_WORK / 'cache'}",
        "--compression-level=3",
    ]
    argv += ["--package=qemu-guest-agent", f"--overlay={_REPOSITORY / 'packaging/image/demo'}"]
    if version == "0.3.0":
        check = _WORK / "not-healthy/usr/lib/hypernet/health.d/90-application.yaml"
        check.parent.mkdir(parents=True, exist_ok=True)
        check.write_text(_BROKEN_CHECK)
        argv.append(f"--overlay={_WORK / 'not-healthy'}")
    if version == "0.4.0":
        # The last panic= counts: reboot at once; the ten seconds of a real image are for people who read.
        argv += ["--kernel-arg=rdinit=/nonexistent", "--kernel-arg=panic=-1"]
    _hypernet_image(*argv)


def _hypernet_image(*argv: str) -> None:
    """Run our own image tool as an administrator would; its progress goes to the log of the builds."""
    with (_WORK / "build.log").open("ab") as log:
        result = subprocess.run(
            [sys.executable, "-m", "hypernet_release", *argv],
            stdout=log,
            stderr=log,
            timeout=1800,
            env=os.environ,
            check=False,
        )
    if result.returncode != 0:
        last = (_WORK / "build.log").read_text(errors="replace").splitlines()[-1]
        raise AgentError(f"{last} (see {_WORK / 'build.log'})")


def _settle(machine: Machine, version: str) -> None:
    machine.wait_until(lambda: machine.version() == version, f"version {version} running", _BACK_SEC)
    machine.run("/bin/systemctl", "is-system-running", "--wait", timeout_sec=_BOOT_SEC)
    machine.run("/bin/mount", "-t", "9p", "-o", "trans=virtio,ro,msize=524288", "releases", "/mnt")


def _reboot(machine: Machine, version: str) -> None:
    """Reboot, and wait until `version` runs again, through all reboots that the machine does by itself."""
    before = machine.check("/bin/cat", "/proc/sys/kernel/random/boot_id")
    machine.run("/bin/systemctl", "reboot")
    machine.wait_until(
        lambda: machine.check("/bin/cat", "/proc/sys/kernel/random/boot_id") != before,
        "the next boot",
        _BACK_SEC,
    )
    _settle(machine, version)


def _update(machine: Machine, version: str) -> None:
    _type(machine, "hypernet-admin", "update", "--image", f"/mnt/hypernet-{version}.img")


def _status(machine: Machine) -> None:
    _type(machine, "hypernet-admin", "status")


def _type(machine: Machine, *argv: str) -> None:
    print(f"\n# {' '.join(argv)}", flush=True)
    print(machine.check(f"/usr/bin/{argv[0]}", *argv[1:], timeout_sec=600), flush=True)


if __name__ == "__main__":
    sys.exit(main())
