# SPDX-License-Identifier: Apache-2.0
"""Small root file systems that have all a server needs to update itself again, as the builder makes them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from hypernet_release import disk

EPOCH = 1_735_689_600
UNITS = "usr/lib/systemd/system"
TRUSTED_KEYS = "usr/share/hypernet/trusted-keys"
CONFIG_VERSION = "usr/share/hypernet/config/version"

KERNEL_ARGS = "panic=10 rd.shell=0 rd.emergency=reboot"
"""Beside roothash=, what the command line of a fit image has."""

FILES: Mapping[str, bytes] = {
    CONFIG_VERSION: b"1\n",
    "usr/bin/gpgv": b"\x7fELF",
    "usr/bin/hypernet-admin": b"#!/usr/bin/python3 -I\n",
    "usr/bin/python3.11": b"\x7fELF",
    "usr/lib/hypernet/agents/admin/__main__.py": b"",
    "usr/lib/hypernet/agents/boot_health/__main__.py": b"",
    "usr/lib/hypernet/agents/slot_manager/__main__.py": b"",
    "usr/lib/hypernet/boot-health": b"#!/usr/bin/python3 -I\n",
    "usr/lib/hypernet/slot-manager": b"#!/usr/bin/python3 -I\n",
    "usr/lib/os-release": b"ID=debian\nIMAGE_ID=hypernet\n",
    f"{UNITS}/boot-complete.target": b"[Unit]\nDescription=Boot Completion Check\n",
    f"{UNITS}/boot-complete.target.d/10-hypernet.conf": b"[Unit]\nOnFailure=hypernet-boot-failed.service\n",
    f"{UNITS}/hypernet-bless.service": b"[Unit]\nRequires=boot-complete.target\n",
    f"{UNITS}/hypernet-boot-failed.service": b"[Service]\nType=oneshot\n",
    f"{UNITS}/hypernet-boot-health.service": b"[Service]\nType=oneshot\n",
    f"{UNITS}/hypernet-slot-manager.service": b"[Service]\nType=notify\n",
    f"{UNITS}/systemd-bless-boot.service": b"[Unit]\nRequires=boot-complete.target\n",
    "usr/lib/systemd/systemd-bless-boot": b"\x7fELF",
}
LINKS: Mapping[str, str] = {
    "bin": "usr/bin",
    "etc/os-release": "../usr/lib/os-release",
    "etc/systemd/system/boot-complete.target.requires/hypernet-boot-health.service": (
        "/lib/systemd/system/hypernet-boot-health.service"
    ),
    "etc/systemd/system/multi-user.target.wants/hypernet-bless.service": (
        "/lib/systemd/system/hypernet-bless.service"
    ),
    "lib": "usr/lib",
    "usr/bin/python3": "python3.11",
}


def make_root(
    path: Path,
    *,
    trusted: Path | None,
    leave_out: Collection[str] = (),
    extra: Mapping[str, bytes] = {},
    filesystem: str = "erofs",
) -> None:
    """Write a root file system that passes the lint to `path`; filesystem: one of disk.FILESYSTEMS.

    trusted: folder that becomes /usr/share/hypernet/trusted-keys (None: there is none). leave_out: names in
    FILES or LINKS, or folders of such, that stay out. extra: content of more files by their names; they
    replace others of the same name. All names are relative to the root and have no leading slash.
    """
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        tree.mkdir()
        tree.chmod(0o755)
        fill(tree, trusted=trusted, leave_out=leave_out, extra=extra)
        disk.make_root(tree, path, EPOCH, filesystem)


def fill(
    tree: Path, *, trusted: Path | None, leave_out: Collection[str] = (), extra: Mapping[str, bytes] = {}
) -> None:
    """Put the files of such a root file system into a folder; arguments as for `make_root`."""
    for name in ("dev", "proc", "run", "sys", "tmp", "var"):
        (tree / name).mkdir()
    for name, target in LINKS.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).symlink_to(target)
    for name, content in FILES.items():
        _write(tree / name, content)
    if trusted is not None:
        shutil.copytree(trusted, tree / TRUSTED_KEYS)
    for name in leave_out:
        path = tree / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    for name, content in extra.items():
        _write(tree / name, content)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    path.chmod(0o755 if content[:2] in (b"#!", b"\x7fE") else 0o644)
