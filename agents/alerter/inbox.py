# SPDX-License-Identifier: Apache-2.0
"""From the directories for new alerts to the spool: that in /run, and that for what a reboot found there.

Whatever lies there is gone afterwards: systemd starts the alerter again as long as there is something.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from agents.alerter import messages
from agents.alerter.alert import Alert, decode
from agents.alerter.errors import AlertInvalid
from agents.alerter.spool import MAX_ENTRIES, Entry, History, Spool
from agents.alerter.store import Store
from common import files, journal
from common.alerts import MAX_BYTES, SUFFIX, Kind

KEPT: Final = "kept"


def take_in(
    folder: Path, store: Store, spool: Spool, history: History, *, now_usec: int, repeat_sec: float
) -> None:
    """Take on what is new. What somebody was told already waits until repeat_sec are over, and is counted.

    Raises FileError if the spool cannot be written, which holds at most MAX_ENTRIES: the oldest give way.
    """
    # Hidden files are alerts that are being written.
    raised = sorted(folder.glob("[!.]*")) if folder.is_dir() else []
    found = [(name, partial(store.read, name), partial(store.remove, name)) for name in store.names(KEPT)]
    found += [(path.name, partial(files.read_bounded, path), partial(_discard, path)) for path in raised]
    for name, read, discard in found:
        try:
            alert = decode(Path(name).name.removesuffix(SUFFIX), read(MAX_BYTES))
        except (AlertInvalid, files.FileError) as error:
            journal.send(f"{name} is no alert and is removed: {error}", priority=journal.WARNING)
        else:
            _take_on(alert, spool, history, now_usec, repeat_sec)
        discard()
    if found:
        for entry in spool.entries()[:-MAX_ENTRIES]:
            drop(spool, entry, f"{MAX_ENTRIES} newer alerts are waiting")


def drop(spool: Spool, entry: Entry, reason: str) -> None:
    """Give an alert up."""
    entry.alert.log(
        f"Given up, for {reason}", priority=journal.ERR, message_id=messages.DROPPED, reason=reason
    )
    spool.remove(entry)


def _take_on(alert: Alert, spool: Spool, history: History, now_usec: int, repeat_sec: float) -> None:
    waiting = spool.entries()
    if any(entry.alert.id == alert.id for entry in waiting):
        return  # it was taken on before a power cut
    same = [entry for entry in waiting if entry.alert.sameness == alert.sameness]
    if alert.kind is Kind.TEST or not repeat_sec:
        spool.save(Entry(alert))
    elif same and (len(same) > 1 or not same[-1].attempts):
        alert.log("Counted with the same one that waits")
        spool.save(replace(same[-1], repeats=same[-1].repeats + 1))
    else:
        # A receiver that has the first may overlook it if it comes again: what is added is the second.
        told_usec = history.told_usec.get(alert.sameness, now_usec if same else None)
        next_usec = 0
        if told_usec is not None and 0 <= now_usec - told_usec < repeat_sec * 1e6:
            next_usec = told_usec + int(repeat_sec * 1e6)
            alert.log("Waits, for the same was told already a short time ago")
        spool.save(Entry(alert, next_usec=next_usec))


def _discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
