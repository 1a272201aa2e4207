# SPDX-License-Identifier: Apache-2.0
"""Other updaters, set up as their manuals say, for the same bytes and the same device."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from common import process
from tests.bench.scene import Place, Release
from tests.bench.write_path import run

_START_SEC = 15.0
_BUS = """<busconfig>
  <type>session</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_destination="*"/><allow eavesdrop="true"/>
  </policy>
</busconfig>
"""
_SYSTEM = """[system]
compatible=bench
bootloader=custom
mountprefix={work}/mount
[handlers]
bootloader-custom-backend={work}/backend
[keyring]
path={certificate}
[slot.rootfs.0]
device={work}/running
type=raw
bootname=A
[slot.rootfs.1]
device={device}
type=raw
bootname=B
"""
_BACKEND = '#!/bin/sh\n[ "$1" = get-primary ] && echo A\n[ "$1" = get-state ] && echo good\nexit 0\n'
_BUNDLE = (
    "[update]\ncompatible=bench\nversion=2\n[bundle]\nformat=plain\n[image.rootfs]\nfilename=rootfs.img\n"
)
_COMPRESSION = {"zstd": "-comp zstd -Xcompression-level 3", "gzip": "-comp gzip"}
_DESCRIPTION = """software = {{
  version = "2.0.0";
  hardware-compatibility = [ "1.0" ];
  images: ( {{
    filename = "rootfs.img"; sha256 = "{sha256}";
    device = "{device}"; type = "raw"; installed-directly = true;
  }} );
}}
"""


def make_certificate(work: Path) -> tuple[Path, Path]:
    """A certificate that signs for itself, for CMS, and its key."""
    certificate, key = work / "certificate.pem", work / "key.pem"
    if not certificate.exists():
        argv = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "30",
            "-subj",
            "/CN=bench",
        ]
        argv += ["-addext", "keyUsage=digitalSignature", "-addext", "extendedKeyUsage=emailProtection"]
        process.run([*argv, "-keyout", str(key), "-out", str(certificate)], timeout_sec=60)
    return certificate, key


class Rauc:
    """`rauc install` of plain bundles, by its service on a bus of its own; a context manager.

    RAUC's default is gzip.
    """

    def __init__(self, work: Path, release: Release, machine: Place) -> None:
        self._work = work
        certificate, key = make_certificate(work)
        backend = work / "backend"
        backend.write_text(_BACKEND)
        backend.chmod(0o755)
        (work / "mount").mkdir()
        (work / "running").write_bytes(bytes(4096))
        config = work / "system.conf"
        config.write_text(_SYSTEM.format(work=work, certificate=certificate, device=machine.data))
        content = work / "content"
        content.mkdir()
        os.link(release.root, content / "rootfs.img")
        (content / "manifest.raucm").write_text(_BUNDLE)
        for name, options in _COMPRESSION.items():
            argv = [
                "rauc",
                "bundle",
                f"--cert={certificate}",
                f"--key={key}",
                f"--mksquashfs-args={options}",
            ]
            process.run([*argv, str(content), str(work / f"{name}.raucb")], timeout_sec=900)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            # Not in the work folder: the path of a socket is short.
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rauc-")))
            (folder / "bus.conf").write_text(_BUS.format(socket=folder / "bus"))
            self.address = f"unix:path={folder / 'bus'}"
            self._env = {**process.BASE_ENVIRONMENT, "DBUS_SYSTEM_BUS_ADDRESS": self.address}
            bus = ["dbus-daemon", f"--config-file={folder / 'bus.conf'}", "--nofork", "--nopidfile"]
            self._run_beside(stack, bus)
            self._wait("the bus", lambda: (folder / "bus").exists())
            argv = ["rauc", f"--conf={self._work / 'system.conf'}", "--override-boot-slot=A", "service"]
            self._run_beside(stack, argv)
            self._wait("rauc", lambda: self._rauc("status").returncode == 0)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def install(self, compression: str) -> float:
        """Seconds that `rauc install` takes."""
        return self._timed("install", str(self._work / f"{compression}.raucb"))

    def status(self) -> float:
        """Seconds that `rauc status` takes."""
        return self._timed("status")

    def _timed(self, *argv: str) -> float:
        begin = time.perf_counter()
        completed = self._rauc(*argv)
        took = time.perf_counter() - begin
        assert completed.returncode == 0, completed.stderr.decode()
        return took

    def _rauc(self, *argv: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["rauc", *argv], env=self._env, capture_output=True, timeout=300, check=False)

    def _run_beside(self, stack: ExitStack, argv: list[str]) -> None:
        child = subprocess.Popen(argv, env=self._env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(child.wait)
        stack.callback(child.send_signal, signal.SIGTERM)

    def _wait(self, what: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _START_SEC
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not start"
            time.sleep(0.05)


class SwUpdate:
    """`swupdate -i` of a raw image with a signed description, written as it is read (installed-directly)."""

    def __init__(self, work: Path, release: Release, machine: Place) -> None:
        folder = work / "swupdate"
        folder.mkdir()
        self._certificate, key = make_certificate(work)
        os.link(release.root, folder / "rootfs.img")
        with release.root.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        (folder / "sw-description").write_text(_DESCRIPTION.format(device=machine.data, sha256=sha256))
        argv = ["openssl", "cms", "-sign", "-in", "sw-description", "-out", "sw-description.sig", "-binary"]
        argv += ["-signer", str(self._certificate), "-inkey", str(key), "-outform", "DER", "-nosmimecap"]
        process.run(argv, timeout_sec=60, cwd=folder)
        names = b"sw-description\nsw-description.sig\nrootfs.img\n"
        self._archive = work / "update.swu"
        process.run(
            ["cpio", "--create", "--format=crc", "--quiet", "--file", str(self._archive)],
            timeout_sec=300,
            stdin=names,
            cwd=folder,
        )

    def install(self) -> float:
        begin = time.perf_counter()
        # No marks for a boot loader: there is none here.
        argv = ["swupdate", "-H", "bench:1.0", "-k", str(self._certificate), "-M", "-m", "-l", "1"]
        run(*argv, "-i", str(self._archive))
        return time.perf_counter() - begin


class Script:
    """What a careful administrator does by hand: gpgv, sha256sum, dd, and reading back what was written."""

    def __init__(self, work: Path, release: Release, machine: Place) -> None:
        folder = work / "script"
        folder.mkdir()
        self._folder, self._device = folder, machine.data
        os.link(release.root, folder / "rootfs.img")
        run("sh", "-c", f"cd {folder} && sha256sum rootfs.img > sums")
        gpg = ["gpg", "--batch", "--homedir", str(release.gnupg)]
        argv = [*gpg, "--armor", "--output", str(folder / "sums.asc"), "--detach-sign", str(folder / "sums")]
        process.run(argv, timeout_sec=60)
        process.run([*gpg, "--output", str(folder / "keyring.gpg"), "--export"], timeout_sec=60)

    def install(self) -> float:
        steps = (
            f"cd {self._folder}",
            "gpgv --quiet --keyring ./keyring.gpg sums.asc sums",
            "sha256sum --check --quiet sums",
            f"dd if=rootfs.img of={self._device} bs=4M conv=fsync status=none",
            f"blockdev --flushbufs {self._device}",
            f"sed 's#rootfs.img#{self._device}#' sums | sha256sum --check --quiet",
        )
        begin = time.perf_counter()
        run("sh", "-c", f"{{ {' && '.join(steps)}; }} 2>&1")
        return time.perf_counter() - begin
