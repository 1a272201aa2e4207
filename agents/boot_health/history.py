# SPDX-License-Identifier: Apache-2.0
"""What boot-health has to know of earlier boots: how many in a row were not good, which system was no trial.

``boot-health check`` and ``boot-health decide`` write the file; the later word on a boot counts. A file that
is missing or damaged only means that the count begins anew: it can delay a rollback, never cause one.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from common import files, journal
from common.errors import AgentError

MAX_HISTORY_BYTES: Final = 4096
_MAX_COUNT: Final = 1 << 20
_HEX: Final = re.compile(r"[0-9a-f]{0,64}")


@dataclass(frozen=True, slots=True)
class History:
    """failures: boots in a row that were not good, up to the boot `boot_id` (32 hex digits) of the system
    `root_hash` (64 hex digits, empty if unknown). before: the same without that boot. proven: root hash of
    the last system of which slot-manager said that it was no trial, for boots in which it does not answer.
    """

    root_hash: str = ""
    boot_id: str = ""
    failures: int = 0
    before: int = 0
    proven: str = ""


def load(path: Path) -> History:
    """Return what was saved; the default History if there is nothing or it cannot be understood."""
    try:
        data = files.read_bounded(path, MAX_HISTORY_BYTES)
        return _history(json.loads(data))
    except files.FileMissing:
        return History()
    except (AgentError, ValueError, TypeError, KeyError, RecursionError) as error:
        journal.send(
            f"The count of failed boots in {path} is not usable and begins anew: {error}",
            priority=journal.WARNING,
        )
        return History()


def save(path: Path, history: History) -> None:
    """Replace the file, safe against power cuts. Raises FileError."""
    files.write_atomic(path, json.dumps(asdict(history), indent=1).encode() + b"\n")


def counted(history: History, boot_id: str, root_hash: str, failed: bool) -> History:
    """Return the history with this boot in it; the same boot may be counted again with another outcome.

    A good boot ends the row, and so does another system. root_hash: empty if it is not known, which is taken
    for the same system as before.
    """
    root_hash = root_hash or history.root_hash
    if root_hash != history.root_hash:
        before = 0
    else:
        before = history.before if boot_id == history.boot_id else history.failures
    failures = min(before + 1, _MAX_COUNT) if failed else 0
    return replace(history, root_hash=root_hash, boot_id=boot_id, failures=failures, before=before)


def noted(history: History, root_hash: str, *, trial: bool) -> History:
    """Return the history with what slot-manager says about the booted system."""
    if not trial:
        return replace(history, proven=root_hash)
    return replace(history, proven="") if history.proven == root_hash else history


def _history(data: dict[str, Any]) -> History:
    texts = [data["root_hash"], data["boot_id"], data.get("proven", "")]
    counts = [data[key] for key in ("failures", "before")]
    if not all(isinstance(text, str) and _HEX.fullmatch(text) for text in texts):
        raise ValueError("an id is not in hexadecimal digits.")
    if not all(type(count) is int and 0 <= count <= _MAX_COUNT for count in counts):
        raise ValueError("a count is not a number that can be.")
    root_hash, boot_id, proven = texts
    failures, before = counts
    return History(root_hash, boot_id, failures, before, proven)
