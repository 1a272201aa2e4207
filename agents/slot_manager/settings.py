# SPDX-License-Identifier: Apache-2.0
"""What slot-manager reads of /config/hypernet/updates.yaml, which it shares with update-checker."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from common import config
from common.errors import ConfigError

FILE = "updates.yaml"
DEFAULT_CHANNEL = "stable"

_CHANNEL = re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII)
_HOST = re.compile(r"([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Settings:
    """channel: whose releases this machine takes. require_manifest: refuse images that have none.

    hosts: where images may be fetched from, "name" or "name:port"; None if it is not said. ca_file: PEM file
    that replaces the system's certificate authorities. token_file: holds the bearer token for the server.
    """

    channel: str = DEFAULT_CHANNEL
    require_manifest: bool = False
    hosts: tuple[str, ...] | None = None
    ca_file: Path | None = None
    token_file: Path | None = None


def load(folder: Path) -> Settings:
    """Settings in `folder` (common.paths.CONFIG); a missing file means the defaults.

    Keys of update-checker are not looked at. Raises ConfigError.
    """
    section = config.load(folder / FILE, max_bytes=64 << 10, optional=True)
    channel = section.get_str("channel", DEFAULT_CHANNEL)
    if not _CHANNEL.fullmatch(channel):
        raise ConfigError(
            f"{section.where}: channel: '{channel}' is no channel; write the name of one, such as stable."
        )
    hosts = section.get_strings("hosts") if "hosts" in section.keys() else None  # noqa: SIM118
    for host in hosts or ():
        if not _HOST.fullmatch(host):
            raise section.error(
                "hosts", f"'{host}' is no host; write updates.example.org, or with a port :8443"
            )
    return Settings(
        channel,
        section.get_bool("require_manifest", default=False),
        hosts,
        _file(section, "ca_file"),
        _file(section, "token_file"),
    )


def _file(section: config.Section, key: str) -> Path | None:
    text = section.get_str(key, "")
    if text and not text.startswith("/"):
        raise section.error(key, "must be an absolute path")
    return Path(text) if text else None
