# SPDX-License-Identifier: Apache-2.0
"""build-config.yaml: what an image is made of.

Format: a YAML mapping, see hypernet-image(1). Relative paths are relative to the file itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from common import config
from common.errors import ConfigError

VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+(-[0-9a-z.]+)?", re.ASCII)
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9.+-]+(=[0-9A-Za-z.+:~-]+)?", re.ASCII)
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9A-Za-z.+!]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class BaseOs:
    """A distribution that mmdebstrap can bootstrap.

    suite: its code name; components: of its archive; keyring: path of the keyring package's file.
    """

    suite: str
    components: str
    keyring: Path


BASE_OS = {
    "debian-12": BaseOs("bookworm", "main", Path("/usr/share/keyrings/debian-archive-keyring.gpg")),
    "ubuntu-24.04-server": BaseOs(
        "noble", "main,universe", Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg")
    ),
}


@dataclass(frozen=True, slots=True)
class BuildConfig:
    """One image's definition.

    mirror: archive URL, empty for the distribution's own. packages: Debian names, each optionally
    `=version`. dependencies: Python requirements, each pinned with `==`. exclude: dpkg path patterns
    that stay out of the image. overlay: folders copied over the root tree, in order.
    kernel_args: added to the kernel command line. signing_key: fingerprint or empty (the only secret
    key at hand). trusted_keys: folder of armoured keys and fingerprints.yaml, or None (made from the
    signing key).
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


def load(path: Path) -> BuildConfig:
    """Read and check a build-config.yaml.

    Raises ConfigError with file, line and key for anything that is missing, unknown or malformed.
    """
    section = config.load(path)
    folder = path.resolve().parent
    base_name = section.get_enum("base_os", tuple(BASE_OS))
    version = section.get_str("hypernet_version")
    check_version(version, section.where)
    if not section.get_bool("verity", True):
        raise ConfigError(f"{section.where}: verity: images without dm-verity are not built yet; set it to true")
    section.get_enum("filesystem", ("erofs",), "erofs")
    keys = section.section("keys")
    trusted = keys.get_str("trusted", "")
    signing = keys.get_str("signing", "")
    keys.finish()
    result = BuildConfig(
        base_os=BASE_OS[base_name],
        version=version,
        python_version=section.get_str("python_version"),
        mirror=section.get_str("mirror", ""),
        packages=_matching(section, "packages", _PACKAGE, "NAME or NAME=VERSION"),
        dependencies=_matching(section, "hypernet_dependencies", _REQUIREMENT, "NAME==VERSION"),
        exclude=section.get_strings("exclude", ()),
        overlay=tuple(folder / name for name in section.get_strings("overlay", ())),
        kernel_args=section.get_strings("kernel_command_line", ()),
        signing_key=signing,
        trusted_keys=folder / trusted if trusted else None,
    )
    section.finish()
    return result


def check_version(version: str, where: str) -> None:
    """Raise ConfigError unless `version` is X.Y.Z, optionally with -suffix (semver.org)."""
    if not VERSION.fullmatch(version):
        raise ConfigError(f"{where}: hypernet_version: {version!r} is not a version such as 1.2.3 or 1.2.3-rc1")


def _matching(section: config.Section, key: str, pattern: re.Pattern[str], shape: str) -> tuple[str, ...]:
    values = section.get_strings(key, ())
    for value in values:
        if not pattern.fullmatch(value):
            raise ConfigError(f"{section.where}: {key}: {value!r} is not of the form {shape}")
    return values
