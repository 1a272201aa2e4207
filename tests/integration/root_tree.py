# SPDX-License-Identifier: Apache-2.0
"""The root file system of the test machine: Debian with what hypernet-agents depends on, then our package.

The Debian part is made once and kept as a tar file in $HYPERNET_TEST_CACHE (default build/test-cache), named
after what is in it; our package is built and installed anew for each test run.
"""

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

TOP = Path(__file__).parents[2]
SUITE = "bookworm"
USER = "alice"
"""A plain user of the test machine, in no special group."""
USER_ID = 1234
ADMIN = "carol"
"""An administrator, whose password polkit accepts for everything that needs one."""
ADMIN_ID = 1235
PASSWORD = "correct horse"

# libglib2.0-bin has gdbus, a client that knows nothing of us; msmtp-mta is a mail system for the alerter.
_BASE_PACKAGES = ("dbus", "libglib2.0-bin", "msmtp-mta", "procps", "systemd", "systemd-sysv")


def build_packages(out: Path, *, top: Path = TOP) -> None:
    """Build our Debian packages from the sources in `top` into the folder `out`."""
    _run([str(top / "packaging/build-deb"), str(out)])


def make(root: Path, package: Path) -> None:
    """Unpack Debian into the empty folder `root` and install `package` there."""
    _run(["tar", "--extract", "--numeric-owner", "--file", str(_debian()), "--directory", str(root)])
    for name, number, groups in ((USER, USER_ID, ""), (ADMIN, ADMIN_ID, "sudo")):
        add = ["useradd", "--create-home", f"--uid={number}", f"--groups={groups}", name]
        _run(["chroot", str(root), *add])
    _run(["chroot", str(root), "chpasswd"], stdin=f"{ADMIN}:{PASSWORD}\n")
    # Without the seconds that a wrong password costs elsewhere.
    _run(["sed", "--in-place", "s/pam_unix.so/& nodelay/", str(root / "etc/pam.d/common-auth")])
    shutil.copy(package, root / "package.deb")
    _run(["chroot", str(root), "dpkg", "--install", "/package.deb"])
    (root / "package.deb").unlink()


def _debian() -> Path:
    packages = sorted({*_BASE_PACKAGES, *_dependencies()})
    key = hashlib.sha256(" ".join([SUITE, *packages]).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("HYPERNET_TEST_CACHE", TOP / "build/test-cache"))
    tree = cache / f"debian-{key}.tar"
    if not tree.exists():
        cache.mkdir(parents=True, exist_ok=True)
        part = tree.with_name(f"{tree.name}.{os.getpid()}.part")
        options = ["--mode=root", "--variant=minbase", "--format=tar", f"--include={','.join(packages)}"]
        options += [f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in ("doc", "locale", "man")]
        _run(["mmdebstrap", *options, SUITE, str(part)])
        part.rename(tree)
    return tree


def _dependencies() -> list[str]:
    """Return the names of the packages that hypernet-agents depends on."""
    control = (TOP / "packaging/debian/control").read_text()
    depends = (
        control.split("\nPackage: hypernet-agents\n")[1].split("\nDepends:")[1].split("\nDescription:")[0]
    )
    return [name for each in depends.split(",") for name in re.findall(r"^\s*([a-z0-9][a-z0-9.+-]+)", each)]


def _run(argv: list[str], *, stdin: str = "") -> None:
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    result = subprocess.run(
        argv, input=stdin, capture_output=True, text=True, env=environment, timeout=600, check=False
    )
    if result.returncode:
        raise RuntimeError(f"{' '.join(argv)}\n{result.stdout}{result.stderr}")
