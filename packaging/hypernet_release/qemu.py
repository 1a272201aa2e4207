# SPDX-License-Identifier: Apache-2.0
"""A server in QEMU: real firmware (OVMF), an installed disk, its console, and a way to run commands in it.

For the demo and the VM tests. Commands go through the QEMU guest agent, a package of the images that are
built for it; nothing of ours listens in the guest.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from common.errors import AgentError

_FIRMWARE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
_VARIABLES = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
HOST = "10.0.2.2"
"""The host's address for a guest with a network (QEMU's default)."""

_KVM_PROBE_SEC = 6.0
_CALL_SEC = 20.0
_REPLY_MAX_BYTES = 32 << 20
_ROOT_HASH = re.compile(r"Command line: [^\n]*?(?:roothash|hypernet\.rootsha256)=([0-9a-f]{64})")
_ESCAPES = re.compile(r"\x1b(\[[0-9;?=]*[A-Za-z]|[()][A-Z0-9])|\x1bc|\r")


class MachineError(AgentError):
    """The virtual machine did not do what was expected in time; the sentence says what."""


@dataclass(frozen=True, slots=True)
class Result:
    """A command that ended in the guest: exit status, standard output and standard error."""

    status: int
    out: str
    err: str


class Machine:
    """One virtual machine; a context manager that ends it.

    disk: raw file of a disk made by `hypernet-image install`. folder: for firmware variables, socket and
    console.log. share: folder that the guest can mount by 9p, tag "releases", read-only. cores: its CPUs.
    network: a card behind a router that answers DHCP; the host's own 127.0.0.1 is HOST there.
    on_console: is given each piece of console output as it comes. interactive: console on this terminal,
    with root logged in.
    """

    def __init__(
        self,
        disk: Path,
        folder: Path,
        *,
        share: Path | None = None,
        cores: int = 1,
        memory_mib: int = 1536,
        network: bool = False,
        on_console: Callable[[bytes], None] | None = None,
        interactive: bool = False,
    ) -> None:
        self.disk = disk
        self.log = folder / "console.log"
        self._folder = folder
        self._share = share
        self._cores = cores
        self._memory_mib = memory_mib
        self._network = network
        self._on_console = on_console
        self._interactive = interactive
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: threading.Thread | None = None
        self._lock = threading.Lock()
        self._ending = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Switch the machine on. Firmware variables last between starts."""
        variables = self._folder / "variables.fd"
        if not variables.exists():
            shutil.copyfile(_VARIABLES, variables)
        self._ending = False
        self._process = self._launch()
        if not self._interactive:
            self._keeper = threading.Thread(target=self._keep, daemon=True)
            self._keeper.start()

    def kill(self) -> None:
        """Cut the power."""
        with self._lock:
            self._ending = True
            if self._process and self._process.poll() is None:
                self._process.kill()
        self.wait_off(60)

    def power_off(self, timeout_sec: float = 120.0) -> None:
        """Shut the guest down. Raises MachineError if it is not off after timeout_sec."""
        self._ending = True
        self.run("/bin/systemctl", "--no-block", "poweroff")
        self.wait_off(timeout_sec)

    def wait_off(self, timeout_sec: float | None) -> None:
        """Wait until the machine is off. Raises MachineError after timeout_sec."""
        if self._process is None:
            return
        try:
            self._process.wait(timeout_sec)
        except subprocess.TimeoutExpired:
            raise MachineError(
                f"The machine was not off after {timeout_sec:.0f} s; see {self.log}."
            ) from None
        if self._keeper:
            self._keeper.join(10)
        self._process = None

    def console(self) -> str:
        """What the console has shown since the first start, without escape sequences."""
        text = self.log.read_bytes().decode("utf-8", "replace") if self.log.exists() else ""
        return _ESCAPES.sub("", text)

    def boots(self) -> list[str]:
        """Root hash (64 hex digits) of each kernel that was started, in order, as the console shows them."""
        return _ROOT_HASH.findall(self.console())

    def run(self, *argv: str, timeout_sec: float = 120.0) -> Result:
        """Run a program in the guest to its end. Raises MachineError if the guest does not answer."""
        request = {"path": argv[0], "arg": list(argv[1:]), "capture-output": True}
        pid = self._call("guest-exec", request)["pid"]
        deadline = time.monotonic() + timeout_sec
        while time.monotonic() < deadline:
            state = self._call("guest-exec-status", {"pid": pid})
            if state["exited"]:
                status = state.get("exitcode", 128 + state.get("signal", 0))
                return Result(status, _text(state, "out-data"), _text(state, "err-data"))
            time.sleep(0.2)
        raise MachineError(f"'{' '.join(argv)}' did not end in the guest within {timeout_sec:.0f} s.")

    def check(self, *argv: str, timeout_sec: float = 120.0) -> str:
        """Like `run`, but returns standard output and raises MachineError on any other status than 0."""
        result = self.run(*argv, timeout_sec=timeout_sec)
        if result.status != 0:
            raise MachineError(
                f"'{' '.join(argv)}' ended with status {result.status} in the guest: "
                f"{(result.err or result.out).strip()}"
            )
        return result.out

    def wait_until(self, condition: Callable[[], bool], what: str, timeout_sec: float) -> None:
        """Wait until condition() holds; no answer counts as "not yet". Raises MachineError."""
        deadline = time.monotonic() + timeout_sec
        while time.monotonic() < deadline:
            if self._keeper is None or not self._keeper.is_alive():
                raise MachineError(f"The machine went off while waiting for {what}; see {self.log}.")
            try:
                if condition():
                    return
            except MachineError:
                pass
            time.sleep(1.0)
        raise MachineError(f"{what}: not within {timeout_sec:.0f} s; see {self.log}.")

    def version(self) -> str:
        """IMAGE_VERSION of the running system."""
        match = re.search(
            r'^IMAGE_VERSION="?([^"\n]+)', self.check("/bin/cat", "/etc/os-release"), re.MULTILINE
        )
        return match[1] if match else ""

    def _launch(self) -> subprocess.Popen[bytes]:
        agent = self._folder / "agent.sock"
        agent.unlink(missing_ok=True)
        argv = ["qemu-system-x86_64", "-machine", "q35", *accelerator(), "-smp", str(self._cores)]
        argv += ["-m", str(self._memory_mib), "-nodefaults", "-display", "none", "-device", "virtio-rng-pci"]
        argv += ["-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={_FIRMWARE}"]
        argv += ["-drive", f"if=pflash,format=raw,unit=1,file={self._folder / 'variables.fd'}"]
        argv += ["-drive", f"if=virtio,format=raw,cache=unsafe,discard=unmap,file={self.disk}"]
        argv += ["-device", "i6300esb", "-device", "virtio-serial"]
        argv += ["-chardev", f"socket,id=agent,path={agent},server=on,wait=off"]
        argv += ["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]
        if self._share:
            share = f"local,path={self._share},mount_tag=releases,security_model=none,readonly=on"
            argv += ["-virtfs", share]
        if self._network:
            argv += ["-netdev", "user,id=network", "-device", "virtio-net-pci,netdev=network,romfile="]
        if self._interactive:
            # See packaging/image/demo: a login on this terminal.
            argv += ["-fw_cfg", "name=opt/io.systemd.credentials/demo.autologin,string=yes"]
            argv += ["-serial", "mon:stdio"]
        else:
            argv += ["-serial", "stdio", "-no-reboot"]
        output = None if self._interactive else subprocess.PIPE
        source = None if self._interactive else subprocess.DEVNULL
        env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TMPDIR": str(self._folder)}
        return subprocess.Popen(argv, stdin=source, stdout=output, stderr=subprocess.STDOUT, env=env)

    def _keep(self) -> None:
        """Log the console, and start QEMU anew for each reset of the guest, until the machine is to be off.

        Under TCG firmware and boot loader take five times as long after a reset inside one QEMU process.
        """
        with self.log.open("ab", buffering=0) as log:
            while True:
                process = self._process
                assert process is not None
                assert process.stdout is not None
                while chunk := os.read(process.stdout.fileno(), 65536):
                    log.write(chunk)
                    if self._on_console:
                        self._on_console(chunk)
                failed = process.wait() != 0
                with self._lock:
                    if self._ending or failed:
                        return
                    self._process = self._launch()

    def _call(self, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """One request to the guest agent, resynchronised first (QEMU guest agent protocol)."""
        token = time.monotonic_ns() & 0x7FFFFFFF
        sync = {"execute": "guest-sync-delimited", "arguments": {"id": token}}
        request = {"execute": command, "arguments": arguments}
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(_CALL_SEC)
                connection.connect(str(self._folder / "agent.sock"))
                connection.sendall(b"\xff" + json.dumps(sync).encode() + b"\n")
                buffer = _receive(
                    connection, b"", lambda data: f"{token}}}".encode() in data.rpartition(b"\xff")[2]
                )
                connection.sendall(json.dumps(request).encode() + b"\n")
                rest = buffer.rpartition(b"\xff")[2].partition(b"\n")[2]
                reply = json.loads(_receive(connection, rest, lambda data: data.endswith(b"\n")))
        except (OSError, ValueError) as error:
            raise MachineError(f"The guest does not answer: {error}.") from error
        if "error" in reply:
            raise MachineError(f"The guest agent refused {command}: {reply['error'].get('desc')}.")
        value: dict[str, Any] = reply["return"]
        return value


def _receive(connection: socket.socket, buffer: bytes, complete: Callable[[bytes], bool]) -> bytes:
    while not complete(buffer):
        chunk = connection.recv(1 << 20)
        if not chunk or len(buffer) > _REPLY_MAX_BYTES:
            raise OSError("connection closed")
        buffer += chunk
    return buffer


def _text(state: dict[str, Any], key: str) -> str:
    return base64.b64decode(state.get(key, "")).decode("utf-8", "replace")


@functools.cache
def accelerator() -> Sequence[str]:
    """QEMU's options for KVM if a guest really runs under it, else for TCG.

    On some hosts /dev/kvm opens and guests hang. For TCG the plainest CPU is the fastest: SHA-256 in plain
    instructions is five times as fast as emulated vector instructions.
    """
    kvm = ["-accel", "kvm", "-cpu", "host"]
    if os.access("/dev/kvm", os.R_OK | os.W_OK) and _firmware_starts(kvm):
        return kvm
    return ["-accel", "tcg,thread=multi", "-cpu", "qemu64,-svm"]


def _firmware_starts(options: Sequence[str]) -> bool:
    """Whether OVMF says anything on the serial line within some seconds."""
    argv = [
        "qemu-system-x86_64",
        "-machine",
        "q35",
        *options,
        "-m",
        "256",
        "-nodefaults",
        "-display",
        "none",
    ]
    argv += ["-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={_FIRMWARE}"]
    argv += ["-drive", f"if=pflash,format=raw,unit=1,snapshot=on,file={_VARIABLES}", "-serial", "stdio"]
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as probe:
        assert probe.stdout is not None
        timer = threading.Timer(_KVM_PROBE_SEC, probe.kill)
        timer.start()
        seen = b""
        while b"Bds" not in seen and (chunk := os.read(probe.stdout.fileno(), 4096)):
            seen += chunk
        timer.cancel()
        probe.kill()
    return b"Bds" in seen
