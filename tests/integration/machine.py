# SPDX-License-Identifier: Apache-2.0
"""A machine for tests: real systemd as PID 1 in systemd-nspawn, driven as an administrator would.

systemd-nspawn needs no systemd on the host: it runs in a private mount namespace that has the cgroup2 tree
at /sys/fs/cgroup, below a cgroup of its own.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.integration.root_tree import USER, USER_ID

_IN_PRIVATE_MOUNTS = ("unshare", "--mount", "--propagation=private", "sh", "-c")
_PRIVATE_CGROUPS = """
set -e
umount --recursive --lazy /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
"""
_START = (
    _PRIVATE_CGROUPS
    + """
cgroup=/sys/fs/cgroup/$1
shift
mkdir "$cgroup"
echo $$ > "$cgroup/cgroup.procs"
exec systemd-nspawn "$@"
"""
)
_REMOVE_CGROUP = (
    _PRIVATE_CGROUPS
    + """
cgroup=/sys/fs/cgroup/$1
echo 1 > "$cgroup/cgroup.kill"
while grep -q 'populated 1' "$cgroup/cgroup.events"; do sleep 0.05; done
find "$cgroup" -depth -type d -exec rmdir {} +
"""
)

_REBOOT_STATUS = 133
"""Exit status of systemd-nspawn --keep-unit when the machine wants to reboot."""

_END_SEC = 60.0
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "TERM": "dumb"}


class Machine:
    """A root tree that can be booted, asked, and stopped; a context manager that leaves nothing running.

    folder: has `root` with the root file system, and `config` and `efi`, which are mounted at /config and
    /efi. What a boot changes there is seen by the next boot.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.config = folder / "config"
        self.efi = folder / "efi"
        self._console = folder / "console"
        self._name = f"hypernet-test-{os.getpid()}"
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self._notify: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._nspawn is not None:
            self._nspawn.kill()
            self._nspawn.wait()
            self._clean_up()

    @property
    def running(self) -> bool:
        """Whether the machine is switched on."""
        return self._nspawn is not None

    @property
    def leader(self) -> int:
        """Process id of its systemd, for those who enter one of its namespaces."""
        assert self._leader, "the machine is not running"
        return self._leader

    def boot(self, *, timeout_sec: float = 60) -> None:
        """Start the machine and wait until systemd has done what the boot consists of, well or badly.

        Raises AssertionError with the end of the console if that takes longer than `timeout_sec`.
        """
        self.start()
        deadline = time.monotonic() + timeout_sec
        self._listen(deadline, "READY=1")
        # A failed job may have started another one (OnFailure=) after systemd was ready.
        while self.output("systemctl", "list-jobs", "--no-legend") and time.monotonic() < deadline:
            time.sleep(0.05)

    def enter(self, *, timeout_sec: float = 30) -> None:
        """Wait until programs can be run in a machine that was started; its boot goes on."""
        deadline = time.monotonic() + timeout_sec
        self._listen(deadline, "X_NSPAWN_LEADER_PID=")
        while self.run("systemctl", "is-active", "dbus.socket").returncode:
            assert time.monotonic() < deadline, self._end_of_console()
            time.sleep(0.05)

    def start(self) -> None:
        """Start the machine and wait for nothing."""
        assert self._nspawn is None
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(f"\0{self._name}")
        with self._console.open("ab") as console:
            self._nspawn = subprocess.Popen(
                # The machine must not outlive the tests, even if they are killed. It would outlive a SIGKILL
                # of systemd-nspawn; at SIGTERM that powers the machine off.
                ["setpriv", "--pdeathsig=TERM", *_IN_PRIVATE_MOUNTS, _START, "sh", *self._options()],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={**_ENVIRONMENT, "NOTIFY_SOCKET": f"@{self._name}"},
            )

    def stop(self) -> None:
        """Power the machine off in good order."""
        assert self._nspawn is not None
        self._nspawn.send_signal(signal.SIGTERM)
        assert self._wait_for_end() == 0

    def wait_for_reboot(self) -> None:
        """Wait until the machine reboots by itself; it is off then, the next boot is up to the caller."""
        assert self._wait_for_end() == _REBOOT_STATUS

    def run(
        self, *argv: str, user: str = "root", stdin: str = "", timeout_sec: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside, as root or as USER, and return its status and output."""
        assert self._leader, "the machine is not running"
        as_user = ["setpriv", f"--reuid={USER_ID}", f"--regid={USER_ID}", "--clear-groups"]
        return subprocess.run(
            ["nsenter", f"--target={self._leader}", "--all", *(as_user if user == USER else []), *argv],
            input=stdin,
            capture_output=True,
            text=True,
            env=_ENVIRONMENT,
            timeout=timeout_sec,
            check=False,
        )

    def output(self, *argv: str, user: str = "root", stdin: str = "", timeout_sec: float = 60) -> str:
        """Run a program that has to succeed and return its output without the last newline."""
        result = self.run(*argv, user=user, stdin=stdin, timeout_sec=timeout_sec)
        assert result.returncode == 0, f"{' '.join(argv)}: {result.stdout}{result.stderr}"
        return result.stdout.rstrip("\n")

    def _options(self) -> list[str]:
        return [
            self._name,
            "--quiet",
            "--boot",
            "--register=no",
            "--keep-unit",
            "--private-network",
            "--resolv-conf=off",
            "--timezone=off",
            "--link-journal=no",
            "--console=read-only",
            "--notify-ready=yes",
            f"--machine={self._name}",
            f"--directory={self.root}",
            f"--bind={self.config}:/config",
            f"--bind={self.efi}:/efi",
        ]

    def _listen(self, deadline: float, awaited: str) -> None:
        """Listen to what systemd-nspawn and the systemd in it notify until a line begins like that."""
        assert self._notify is not None
        while (left := deadline - time.monotonic()) > 0:
            self._notify.settimeout(left)
            try:
                lines = self._notify.recv(4096).decode().splitlines()
            except TimeoutError:
                break
            for line in lines:
                key, _, value = line.partition("=")
                if key == "X_NSPAWN_LEADER_PID":
                    self._leader = int(value)
            if any(line.startswith(awaited) for line in lines):
                # systemd tells about jobs that take long, and would hang as soon as nobody reads it.
                self._notify.close()
                return
        raise AssertionError(f"The machine did not boot in time:\n{self._end_of_console()}")

    def _wait_for_end(self) -> int:
        assert self._nspawn is not None
        try:
            status = self._nspawn.wait(_END_SEC)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"The machine is still on:\n{self._end_of_console()}") from None
        self._clean_up()
        return status

    def _clean_up(self) -> None:
        self._nspawn = None
        self._leader = 0
        if self._notify is not None:
            self._notify.close()
        subprocess.run(
            [*_IN_PRIVATE_MOUNTS, _REMOVE_CGROUP, "sh", self._name],
            env=_ENVIRONMENT,
            check=True,
            timeout=60,
        )

    def _end_of_console(self) -> str:
        return self._console.read_bytes()[-4000:].decode(errors="replace")


def missing_tools() -> list[str]:
    """Return what the host lacks to run a machine; a machine also needs root."""
    tools = ("mmdebstrap", "systemd-nspawn", "nsenter", "unshare", "dpkg-buildpackage", "chroot")
    return [tool for tool in tools if shutil.which(tool) is None]
