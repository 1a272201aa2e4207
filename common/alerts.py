# SPDX-License-Identifier: Apache-2.0
"""Facts that somebody should be told: any agent raises them here, hypernet-alerter.service(8) delivers them.

Whoever raises an alert needs no running alerter and waits for nobody: one file in a directory is all, and
hypernet-alerter.path watches that directory.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final

from common import journal, paths

DIRECTORY: Final = paths.RUNTIME / "alerts"
MAX_FILES: Final = 64
MAX_BYTES: Final = 16 * 1024
"""Of one file."""
MAX_SUMMARY_CHARS: Final = 1000
MAX_DETAILS: Final = 32
MAX_DETAIL_CHARS: Final = 2000
SUFFIX: Final = ".json"


class Kind(StrEnum):
    """What an alert is about; alerts.yaml(5) chooses by these words."""

    BOOT_DEGRADED = "boot-degraded"
    ROLLED_BACK = "rolled-back"
    BACKUP_FAILED = "backup-failed"
    UPDATE_AVAILABLE = "update-available"
    UPDATE_FAILED = "update-failed"
    UNIT_FAILED = "unit-failed"
    TEST = "test"


def raise_alert(
    kind: Kind,
    summary: str,
    details: Mapping[str, str | int | float | bool] = {},
    *,
    directory: Path | None = None,
) -> bool:
    """Hand an alert over to the alerter; return whether that worked.

    Never raises and never waits: an agent's own work matters more than telling about it. What cannot be
    handed over is a warning in the journal. An alert with the kind and summary of an earlier one is the same
    alert again, so that what differs each time belongs into the details. No secrets: the alert is sent by
    mail. directory: DIRECTORY, unless a test has its own.
    """
    try:
        _drop(directory or DIRECTORY, kind, summary, details)
    except Exception as error:
        why = error.strerror or error if isinstance(error, OSError) else error
        journal.send(f"Nobody can be told of this {kind} ({why}): {summary}", priority=journal.WARNING)
        return False
    return True


def encode(
    kind: Kind, summary: str, details: Mapping[str, str | int | float | bool], *, now_usec: int
) -> bytes:
    """An alert as the bytes of its file, shortened to the limits. now_usec: CLOCK_REALTIME in µs."""
    kept = {
        str(key)[:64]: str(value)[:MAX_DETAIL_CHARS] for key, value in list(details.items())[:MAX_DETAILS]
    }
    alert = {"kind": str(kind), "summary": summary[:MAX_SUMMARY_CHARS], "details": kept, "usec": now_usec}
    while len(data := json.dumps(alert).encode()) > MAX_BYTES and kept:
        del kept[max(kept, key=lambda key: len(kept[key]))]
    return data


def _drop(
    directory: Path, kind: Kind, summary: str, details: Mapping[str, str | int | float | bool]
) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if len(os.listdir(directory)) >= MAX_FILES:
        raise OSError(f"{directory} holds {MAX_FILES} alerts already")
    now_ns = time.time_ns()
    name = f"{now_ns:020}-{os.urandom(4).hex()}"
    # systemd overlooks hidden files, so that the alerter is not started for half an alert.
    temporary = directory / f".{name}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as stream:
            stream.write(encode(kind, summary, details, now_usec=now_ns // 1000))
        temporary.rename(directory / f"{name}{SUFFIX}")
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
