# SPDX-License-Identifier: Apache-2.0
"""Could a server that runs this image update itself again, and go back by itself if it does not come up?

An image that boots but has no agents, no keys or no boot counting is the last one a server ever installs.
slot-manager asks before its first write, `hypernet-image build` before it signs.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from common import erofs, ext4, files, keylife, squashfs, trust, uki
from common.errors import AgentError, ConfigError
from common.filesystem import Extent, FileSystemError

TRUSTED_KEYS = "/usr/share/hypernet/trusted-keys"
CONFIG_VERSION = "/usr/share/hypernet/config/version"

HEAD_BYTES = 2048
"""As much as tells the kinds of file systems apart."""

_READERS = {"erofs": erofs, "ext4": ext4, "squashfs": squashfs}
_PROGRAMS = (
    ("/usr/lib/hypernet/slot-manager", "hypernet-agents"),
    ("/usr/lib/hypernet/agents/slot_manager/__main__.py", "hypernet-agents"),
    ("/usr/lib/hypernet/boot-health", "hypernet-agents"),
    ("/usr/lib/hypernet/agents/boot_health/__main__.py", "hypernet-agents"),
    ("/usr/bin/hypernet-admin", "hypernet-agents"),
    ("/usr/lib/hypernet/agents/admin/__main__.py", "hypernet-agents"),
    ("/usr/bin/python3", "python3-minimal"),
    ("/usr/bin/gpgv", "gpgv"),
)
_UNIT_FOLDERS = ("/etc/systemd/system", "/usr/lib/systemd/system")
_ENABLED = (
    ("multi-user.target.wants", "hypernet-bless.service", "a good boot would not be recorded as one"),
    ("boot-complete.target.requires", "hypernet-boot-health.service", "every boot would count as good"),
)
_UNITS = (
    "boot-complete.target",
    "boot-complete.target.d/10-hypernet.conf",
    "hypernet-boot-failed.service",
    "hypernet-slot-manager.service",
    "systemd-bless-boot.service",
)
_BLESS_BOOT = "/usr/lib/systemd/systemd-bless-boot"
_MAX_UNIT_BYTES = 64 << 10
_MAX_NUMBER_BYTES = 64
_SCHEMA = re.compile(r"[0-9]{1,9}", re.ASCII)
_OFF = ("0", "no", "off")
_PANIC = re.compile(r"-?[1-9][0-9]{0,8}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Finding:
    """What makes an image unfit. rule: filesystem, agents, boot-complete, cmdline, keys, config.

    message: one sentence: what is missing, what follows from it, what to do.
    """

    rule: str
    message: str


class RootFs(Protocol):
    """The root file system of an image; see common.filesystem.FileSystem for the meaning of each method."""

    def exists(self, path: str) -> bool: ...
    def read(self, path: str, max_bytes: int) -> bytes: ...
    def listdir(self, path: str) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class _UnreadableRoot:
    """Stands for a root file system that could not be opened; each use raises why."""

    why: str

    def exists(self, path: str) -> bool:
        raise FileSystemError(self.why)

    def read(self, path: str, max_bytes: int) -> bytes:
        raise FileSystemError(self.why)

    def listdir(self, path: str) -> tuple[str, ...]:
        raise FileSystemError(self.why)


def open_root(fd: int, offset_bytes: int, size_bytes: int, name: str) -> RootFs:
    """The root file system in a part of an image or device; `name` is used in findings.

    Never raises: `check` reports one that cannot be read. `fd` has to stay open.
    """
    try:
        extent = Extent(fd, offset_bytes=offset_bytes, size_bytes=size_bytes, name=name)
        kind = kind_of(extent.read(0, min(HEAD_BYTES, size_bytes)))
        if kind:
            root: RootFs = _READERS[kind].FileSystem(extent)
            return root
    except FileSystemError as error:
        return _UnreadableRoot(str(error))
    return _UnreadableRoot(f"{name} holds neither an erofs nor an ext4 nor a squashfs file system.")


def kind_of(head: bytes) -> str:
    """The kind of the file system that begins with `head` (HEAD_BYTES long), "" for another one."""
    for kind, reader in _READERS.items():
        if head[reader.MAGIC_OFFSET :].startswith(reader.MAGIC):
            return kind
    return ""


def check(
    root: RootFs,
    *,
    cmdline: str,
    root_hash: str,
    channel: str,
    signers: Collection[str],
    config_schema_here: int,
    now_sec: int,
    key_epoch: int = 0,
) -> tuple[Finding, ...]:
    """Everything that makes an image unfit; nothing if it is fit.

    cmdline: kernel command line of its UKI. root_hash: of its hash tree, or else the SHA-256 of its root, 64
    hexadecimal digits. channel: that its releases come from. signers: primary fingerprints that signed this
    image, empty if unknown. config_schema_here: of the configuration that it will find. now_sec: seconds
    since 1970. key_epoch: that its manifest states, 0 if it has none. Raises FileUnwritable without room for
    the image's keys.
    """
    findings = list(_kernel_arguments(cmdline, root_hash))
    try:
        findings += _agents(root)
        findings += _boot_complete(root)
        findings += _keys(root, channel, signers, now_sec, key_epoch)
        findings += _config(root, config_schema_here)
    except FileSystemError as error:
        findings.append(Finding("filesystem", str(error)))
    return tuple(findings)


def config_version(root: RootFs) -> int:
    """Version of the configuration schema that the image wants; 1 if it does not say.

    Raises ConfigError if it says something that is no number, FileSystemError.
    """
    if not root.exists(CONFIG_VERSION):
        return 1
    text = root.read(CONFIG_VERSION, _MAX_NUMBER_BYTES).decode("ascii", errors="replace").strip()
    if not _SCHEMA.fullmatch(text):
        raise ConfigError(f"{CONFIG_VERSION} of the image holds no number; write one into it.")
    return int(text)


def trusted_keys(root: RootFs) -> trust.TrustStore:
    """The key set that the image brings along. Raises ConfigError, UntrustedKey, FileSystemError."""
    with files.scratch_folder() as folder:
        names = [name for name in root.listdir(TRUSTED_KEYS) if name.endswith(".asc")]
        for name in ("fingerprints.yaml", *names[: trust.MAX_KEY_FILES + 1]):
            if root.exists(f"{TRUSTED_KEYS}/{name}"):
                content = root.read(f"{TRUSTED_KEYS}/{name}", trust.MAX_KEY_FILE_BYTES)
                files.write_atomic(folder / name, content)
        try:
            store = trust.load(folder)
        except AgentError as error:
            error.args = (str(error).replace(str(folder), TRUSTED_KEYS),)
            raise
    return dataclasses.replace(store, directory=Path(TRUSTED_KEYS))


def _agents(root: RootFs) -> Iterator[Finding]:
    for path, package in _PROGRAMS:
        if not root.exists(path):
            yield Finding(
                "agents",
                f"The image has no {path}, so a server that runs it could not update itself again; build it "
                f"with the package {package}.",
            )


def _boot_complete(root: RootFs) -> Iterator[Finding]:
    for name in (*_UNITS, *(unit for _, unit, _ in _ENABLED)):
        if not _unit_text(root, name).strip():
            yield Finding(
                "boot-complete",
                f"The image has no unit file {name}, or masks it, so a bad boot would not be noticed; build "
                "it with hypernet-agents and systemd-boot.",
            )
    for wish, unit, effect in _ENABLED:
        if not any(unit in root.listdir(f"{folder}/{wish}") for folder in _UNIT_FOLDERS):
            yield Finding(
                "boot-complete",
                f"The image does not enable {unit} in {wish}, so {effect}; enable it in a preset file.",
            )
    if not root.exists(_BLESS_BOOT):
        yield Finding(
            "boot-complete",
            f"The image has no {_BLESS_BOOT}, so its boots could not be counted; build it with the package "
            "systemd-boot.",
        )


def _unit_text(root: RootFs, name: str) -> bytes:
    """Content of a unit file or drop-in as systemd would take it; empty for a missing or masked one."""
    for folder in _UNIT_FOLDERS:
        path = f"{folder}/{name}"
        parent, _, base = path.rpartition("/")
        if base in root.listdir(parent):
            return root.read(path, _MAX_UNIT_BYTES) if root.exists(path) else b""
    return b""


def _kernel_arguments(cmdline: str, root_hash: str) -> Iterator[Finding]:
    values: dict[str, list[str]] = {}
    for word in cmdline.split():
        name, _, value = word.partition("=")
        values.setdefault(name, []).append(value)
    said = sorted(word for word in cmdline.split() if word.partition("=")[0] in uki.ROOT_NAMES)
    if said not in [sorted(uki.root_arguments(root_hash, verity=verity)) for verity in (True, False)]:
        yield Finding(
            "cmdline",
            "The kernel command line of the image does not name its root file system by exactly one "
            "roothash= with the root hash of its hash tree, or without a tree by root=PARTUUID= and "
            "hypernet.rootsha256=, so it would start another system or none; build the image again.",
        )
    if not _PANIC.fullmatch(values.get("panic", [""])[-1]):
        yield Finding(
            "cmdline",
            "The kernel command line of the image has no panic= with a number of seconds, so a server would "
            "stand still after a kernel panic; add panic=10 to kernel_command_line.",
        )
    # dracut offers a shell first, and reboots only when that is ended or not wanted, see dracut.cmdline(7).
    shell, emergency = values.get("rd.shell", [""])[-1], values.get("rd.emergency", [""])[-1]
    if shell not in _OFF or emergency != "reboot":
        yield Finding(
            "cmdline",
            "The kernel command line of the image does not have both rd.shell=0 and rd.emergency=reboot, so "
            "a server would wait for somebody when its initrd fails; add them to kernel_command_line.",
        )


def _keys(
    root: RootFs, channel: str, signers: Collection[str], now_sec: int, key_epoch: int
) -> Iterator[Finding]:
    try:
        store = trusted_keys(root)
        good = keylife.signing_keys(store.keyring, at_sec=now_sec, name=TRUSTED_KEYS)
        good &= store.fingerprints("release", channel, now_sec)
    except (FileSystemError, files.FileUnwritable):  # the latter is this machine's fault, not the image's
        raise
    except AgentError as error:
        yield Finding("keys", f"The key set of the image cannot be used: {str(error).rstrip('.')}.")
        return
    if store.epoch < key_epoch:
        yield Finding(
            "keys",
            f"{TRUSTED_KEYS} of the image has epoch {store.epoch}, but its manifest says {key_epoch}, so "
            "its servers would refuse their own key set for ever; state the set's epoch in the manifest.",
        )
    if len(good) < store.threshold:
        yield Finding(
            "keys",
            f"{TRUSTED_KEYS} of the image has {len(good)} keys that can still sign a release of the channel "
            f"{channel} and needs {store.threshold}, so its servers would accept no next one; add valid "
            "keys to the key set.",
        )
    if signers and not good.intersection(signers):
        yield Finding(
            "keys",
            f"No key that signed this image is good for the channel {channel} in its own {TRUSTED_KEYS}, so "
            "its servers would refuse the next release by the same key; add that key to the key set.",
        )


def _config(root: RootFs, config_schema_here: int) -> Iterator[Finding]:
    try:
        version = config_version(root)
    except ConfigError as error:
        yield Finding("config", str(error))
        return
    if version < config_schema_here:
        yield Finding(
            "config",
            f"The image reads configurations of version {version}, the one here has version "
            f"{config_schema_here}; choose a release that reads it.",
        )
