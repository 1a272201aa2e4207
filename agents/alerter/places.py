# SPDX-License-Identifier: Apache-2.0
"""Where the alerter reads and writes; tests pass a tree of their own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common import alerts, paths


@dataclass(frozen=True, slots=True)
class Places:
    """Files and directories of the alerter. memory: for what does not get into state, until a reboot."""

    config: Path = paths.CONFIG / "alerts.yaml"
    inbox: Path = alerts.DIRECTORY
    state: Path = paths.STATE / "alerter"
    memory: Path = paths.RUNTIME / "alerter"
