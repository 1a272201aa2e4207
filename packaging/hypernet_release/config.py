# SPDX-License-Identifier: Apache-2.0
"""build-config.yaml: what an image is made of.

Format: a YAML mapping, see build-config.yaml(5). Relative paths are relative to the file itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from common import config, manifest, uki
from hypernet_release.disk import FILESYSTEMS

# A part behind '-' would make a version newer than the one without it for the boot loader (UAPI.10), behind
# '~' it is older: so that is how a release candidate is written.
_VERSION = re.compile(r"[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}(~[0-9a-z.]{1,40})?", re.ASCII)
_PYTHON = re.compile(r"3\.[0-9]{1,2}", re.ASCII)
_MIRROR = re.compile(r"[a-z]+:/\S+")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9.+-]+(=[0-9A-Za-z.+:~-]+)?", re.ASCII)
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9A-Za-z.+!]+", re.ASCII)
_PATTERN = re.compile(r"/\S+")
_KERNEL_ARG = re.compile(rf"(?!({'|'.join(map(re.escape, uki.ROOT_NAMES))})=)[!-~]+")
_FINGERPRINT = re.compile(r"[0-9A-F]{40}")
_CHANNEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
_URL = re.compile(r"https://[!-~]{1,2000}")

VERSION_FORM = "X.Y.Z or X.Y.Z~rc1"
PACKAGE_FORM = "NAME or NAME=VERSION"
CHANNEL_FORM = "a word of lower-case letters and digits, such as stable"
KERNEL_ARG_FORM = f"one word of printable ASCII ({', '.join(uki.ROOT_NAMES)} are set by the build)"


@dataclass(frozen=True, slots=True)
class BaseOs:
    """A distribution that mmdebstrap(1) can bootstrap.

    suite: its code name. more_suites: others of the same mirror that are used, too. components: of its
    archive. keyring: the keys that sign it, from keyring_package. needs_mirror: whether mmdebstrap knows no
    mirror of its own for the suite.
    """

    suite: str
    more_suites: tuple[str, ...]
    components: tuple[str, ...]
    keyring: Path
    keyring_package: str
    needs_mirror: bool


_KEYRINGS = Path("/usr/share/keyrings")
BASE_OS = {
    "debian-12": BaseOs(
        suite="bookworm",
        more_suites=(),
        components=("main",),
        keyring=_KEYRINGS / "debian-archive-keyring.gpg",
        keyring_package="debian-archive-keyring",
        needs_mirror=False,
    ),
    "ubuntu-24.04-server": BaseOs(
        suite="noble",
        more_suites=("noble-updates", "noble-security"),
        components=("main", "universe"),
        keyring=_KEYRINGS / "ubuntu-archive-keyring.gpg",
        keyring_package="ubuntu-keyring",
        needs_mirror=True,
    ),
}


MAX_COMPRESSION_LEVEL = 19
"""Of zstd. Higher ones take as long and save less than a thousandth."""

MIN_VALID_SEC = 86400.0
MAX_VALID_SEC = 3650 * 86400.0
_CHANNEL_DEFAULT = "stable"
_NO_VERSION = "0.0.0"
_VALID_SEC = 365 * 86400.0


@dataclass(frozen=True, slots=True)
class Statement:
    """What a release says about itself that the image does not show; see hypernet-X.Y.Z.manifest.json.

    serial: None for the one that follows from the version. valid_sec: seconds from issue to expiry.
    min_version: nothing older may be installed once this release came up healthy. min_from_version: oldest
    version that may update to it. notes_url: empty if there are no notes.
    """

    channel: str = _CHANNEL_DEFAULT
    serial: int | None = None
    valid_sec: float = _VALID_SEC
    min_version: str = _NO_VERSION
    min_from_version: str = _NO_VERSION
    notes_url: str = ""


@dataclass(frozen=True, slots=True)
class BuildConfig:
    """One image's definition.

    mirror: archive URL, empty for the distribution's own. packages: Debian names, each optionally
    `=version`. dependencies: Python requirements, each pinned with `==`. exclude: dpkg path patterns
    that stay out of the image. overlay: folders copied over the root tree, in order.
    kernel_args: added to the kernel command line. signing_key: fingerprint or empty (the only secret
    key at hand). trusted_keys: folder of armoured keys and fingerprints.yaml, or None (made from the
    signing key). statement: for the manifest. filesystem: of the root, one of disk.FILESYSTEMS. verity:
    whether dm-verity protects it. compression_level: of zstd, for the compressed forms.
    """

    base_os: BaseOs
    version: str
    python_version: str
    mirror: str
    packages: tuple[str, ...]
    dependencies: tuple[str, ...]
    exclude: tuple[str, ...]
    overlay: tuple[Path, ...]
    kernel_args: tuple[str, ...]
    signing_key: str
    trusted_keys: Path | None
    statement: Statement
    filesystem: str = "erofs"
    verity: bool = True
    compression_level: int = MAX_COMPRESSION_LEVEL


def load(path: Path) -> BuildConfig:
    """Read and check a build-config.yaml.

    Raises ConfigError with file, line and key for anything that is missing, unknown or malformed.
    """
    section = config.load(path)
    base_os = BASE_OS[section.get_enum("base_os", tuple(BASE_OS))]
    mirror = _word(section, "mirror", _MIRROR, "URL", "")
    if base_os.needs_mirror and not mirror:
        raise section.error("mirror", f"{base_os.suite} has no default mirror; give the URL of one")
    keys = section.section("keys")
    signing = keys.get_str("signing", "").replace(" ", "").upper()
    if signing and not _FINGERPRINT.fullmatch(signing):
        raise keys.error("signing", f"'{signing}' is not a fingerprint of 40 hexadecimal digits")
    trusted = keys.get_str("trusted", "")
    result = BuildConfig(
        base_os=base_os,
        version=_word(section, "hypernet_version", _VERSION, VERSION_FORM),
        python_version=_word(section, "python_version", _PYTHON, "3.N"),
        mirror=mirror,
        packages=_words(section, "packages", _PACKAGE, PACKAGE_FORM),
        dependencies=_words(section, "hypernet_dependencies", _REQUIREMENT, "NAME==VERSION"),
        exclude=_words(section, "exclude", _PATTERN, "a path pattern such as /usr/share/doc/*"),
        overlay=tuple(_folder(section, "overlay", path, name) for name in section.get_strings("overlay")),
        kernel_args=_words(section, "kernel_command_line", _KERNEL_ARG, KERNEL_ARG_FORM),
        signing_key=signing,
        trusted_keys=_folder(keys, "trusted", path, trusted) if trusted else None,
        statement=_statement(section),
        filesystem=section.get_enum("filesystem", tuple(FILESYSTEMS), "erofs"),
        verity=section.get_bool("verity", True),
        compression_level=section.get_int(
            "compression_level", MAX_COMPRESSION_LEVEL, minimum=1, maximum=MAX_COMPRESSION_LEVEL
        ),
    )
    section.finish()
    return result


def _statement(section: config.Section) -> Statement:
    return Statement(
        channel=_word(section, "channel", _CHANNEL, CHANNEL_FORM, _CHANNEL_DEFAULT),
        serial=section.get_int("serial", None, minimum=0, maximum=manifest.MAX_SERIAL),
        valid_sec=section.get_duration_sec(
            "expires", _VALID_SEC, minimum=MIN_VALID_SEC, maximum=MAX_VALID_SEC
        ),
        min_version=_word(section, "min_version", _VERSION, VERSION_FORM, _NO_VERSION),
        min_from_version=_word(section, "min_from_version", _VERSION, VERSION_FORM, _NO_VERSION),
        notes_url=_word(section, "notes_url", _URL, "https://...", ""),
    )


def is_channel(text: str) -> bool:
    """Whether this can be the name of a channel."""
    return bool(_CHANNEL.fullmatch(text))


def is_version(text: str) -> bool:
    """Whether a release can have this version: X.Y.Z, with ~SUFFIX for one that comes before X.Y.Z."""
    return bool(_VERSION.fullmatch(text))


def is_package(text: str) -> bool:
    """Whether this is a Debian package's name, optionally with =VERSION."""
    return bool(_PACKAGE.fullmatch(text))


def is_kernel_arg(text: str) -> bool:
    """Whether this is one word for the kernel command line, and none that the build itself sets."""
    return bool(_KERNEL_ARG.fullmatch(text))


def _word(
    section: config.Section, key: str, pattern: re.Pattern[str], form: str, default: str | None = None
) -> str:
    value = section.get_str(key) if default is None else section.get_str(key, default)
    if value != default and not pattern.fullmatch(value):
        raise section.error(key, f"'{value}' is not of the form {form}")
    return value


def _words(section: config.Section, key: str, pattern: re.Pattern[str], form: str) -> tuple[str, ...]:
    values = section.get_strings(key)
    for value in values:
        if not pattern.fullmatch(value):
            raise section.error(key, f"'{value}' is not of the form {form}")
    return values


def _folder(section: config.Section, key: str, file: Path, name: str) -> Path:
    folder = file.resolve().parent / name
    if not folder.is_dir():
        raise section.error(key, f"{folder} is not a folder; create it, or mend the name")
    return folder
