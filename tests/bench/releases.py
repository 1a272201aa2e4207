# SPDX-License-Identifier: Apache-2.0
"""Two real updates of a Debian server, made of Debian packages; needs root and the Debian archive.

    python3 -m tests.bench.releases [--folder DIR]

`sec-old` to `sec-new` is a security release: the point release of Debian 12, then the same packages with
bookworm-updates and bookworm-security: a few tens of packages and a kernel. `sec-old` to `small-new` is a
small change: two more programs, two edited files, a random blob of 3 MiB. Trees and file systems are kept in
the folder; remove it to get what the archive has today.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

FOLDER: Final = Path("/var/tmp/hypernet-releases")
NAMES: Final = ("sec-old", "sec-new", "small-new")
PAIRS: Final = {"security": ("sec-old", "sec-new"), "small": ("sec-old", "small-new")}
EPOCH: Final = 1_735_689_600
_EPOCH: Final = {"SOURCE_DATE_EPOCH": str(EPOCH)}

_PACKAGES: Final = (
    "linux-image-cloud-amd64",
    "systemd-sysv",
    "systemd-timesyncd",
    "systemd-resolved",
    "dbus",
    "nginx",
    "ssh",
    "python3",
    "python3-venv",
    "ca-certificates",
    "curl",
    "openssl",
    "perl",
    "rsync",
    "sudo",
    "gnupg",
    "wget",
)
_MORE_PACKAGES: Final = {"small-new": ("htop", "tmux")}
_ARCHIVE: Final = "http://deb.debian.org/debian"
_OLD: Final = (f"deb {_ARCHIVE} bookworm main",)
_NEW: Final = (
    *_OLD,
    f"deb {_ARCHIVE} bookworm-updates main",
    f"deb {_ARCHIVE}-security bookworm-security main",
)
# What differs from one bootstrap to the next though no package does, and what an image has in its ESP.
_LEFTOVERS: Final = ("etc/ssh/ssh_host_*", "var/log/*", "var/cache/*", "initrd.img*", "etc/machine-id")
_UUID: Final = "1d0a4bd0-7b8e-4a57-9a55-5a0b7a86f4c1"
_EROFS: Final = ("mkfs.erofs", "--quiet", f"-T{EPOCH}", f"-U{_UUID}")


def run(argv: Sequence[str | Path], env: Mapping[str, str] = {}) -> str:
    """Standard output of a program; ends this one with what it complains of."""
    done = subprocess.run(argv, env={**os.environ, "LC_ALL": "C.UTF-8", **env}, capture_output=True)
    if done.returncode:
        sys.exit(f"{argv[0]} failed:\n{done.stderr.decode(errors='replace')}")
    return done.stdout.decode()


def tree(folder: Path, name: str) -> Path:
    """The root tree of one of NAMES, bootstrapped unless it is there."""
    path = folder / name
    if not path.exists():
        part = folder / f".{name}"
        shutil.rmtree(part, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        _bootstrap(part, name)
        part.rename(path)
    return path


def _bootstrap(path: Path, name: str) -> None:
    packages = (*_PACKAGES, *_MORE_PACKAGES.get(name, ()))
    argv = ["mmdebstrap", "--quiet", "--mode=root", "--variant=important", "--format=directory"]
    argv += ["--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", f"--include={','.join(packages)}"]
    argv += ["--dpkgopt=path-exclude=/etc/kernel/postinst.d/*", '--aptopt=APT::Install-Recommends "false"']
    run([*argv, "bookworm", path, *(_NEW if name == "sec-new" else _OLD)], _EPOCH)
    for pattern in _LEFTOVERS:
        for leftover in path.glob(pattern):
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()
    if name == "small-new":
        for edited in ("etc/nginx/nginx.conf", "etc/ssh/sshd_config"):
            with (path / edited).open("a") as file:
                file.write("# changed\n")
        (path / "opt/blob").write_bytes(random.Random(1).randbytes(3 << 20))


def _erofs(*options: str) -> Callable[[Path, Path], list[str]]:
    return lambda source, target: [*_EROFS, *options, str(target), str(source)]


def _squashfs(*options: str) -> Callable[[Path, Path], list[str]]:
    words = ("-quiet", "-no-progress", "-noappend", "-all-time", str(EPOCH), *options)
    return lambda source, target: ["mksquashfs", str(source), str(target), *words]


def _ext4(source: Path, target: Path) -> list[str]:
    features = f"hash_seed={_UUID},lazy_itable_init=0,lazy_journal_init=0"
    argv = ["mke2fs", "-q", "-t", "ext4", "-b", "4096", "-O", "^has_journal", "-U", _UUID, "-E", features]
    return [*argv, "-d", str(source), str(target), "1G"]


LAYOUTS: Final[dict[str, Callable[[Path, Path], list[str]]]] = {
    "erofs noinline": _erofs("-Enoinline_data"),
    "erofs inline": _erofs(),
    "erofs lz4hc": _erofs("-Enoinline_data", "-zlz4hc"),
    "erofs lz4hc 64k": _erofs("-Enoinline_data", "-zlz4hc", "-C65536"),
    "squashfs stored": _squashfs("-noI", "-noD", "-noF", "-noX"),
    "squashfs zstd": _squashfs("-comp", "zstd"),
    "squashfs zstd, no fragments": _squashfs("-comp", "zstd", "-no-fragments", "-no-duplicates"),
    "ext4": _ext4,
}
"""The command line that makes the file system `target` of the tree `source`, by layout."""


def root(folder: Path, name: str, layout: str) -> Path:
    """The root file system of one of NAMES in one of LAYOUTS, made unless it is there."""
    path = folder / f"{name}.{layout.replace(', ', '-').replace(' ', '-')}"
    if not path.exists():
        part = path.with_name(f".{path.name}")
        part.unlink(missing_ok=True)
        run(LAYOUTS[layout](tree(folder, name), part))
        part.rename(path)
    return path


def packages(path: Path) -> dict[str, str]:
    """Versions of the Debian packages in a tree, by name."""
    form = "${Package} ${Version}\n"
    listing = run(["dpkg-query", f"--admindir={path}/var/lib/dpkg", "--show", f"--showformat={form}"])
    return dict(line.split(" ", 1) for line in listing.splitlines())


def contents(path: Path) -> dict[bytes, int]:
    """Sizes in bytes of the different file contents in a tree, by their hash."""
    found = {}
    for folder, _, names in os.walk(path):
        for name in names:
            file = Path(folder, name)
            if file.is_file() and not file.is_symlink():
                data = file.read_bytes()
                found[hashlib.sha256(data).digest()] = len(data)
    return found


def describe(folder: Path, kind: str) -> str:
    """One line about what the newer system of a pair has that the older one has not."""
    old, new = (tree(folder, name) for name in PAIRS[kind])
    changed = packages(new).items() - packages(old).items()
    before, after = contents(old), contents(new)
    fresh = after.keys() - before.keys()
    size = sum(after[digest] for digest in fresh) / 1e6
    return (
        f"{kind}: {len(changed)} new packages; {len(fresh)} of {len(after)} file contents are new, "
        f"{size:.1f} of {sum(after.values()) / 1e6:.1f} MB"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the releases that the benches compare.")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"default: {FOLDER}")
    folder = parser.parse_args().folder
    for name in NAMES:
        print(root(folder, name, "erofs noinline"))
    for kind in PAIRS:
        print(describe(folder, kind))
    return 0


if __name__ == "__main__":
    sys.exit(main())
