# SPDX-License-Identifier: Apache-2.0
"""The programs that build and install images: where they come from, and what they say when they fail.

They are told apart from other programs because their command lines are long and their complaints are many
lines: the user gets the line that matters, the rest goes to a log.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from common import process
from hypernet_release.errors import ToolError

PACKAGES = {
    "debugfs": "e2fsprogs",
    "dpkg-deb": "dpkg",
    "dpkg-query": "dpkg",
    "gpg": "gpg",
    "mcopy": "mtools",
    "mdir": "mtools",
    "mmd": "mtools",
    "mren": "mtools",
    "mke2fs": "e2fsprogs",
    "mkfs.erofs": "erofs-utils",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.vfat": "dosfstools",
    "mkfs.xfs": "xfsprogs",
    "mksquashfs": "squashfs-tools",
    "mmdebstrap": "mmdebstrap",
    "objcopy": "binutils",
    "objdump": "binutils",
    "sfdisk": "fdisk",
    "systemctl": "systemd",
    "systemd-repart": "systemd",
    "tar": "tar",
    "tune2fs": "e2fsprogs",
    "unshare": "util-linux",
    "veritysetup": "cryptsetup-bin",
    "wipefs": "util-linux",
}
"""Debian package of each program; hypernet-release depends on all of them."""

_COMPLAINT = re.compile(
    r"^(?:E:|dracut\[E\]|(?:[\w.-]+: )?(?:error|fatal)\b).*", re.IGNORECASE | re.MULTILINE
)


def require(names: Iterable[str]) -> None:
    """Raise ToolError for the first program that is not installed, naming the package to install."""
    for name in names:
        if shutil.which(name, path=process.BASE_ENVIRONMENT["PATH"]) is None:
            package = PACKAGES.get(name)
            remedy = f"install the Debian package {package}" if package else "install it"
            raise ToolError(f"The program {name} is missing; {remedy}.")


def run(
    argv: Sequence[str],
    *,
    timeout_sec: float,
    env: Mapping[str, str] = {},
    stdin: bytes = b"",
    name: str | None = None,
    max_output_bytes: int = 1 << 20,
) -> process.Completed:
    """Run a program as common.process.run() does; it has to end with status 0.

    name: of the program for the user, if it is not the first argument. Raises ToolError.
    """
    require(argv[:1])
    name = name or argv[0]
    try:
        return process.run(
            argv, timeout_sec=timeout_sec, env=env, stdin=stdin, max_output_bytes=max_output_bytes
        )
    except process.ProcessError as error:
        command = shlex.join(argv)
        if error.completed is None:
            sentence = name + str(error).removeprefix(f"'{command}'")
            raise ToolError(sentence, f"$ {command}\n{sentence}\n") from error
        log = f"$ {command}\n{error.completed.stderr}(exit status {error.completed.returncode})\n"
        raise ToolError(f"{name} failed: {_complaint(error.completed)}.", log) from error


def _complaint(completed: process.Completed) -> str:
    """The line that says what went wrong: the first that calls itself an error, or else the last one."""
    lines = _COMPLAINT.findall(completed.stderr) or completed.stderr.strip().splitlines()[-1:]
    text = lines[0].strip().rstrip(".") if lines else ""
    return text[:300] or f"exit status {completed.returncode}"


@contextmanager
def step(title: str) -> Iterator[None]:
    """Tell the user what takes time now."""
    print(f"{title} ...", file=sys.stderr, flush=True)
    yield
