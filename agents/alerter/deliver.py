# SPDX-License-Identifier: Apache-2.0
"""One run of the alerter: take in what was raised, send what is due, keep the rest for later."""

from __future__ import annotations

import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from agents.alerter import config, inbox, mail, messages, webhook
from agents.alerter.alert import one_line
from agents.alerter.config import Config, Destination, Mail
from agents.alerter.errors import DeliveryFailed
from agents.alerter.places import Places
from agents.alerter.spool import Entry, Spool, load_history, save_history
from agents.alerter.store import Store
from common import journal
from common.alerts import Kind
from common.errors import ConfigError

FIRST_RETRY_SEC: Final = 60
LONGEST_RETRY_SEC: Final = 3600
MAX_AGE_SEC: Final = 7 * 86400
MIN_ATTEMPTS: Final = 20
"""However old an alert is: the clock may have been wrong when it was raised, or the machine switched off."""
HOUR_USEC: Final = 3_600_000_000

Send = Callable[[Destination, Entry], None]
Clock = Callable[[], int]
"""CLOCK_REALTIME in µs."""


def run(places: Places, clock: Clock = lambda: time.time_ns() // 1000) -> int:
    """Take in and send; returns 0. A destination that cannot be reached is no failure of this program.

    Raises FileError if the spool can be written neither on the disk nor in /run.
    """
    try:
        settings, problem = config.load(places.config), None
    except ConfigError as error:
        settings, problem = Config(), error
    store = Store(places.state, places.memory)
    store.settle()
    Round(places.inbox, store, settings, problem, clock, _sender(clock)).send_due()
    return 0


def retry_sec(attempts: int) -> int:
    """Seconds from an attempt to the next one: one minute, two, four, ... up to one hour."""
    return min(FIRST_RETRY_SEC << min(attempts - 1, 16), LONGEST_RETRY_SEC)


class Round:
    """One pass over the spool. problem: why the settings cannot be used, None if they can."""

    def __init__(
        self,
        folder: Path,
        store: Store,
        settings: Config,
        problem: ConfigError | None,
        clock: Clock,
        send: Send,
    ) -> None:
        self._folder = folder
        self._store = store
        self._spool = Spool(store)
        self._history = load_history(store)
        self._settings = settings
        self._problem = problem
        self._clock = clock
        self._send = send
        self._failed: dict[str, str] = {}

    def send_due(self) -> None:
        """Take in what was raised, and send what is due, the oldest first. Raises FileError.

        All of it may take minutes, so that what is raised meanwhile is taken in after each alert.
        """
        self._take_in()
        if self._problem is not None:
            if waiting := self._spool.names():
                what = f"Nobody is told, {len(waiting)} alerts wait: {self._problem}"
                journal.send(what, priority=journal.WARNING)
            return
        seen: set[str] = set()
        while names := [name for name in self._spool.names() if name not in seen]:
            seen.add(names[0])
            entry = self._spool.load(names[0])
            if entry is not None and self._is_due(entry):
                self._handle(entry)
            self._take_in()

    def _take_in(self) -> None:
        inbox.take_in(
            self._folder,
            self._store,
            self._spool,
            self._history,
            now_usec=self._clock(),
            repeat_sec=self._settings.repeat_sec,
        )

    def _is_due(self, entry: Entry) -> bool:
        longest_sec = max(LONGEST_RETRY_SEC, self._settings.repeat_sec)
        # A time too far ahead was written while the clock was wrong.
        return not 0 < entry.next_usec - self._clock() <= longest_sec * 1e6

    def _handle(self, entry: Entry) -> None:
        missing = [
            each for each in self._settings.destinations_for(entry.alert.kind) if each.key not in entry.done
        ]
        if not missing:
            if not entry.done:
                entry.alert.log("Nobody wants to be told, see alerts.yaml(5)")
            self._spool.remove(entry)
            return
        if not entry.admitted and not self._admit(entry):
            return
        # Before anything is sent: if this cannot be noted afterwards, it is not sent each minute.
        entry = self._wait(replace(entry, admitted=True, attempts=entry.attempts + 1))
        reasons: dict[str, str] = {}
        for destination in missing:
            reason = self._try(destination, entry)
            if reason:
                reasons[destination.name] = reason
                continue
            entry = replace(entry, done=(*entry.done, destination.key))
            if len(missing) > 1:
                self._spool.save(entry)
        if reasons:
            self._later(entry, ", ".join(reasons), " ".join(reasons.values()))
        else:
            self._spool.remove(entry)

    def _try(self, destination: Destination, entry: Entry) -> str:
        """Send to one destination; returns why that failed. One that failed is not asked again this time."""
        if destination.key in self._failed:
            return self._failed[destination.key]
        try:
            self._send(destination, entry)
        except DeliveryFailed as error:
            self._failed[destination.key] = str(error)
            return str(error)
        except Exception:
            # A defect that this alert has brought to light; the others go on.
            journal.record("Internal error", priority=journal.DEBUG, traceback=traceback.format_exc())
            return "Internal error of the alerter; the journal has details of level debug."
        entry.alert.log(
            f"Told by {destination.name}", message_id=messages.DELIVERED, destination=destination.name
        )
        if entry.alert.kind is not Kind.TEST:
            self._history.tell(entry.alert, self._clock())
            save_history(self._store, self._history)
        return ""

    def _admit(self, entry: Entry) -> bool:
        """Count the alert; if this hour has had its share, it waits until there is room."""
        if entry.alert.kind is Kind.TEST:
            return True
        now_usec = self._clock()
        sent = [usec for usec in self._history.sent_usec if 0 <= now_usec - usec < HOUR_USEC]
        if len(sent) >= self._settings.rate:
            next_usec = sent[-self._settings.rate] + HOUR_USEC
            self._spool.save(replace(entry, next_usec=next_usec))
            entry.alert.log(
                f"Waits, for {len(sent)} alerts were sent within an hour", priority=journal.NOTICE
            )
            return False
        self._history.sent_usec = [*sent, now_usec]
        save_history(self._store, self._history)
        return True

    def _wait(self, entry: Entry) -> Entry:
        """Note when the next attempt is due."""
        next_usec = self._clock() + retry_sec(entry.attempts) * 1_000_000
        entry = replace(entry, next_usec=next_usec)
        self._spool.save(entry)
        return entry

    def _later(self, entry: Entry, destinations: str, reason: str) -> None:
        age_sec = (self._clock() - entry.alert.usec) / 1e6
        if age_sec > MAX_AGE_SEC and entry.attempts >= MIN_ATTEMPTS:
            inbox.drop(self._spool, entry, f"it is older than {MAX_AGE_SEC // 86400} days ({reason})")
            return
        self._wait(entry)
        entry.alert.log(
            f"Not told yet, tried again in {retry_sec(entry.attempts)} s ({reason})",
            priority=journal.WARNING,
            message_id=messages.DELIVERY_FAILED,
            destination=destinations,
            reason=reason,
            attempts=entry.attempts,
        )


def _sender(clock: Clock) -> Send:
    host = one_line(socket.gethostname()) or "localhost"

    def send(destination: Destination, entry: Entry) -> None:
        if isinstance(destination, Mail):
            mail.send(destination, entry, host=host)
        else:
            webhook.send(destination, entry, host=host, now_sec=clock() // 1_000_000)

    return send
