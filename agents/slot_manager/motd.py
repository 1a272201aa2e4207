# SPDX-License-Identifier: Apache-2.0
"""What a login shows after a rollback (pam_motd(8)), until another version has proven good."""

from __future__ import annotations

import time
from pathlib import Path

from agents.slot_manager.record import Record, Rollback
from agents.slot_manager.state import State
from common import files

PATH = Path("/run/motd.d/hypernet-rollback")


def current_rollback(record: Record) -> Rollback | None:
    """The last rollback, if no other version than the one gone back to was proven good since."""
    last = record.last_rollback
    if last is None:
        return None
    is_over = any(
        change.state == State.GOOD
        and change.since_usec >= last.since_usec
        and change.version != last.to_version
        for change in record.transitions
    )
    return None if is_over else last


def write(record: Record, path: Path | None = None) -> None:
    """Tell the story of the last rollback, or remove it when it is over. Raises FileError.

    path: PATH, unless a test has its own.
    """
    path, last = path or PATH, current_rollback(record)
    if last is None:
        files.remove_durable(path)
        return
    since = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(last.since_usec / 1e6))
    text = (
        f"This machine went back from {last.from_version} to {last.to_version} on {since}: {last.reason}\n"
        "'hypernet-admin status' tells more.\n"
    )
    files.write_atomic(path, text.encode("utf-8", "replace"))
