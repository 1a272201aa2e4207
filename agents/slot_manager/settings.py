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


@dataclass(frozen=True, slots=True)
class Settings:
    """channel: whose releases this machine takes. require_manifest: refuse images that have none."""

    channel: str = DEFAULT_CHANNEL
    require_manifest: bool = False


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
    return Settings(channel, section.get_bool("require_manifest", default=False))
