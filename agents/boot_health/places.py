# SPDX-License-Identifier: Apache-2.0
"""Where boot-health reads and writes; tests pass a tree of their own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agents.boot_health import boot
from common import paths


@dataclass(frozen=True, slots=True)
class Places:
    """Files and directories of boot-health."""

    admin_config: Path = paths.CONFIG / "health.yaml"
    image_config: Path = paths.VENDOR / "health.d"
    report: Path = paths.RUNTIME / "health.json"
    history: Path = paths.STATE / "boot-health/history.json"
    motd: Path = Path("/run/motd.d/hypernet")
    efivars: Path = boot.EFIVARS
    proc: Path = boot.PROC
