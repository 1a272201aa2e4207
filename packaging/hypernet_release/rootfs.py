# SPDX-License-Identifier: Apache-2.0
"""The root tree of an image: Debian packages, our agents, Python packages, settings, bytecode."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from common import process
from hypernet_release.config import BuildConfig
from hypernet_release.errors import BuildError

APP_PYTHON = Path("opt/hypernet")  # the application's own environment, below the root
_MOUNT_POINTS = ("boot", "efi", "config", "data", "media", "dev", "proc", "sys", "run", "tmp", "var", "mnt")
# What packages leave behind that differs from build to build, or that a read-only slot cannot use.
_LEFTOVERS = (
    "etc/.pwd.lock",
    "etc/group-",
    "etc/gshadow-",
    "etc/passwd-",
    "etc/shadow-",
    "etc/resolv.conf",
    "etc/ld.so.cache~",
    "etc/mtab",
    "usr/lib/python3/dist-packages/lxml/includes",
)
_HOST_ENV = ("http_proxy", "https_proxy", "no_proxy", "PIP_CONFIG_FILE", "PIP_INDEX_URL", "PIP_FIND_LINKS")


def host_env(epoch: int) -> dict[str, str]:
    """Environment of tools that fetch packages: proxies and pip's settings of this host, no more."""
    env = {name: os.environ[name] for name in _HOST_ENV if name in os.environ}
    return env | {"SOURCE_DATE_EPOCH": str(epoch), "HOME": os.environ.get("HOME", "/root")}


def in_tree(tree: Path, argv: Sequence[str], *, timeout_sec: float, env: Mapping[str, str]) -> None:
    """Run a command inside the tree, in mount and PID namespaces of its own (unshare(1))."""
    isolate = ["unshare", "--mount", "--pid", "--fork", "--kill-child", f"--root={tree}", "--mount-proc"]
    process.run([*isolate, "--", *argv], timeout_sec=timeout_sec, env=env)


def bootstrap(config: BuildConfig, agents_deb: Path, target: Path, epoch: int) -> None:
    """Write a tar of the distribution's packages to `target` with mmdebstrap(1).

    Holds the packages of the configuration and what hypernet-agents depends on. Raises
    common.process.ProcessError with mmdebstrap's last line.
    """
    if not config.base_os.keyring.exists():
        raise BuildError(
            f"{config.base_os.keyring} is missing: install the archive keyring package of the base system"
        )
    packages = [*config.packages, *depends(agents_deb), "usr-is-merged", "python3-minimal", "dracut"]
    argv = ["mmdebstrap", "--mode=root", "--variant=essential", "--format=tar"]
    argv += ["--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"]
    argv += [f"--components={config.base_os.components}", f"--keyring={config.base_os.keyring}"]
    argv += [f"--include={','.join(dict.fromkeys(packages))}"]
    # Kernel hooks would build an initrd and fill an ESP that the image builder makes itself; dracut's own
    # trigger calls its hook, so that one becomes true(1).
    hook = "/etc/kernel/postinst.d"
    argv.append(f'--essential-hook=mkdir -p "$1{hook}" && ln -s /bin/true "$1{hook}/dracut"')
    excluded = [*config.exclude, "/etc/kernel/postinst.d/*", "/etc/kernel/install.d/*", "/usr/lib/kernel/install.d/*"]
    argv += [f"--dpkgopt=path-exclude={pattern}" for pattern in excluded]
    argv += ['--aptopt=APT::Install-Recommends "false"', config.base_os.suite, str(target)]
    argv += [config.mirror] if config.mirror else []
    process.run(argv, timeout_sec=1800, env=host_env(epoch))


def depends(deb: Path) -> list[str]:
    """Names of the packages that a .deb depends on, the first of each alternative."""
    fields = process.run(["dpkg-deb", "--field", str(deb), "Depends"], timeout_sec=30)
    groups = fields.stdout.decode().split(",")
    names = [re.split(r"[ (:|]", group.strip(), maxsplit=1)[0] for group in groups]
    return [name for name in names if name]


def unpack(archive: Path, tree: Path) -> None:
    """Unpack a root tree as root, with owners and extended attributes."""
    tree.mkdir(parents=True)
    process.run(
        ["tar", "--extract", "--numeric-owner", "--xattrs", "--xattrs-include=*", f"--file={archive}", f"--directory={tree}"],
        timeout_sec=600,
    )


def pack(tree: Path, archive: Path) -> None:
    """The inverse of `unpack`."""
    process.run(
        ["tar", "--create", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--sort=name", f"--file={archive}", f"--directory={tree}", "."],
        timeout_sec=600,
    )


def install_agents(tree: Path, deb: Path, epoch: int) -> None:
    """Install hypernet-agents into the tree; its dependencies are there already."""
    inside = tree / "tmp" / deb.name
    shutil.copyfile(deb, inside)
    env = {"DEBIAN_FRONTEND": "noninteractive", "SOURCE_DATE_EPOCH": str(epoch)}
    in_tree(tree, ["dpkg", "--install", f"/tmp/{deb.name}"], timeout_sec=300, env=env)
    inside.unlink()


def install_dependencies(tree: Path, config: BuildConfig, epoch: int) -> None:
    """Make the application's environment /opt/hypernet and put the pinned Python packages into it."""
    env = {"SOURCE_DATE_EPOCH": str(epoch), "PYTHONDONTWRITEBYTECODE": "1"}
    probe = f"import sys; sys.exit('%d.%d' % sys.version_info[:2] != '{config.python_version}')"
    try:
        in_tree(tree, ["/usr/bin/python3", "-I", "-c", probe], timeout_sec=60, env=env)
    except process.ProcessError as error:
        raise BuildError(
            f"python_version: the base system does not have Python {config.python_version}; "
            "name the version that its python3 package has"
        ) from error
    if not config.dependencies:
        return
    environment = tree / APP_PYTHON
    in_tree(tree, ["/usr/bin/python3", "-m", "venv", "--without-pip", f"/{APP_PYTHON}"], timeout_sec=120, env=env)
    site = environment / "lib" / f"python{config.python_version}" / "site-packages"
    argv = ["/usr/bin/python3", "-m", "pip", "install", "--quiet", "--no-compile", "--no-deps", "--only-binary=:all:"]
    argv += [f"--python-version={config.python_version}", "--ignore-installed", "--root-user-action=ignore"]
    argv += [f"--target={site}", *config.dependencies]
    process.run(argv, timeout_sec=600, env=host_env(epoch))
    for record in site.glob("*.dist-info/direct_url.json"):
        record.unlink()


def compile_bytecode(tree: Path, epoch: int) -> None:
    """Compile all Python of the image; unchecked hashes, since a slot never changes (PEP 552)."""
    for cache in (tree / "usr/lib").rglob("__pycache__"):
        shutil.rmtree(cache)
    argv = ["/usr/bin/python3", "-I", "-m", "compileall", "-q", "-j0", "--invalidation-mode=unchecked-hash"]
    folders = ["/usr/lib/python3", "/usr/lib/python3.11", "/usr/lib/hypernet", f"/{APP_PYTHON}"]
    argv += [folder for folder in folders if (tree / folder[1:]).exists()]
    in_tree(tree, argv, timeout_sec=900, env={"SOURCE_DATE_EPOCH": str(epoch), "PYTHONHASHSEED": "0"})


def settle(tree: Path, config: BuildConfig, overlays: Sequence[Path], version: str) -> None:
    """Everything that makes the tree a read-only slot of this version: settings, identity, mount points."""
    for overlay in [*config.overlay, *overlays]:
        shutil.copytree(overlay, tree, symlinks=True, dirs_exist_ok=True)
    release = tree / "usr/lib/os-release"
    lines = [line for line in release.read_text().splitlines() if not line.startswith("IMAGE_")]
    release.write_text("\n".join([*lines, "IMAGE_ID=hypernet", f"IMAGE_VERSION={version}", ""]))
    for name in _LEFTOVERS:
        path = tree / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    (tree / "etc/machine-id").write_text("")
    (tree / "etc/mtab").symlink_to("../proc/self/mounts")
    (tree / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    listing = process.run(
        ["dpkg-query", f"--admindir={tree}/var/lib/dpkg", "--show", "--showformat=${Package}=${Version}\n"],
        timeout_sec=60,
    )
    packages = tree / "usr/share/hypernet/packages"
    packages.parent.mkdir(parents=True, exist_ok=True)
    packages.write_bytes(listing.stdout)
    for name in _MOUNT_POINTS:
        shutil.rmtree(tree / name, ignore_errors=True)
        (tree / name).mkdir()
    apply_presets(tree)


def apply_presets(tree: Path) -> None:
    """Enable and disable the units that the image's own preset file names (systemd.preset(5))."""
    preset = tree / "usr/lib/systemd/system-preset/50-hypernet-image.preset"
    rules = [line.split() for line in preset.read_text().splitlines() if line and not line.startswith("#")]
    for verb in ("enable", "disable"):
        units = [unit for rule, unit in rules if rule == verb]
        process.run(["systemctl", f"--root={tree}", verb, *units], timeout_sec=120)
