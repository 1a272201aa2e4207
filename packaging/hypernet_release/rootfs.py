# SPDX-License-Identifier: Apache-2.0
"""The root tree of an image: Debian packages, our agents, Python packages, settings, bytecode."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from hypernet_release import tools
from hypernet_release.config import BuildConfig
from hypernet_release.errors import BuildError, ToolError

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
_TAR = ("tar", "--numeric-owner", "--xattrs", "--xattrs-include=*")


def host_env(epoch: int) -> dict[str, str]:
    """Environment of tools that fetch packages: proxies and pip's settings of this host, no more."""
    env = {name: os.environ[name] for name in _HOST_ENV if name in os.environ}
    return env | {"SOURCE_DATE_EPOCH": str(epoch), "HOME": os.environ.get("HOME", "/root")}


def in_tree(tree: Path, argv: Sequence[str], *, timeout_sec: float, env: Mapping[str, str]) -> None:
    """Run a command inside the tree, in mount and PID namespaces of its own (unshare(1)).

    Raises ToolError.
    """
    isolate = ["unshare", "--mount", "--pid", "--fork", "--kill-child", f"--root={tree}", "--mount-proc"]
    tools.run([*isolate, "--", *argv], timeout_sec=timeout_sec, env=env, name=Path(argv[0]).name)


def bootstrap(
    config: BuildConfig, dependencies: Sequence[str], target: Path, scratch: Path, epoch: int
) -> None:
    """Write a tar of the distribution's packages to `target` with mmdebstrap(1).

    dependencies: names of packages beside those of the configuration. scratch: folder for the temporary
    tree. Raises BuildError, ToolError.
    """
    base = config.base_os
    if not base.keyring.exists():
        raise BuildError(
            f"{base.keyring} is missing, so packages could not be verified; install the package "
            f"{base.keyring_package}, or copy the file from such a system."
        )
    argv = bootstrap_argv(config, dependencies, target)
    tools.run(argv, timeout_sec=1800, env=host_env(epoch) | {"TMPDIR": str(scratch)})


def bootstrap_argv(config: BuildConfig, dependencies: Sequence[str], target: Path) -> list[str]:
    """The command line of mmdebstrap(1); arguments as for `bootstrap`."""
    base = config.base_os
    packages = [*config.packages, *dependencies, "usr-is-merged", "python3-minimal", "dracut"]
    argv = ["mmdebstrap", "--mode=root", "--variant=essential", "--format=tar"]
    argv += ["--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"]
    argv += [f"--components={','.join(base.components)}", f"--keyring={base.keyring}"]
    argv += [f"--include={','.join(dict.fromkeys(packages))}"]
    # Kernel hooks would build an initrd and fill an ESP that the image builder makes itself; dracut's own
    # trigger calls its hook, so that one becomes true(1).
    hook = "/etc/kernel/postinst.d"
    argv.append(f'--essential-hook=mkdir -p "$1{hook}" && ln -s /bin/true "$1{hook}/dracut"')
    kernel_hooks = ("/etc/kernel/postinst.d/*", "/etc/kernel/install.d/*", "/usr/lib/kernel/install.d/*")
    argv += [f"--dpkgopt=path-exclude={pattern}" for pattern in (*config.exclude, *kernel_hooks)]
    argv += ['--aptopt=APT::Install-Recommends "false"', base.suite, str(target)]
    if config.mirror:
        argv.append(config.mirror)
        components = " ".join(base.components)
        argv += [f"deb {config.mirror} {suite} {components}" for suite in base.more_suites]
    return argv


def depends(deb: Path) -> list[str]:
    """Names of the packages that a .deb depends on, the first of each alternative."""
    fields = tools.run(["dpkg-deb", "--field", str(deb), "Depends"], timeout_sec=30)
    groups = fields.stdout.decode().split(",")
    names = [re.split(r"[ (:|]", group.strip(), maxsplit=1)[0] for group in groups]
    return [name for name in names if name]


def unpack(archive: Path, tree: Path) -> None:
    """Unpack a root tree as root, with owners and extended attributes."""
    tree.mkdir(parents=True)
    tools.run([*_TAR, "--extract", f"--file={archive}", f"--directory={tree}"], timeout_sec=600)


def pack(tree: Path, archive: Path) -> None:
    """The inverse of `unpack`."""
    argv = [*_TAR, "--create", "--sort=name", f"--file={archive}", f"--directory={tree}", "."]
    tools.run(argv, timeout_sec=600)


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
    except ToolError as error:
        raise BuildError(
            f"python_version: the base system does not have Python {config.python_version}; "
            "name the version that its package python3 has."
        ) from error
    if not config.dependencies:
        return
    environment = tree / APP_PYTHON
    in_tree(
        tree, ["/usr/bin/python3", "-m", "venv", "--without-pip", f"/{APP_PYTHON}"], timeout_sec=120, env=env
    )
    site = environment / "lib" / f"python{config.python_version}" / "site-packages"
    argv = ["/usr/bin/python3", "-m", "pip", "install", "--quiet", "--no-compile", "--no-deps"]
    argv += ["--only-binary=:all:", f"--python-version={config.python_version}", "--ignore-installed"]
    argv += ["--root-user-action=ignore", f"--target={site}", *config.dependencies]
    tools.run(argv, timeout_sec=600, env=host_env(epoch), name="pip")
    for record in site.glob("*.dist-info/direct_url.json"):
        record.unlink()


def compile_bytecode(tree: Path, python_version: str, epoch: int) -> None:
    """Compile all Python of the image; unchecked hashes, since a slot never changes (PEP 552)."""
    for cache in (tree / "usr/lib").rglob("__pycache__"):
        shutil.rmtree(cache)
    argv = ["/usr/bin/python3", "-I", "-m", "compileall", "-q", "-j0", "--invalidation-mode=unchecked-hash"]
    folders = ["/usr/lib/python3", f"/usr/lib/python{python_version}", "/usr/lib/hypernet", f"/{APP_PYTHON}"]
    argv += [folder for folder in folders if (tree / folder[1:]).exists()]
    in_tree(tree, argv, timeout_sec=900, env={"SOURCE_DATE_EPOCH": str(epoch), "PYTHONHASHSEED": "0"})


def add_overlay(overlay: Path, tree: Path) -> None:
    """Copy a folder's files over the tree, owned by root and writable by nobody else.

    Directories that the tree has keep their modes, whatever the folder's are. Raises BuildError for files
    that would land outside the tree, and for devices and sockets.
    """
    top = tree.resolve()
    for path in sorted(overlay.rglob("*")):
        target = tree / path.relative_to(overlay)
        mode = path.lstat().st_mode
        if not target.parent.resolve().is_relative_to(top):
            raise BuildError(
                f"{path} would leave the image by a symbolic link; put it where the link leads to."
            )
        if stat.S_ISDIR(mode):
            if not target.is_dir():
                target.mkdir()
                target.chmod(stat.S_IMODE(mode) & ~0o022)
            continue
        target.unlink(missing_ok=True)
        if stat.S_ISLNK(mode):
            target.symlink_to(os.readlink(path))
        elif stat.S_ISREG(mode):
            shutil.copyfile(path, target)
            target.chmod(stat.S_IMODE(mode) & ~0o022)
        else:
            raise BuildError(
                f"{path} is neither file, folder nor symbolic link; remove it from the overlay."
            )


def settle(tree: Path, config: BuildConfig, overlays: Sequence[Path], version: str) -> None:
    """Everything that makes the tree a read-only slot of this version: settings, identity, mount points."""
    for overlay in [*config.overlay, *overlays]:
        add_overlay(overlay, tree)
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
    argv = [
        "dpkg-query",
        f"--admindir={tree}/var/lib/dpkg",
        "--show",
        "--showformat=${Package}=${Version}\n",
    ]
    packages = tree / "usr/share/hypernet/packages"
    packages.parent.mkdir(parents=True, exist_ok=True)
    packages.write_bytes(tools.run(argv, timeout_sec=60).stdout)
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
        if units:
            tools.run(["systemctl", f"--root={tree}", verb, *units], timeout_sec=120)
