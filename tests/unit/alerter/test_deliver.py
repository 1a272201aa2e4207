# SPDX-License-Identifier: Apache-2.0
"""What is sent when: destinations, further attempts, the rate limit, giving up."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from agents.alerter import deliver, messages, webhook
from agents.alerter.config import Config, Destination, Mail, Webhook
from agents.alerter.deliver import MIN_ATTEMPTS, Round, retry_sec
from agents.alerter.errors import DeliveryFailed
from agents.alerter.places import Places
from agents.alerter.spool import Entry, Spool
from agents.alerter.store import Store
from common.alerts import Kind, raise_alert
from common.errors import ConfigError

from .conftest import NOW_USEC, Disk, Journal

MAIL = Mail(("root",))
HOOK = Webhook("https://example.org/", "secret")
SEC = 1_000_000
DAY_SEC = 86400


class Lab:
    """An alerter whose destinations are lists; times are seconds since the beginning."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.settings = Config((MAIL, HOOK))
        self.problem: ConfigError | None = None
        self.broken: set[Destination] = set()
        self.got: list[tuple[str, str]] = []
        self.asked: list[str] = []
        self.on_send: Callable[[], object] = lambda: None
        self.now_usec = NOW_USEC

    def run(self, at_sec: float = 0) -> None:
        self.now_usec = NOW_USEC + int(at_sec * SEC)
        store = Store(self.places.state, self.places.memory)
        store.settle()
        clock = lambda: self.now_usec  # noqa: E731
        Round(self.places.inbox, store, self.settings, self.problem, clock, self._send).send_due()

    def waiting(self) -> list[Entry]:
        return Spool(Store(self.places.state, self.places.memory)).entries()

    def _send(self, destination: Destination, entry: Entry) -> None:
        self.asked.append(destination.name)
        self.on_send()
        if destination in self.broken:
            raise DeliveryFailed("It is broken.")
        self.got.append((destination.name, entry.alert.summary))


@pytest.fixture
def lab(places: Places, sent: Journal, monkeypatch: pytest.MonkeyPatch) -> Lab:
    # Alerts are raised at the beginning of the lab's time, one after the other.
    ticks = itertools.count(NOW_USEC * 1000)
    monkeypatch.setattr("common.alerts.time.time_ns", lambda: next(ticks))
    return Lab(places)


def test_an_alert_reaches_every_destination_once(lab: Lab, sent: Journal) -> None:
    raise_alert(Kind.ROLLED_BACK, "back")

    lab.run()
    lab.run(60)

    assert lab.got == [(MAIL.name, "back"), (HOOK.name, "back")]
    assert lab.waiting() == []
    assert sent.ids == [messages.DELIVERED] * 2


def test_only_the_destination_that_failed_is_asked_again(lab: Lab) -> None:
    raise_alert(Kind.ROLLED_BACK, "back")
    lab.broken = {HOOK}
    lab.run()
    lab.broken = set()

    lab.run(60)

    assert lab.got == [(MAIL.name, "back"), (HOOK.name, "back")]
    assert lab.waiting() == []


def test_the_next_attempt_waits_twice_as_long_each_time_up_to_an_hour(lab: Lab) -> None:
    raise_alert(Kind.ROLLED_BACK, "back")
    lab.settings, lab.broken = Config((HOOK,)), {HOOK}
    tried = []
    for minute in range(260):
        lab.asked = []
        lab.run(minute * 60)
        if lab.asked:
            tried.append(minute)

    assert tried == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]
    assert retry_sec(1000) == 3600


def test_a_destination_that_failed_is_asked_once_in_a_run(lab: Lab) -> None:
    for number in range(10):
        raise_alert(Kind.UNIT_FAILED, str(number))
    lab.settings, lab.broken = Config((HOOK,)), {HOOK}

    lab.run()

    assert lab.asked == [HOOK.name]
    assert [entry.attempts for entry in lab.waiting()] == [1] * 10


def test_without_destinations_an_alert_is_only_in_the_journal(lab: Lab, sent: Journal) -> None:
    raise_alert(Kind.ROLLED_BACK, "back")
    lab.settings = Config()

    lab.run()

    assert lab.waiting() == []
    assert "Nobody wants to be told, see alerts.yaml(5): back" in sent.text


def test_a_mistake_in_the_configuration_loses_nothing_and_delays_nothing_once_it_is_repaired(
    lab: Lab, sent: Journal
) -> None:
    raise_alert(Kind.ROLLED_BACK, "back")
    lab.problem = ConfigError("alerts.yaml:3: to: is missing.")
    for minute in range(200):
        lab.run(minute * 60)
    assert [entry.attempts for entry in lab.waiting()] == [0]
    assert "alerts.yaml:3" in sent.text
    lab.problem = None

    lab.run(200 * 60)

    assert lab.got == [(MAIL.name, "back"), (HOOK.name, "back")]


def test_the_last_of_many_repetitions_is_told_when_the_time_is_over(lab: Lab) -> None:
    lab.settings = Config((MAIL,))
    raise_alert(Kind.UNIT_FAILED, "unit")
    lab.run()
    for minute in (10, 20, 59):
        raise_alert(Kind.UNIT_FAILED, "unit")
        lab.run(minute * 60)
    assert len(lab.got) == 1
    (held,) = lab.waiting()
    assert held.repeats == 2

    lab.run(3600)
    raise_alert(Kind.UNIT_FAILED, "unit")
    lab.run(3660)

    assert len(lab.got) == 2
    assert len(lab.waiting()) == 1


def test_a_repetition_waits_longer_than_an_hour_if_that_is_wanted(lab: Lab) -> None:
    lab.settings = Config((MAIL,), repeat_sec=7 * DAY_SEC)
    raise_alert(Kind.UNIT_FAILED, "unit")
    lab.run()
    raise_alert(Kind.UNIT_FAILED, "unit")
    for hour in range(7 * 24):
        lab.run(hour * 3600)
    assert len(lab.got) == 1

    lab.run(7 * DAY_SEC)

    assert len(lab.got) == 2


def test_what_nobody_was_told_of_is_told_when_it_happens_again(lab: Lab) -> None:
    lab.settings = Config()
    raise_alert(Kind.UNIT_FAILED, "unit")
    lab.run()
    lab.settings = Config((MAIL,))
    raise_alert(Kind.UNIT_FAILED, "unit")

    lab.run(60)

    assert len(lab.got) == 1


@pytest.mark.parametrize("read_only", [False, True], ids=["full", "read-only"])
def test_a_disk_that_takes_nothing_is_told_once_and_not_each_minute(
    lab: Lab, full_disk: Disk, sent: Journal, *, read_only: bool
) -> None:
    full_disk.full, full_disk.read_only = True, read_only
    raise_alert(Kind.BOOT_DEGRADED, "The disk is full.")

    for minute in range(10):
        lab.run(minute * 60)

    assert lab.got == [(MAIL.name, "The disk is full."), (HOOK.name, "The disk is full.")]
    assert lab.waiting() == []


@pytest.mark.parametrize("read_only", [False, True], ids=["full", "read-only"])
def test_a_disk_that_fills_up_while_an_alert_waits_does_not_have_it_sent_again(
    lab: Lab, full_disk: Disk, sent: Journal, *, read_only: bool
) -> None:
    raise_alert(Kind.ROLLED_BACK, "back")
    lab.broken = {HOOK}
    lab.run()
    full_disk.full, full_disk.read_only = True, read_only
    lab.run(60)
    lab.broken = set()

    for minute in range(3, 10):
        lab.run(minute * 60)
    full_disk.full = full_disk.read_only = False
    lab.run(3600)

    assert lab.got == [(MAIL.name, "back"), (HOOK.name, "back")]
    assert not [path for path in lab.places.memory.rglob("*") if path.is_file()]
    assert list((lab.places.state / "spool").iterdir()) == []


def test_a_disk_that_takes_nothing_is_in_the_journal_once_in_a_run(
    lab: Lab, full_disk: Disk, sent: Journal
) -> None:
    full_disk.full = True
    for number in range(5):
        raise_alert(Kind.UNIT_FAILED, str(number))

    lab.run()

    assert sent.text.count("Alerts are kept in") == 1


def test_an_attempt_is_noted_before_it_is_made(lab: Lab) -> None:
    raise_alert(Kind.ROLLED_BACK, "back")
    noted: list[Entry] = []
    lab.on_send = lambda: noted.extend(lab.waiting())

    lab.run()

    assert [(entry.attempts, entry.next_usec) for entry in noted[:1]] == [(1, NOW_USEC + 60 * SEC)]


def test_what_is_raised_while_others_are_sent_is_taken_in_and_sent_in_the_same_run(lab: Lab) -> None:
    raise_alert(Kind.UNIT_FAILED, "first")
    lab.settings = Config((MAIL,))

    def once() -> None:
        lab.on_send = lambda: None
        raise_alert(Kind.UNIT_FAILED, "second")

    lab.on_send = once
    lab.run()

    assert [summary for _, summary in lab.got] == ["first", "second"]


def test_the_next_attempt_counts_from_the_end_of_a_slow_one(lab: Lab) -> None:
    raise_alert(Kind.ROLLED_BACK, "back")
    lab.settings, lab.broken = Config((HOOK,)), {HOOK}

    def slow() -> None:
        lab.now_usec += 50 * SEC

    lab.on_send = slow
    lab.run()

    assert [entry.next_usec for entry in lab.waiting()] == [NOW_USEC + 110 * SEC]


def test_a_request_has_the_time_at_which_it_is_sent(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    times: list[int] = []
    monkeypatch.setattr(webhook, "send", lambda hook, entry, *, host, now_sec: times.append(now_sec))
    lab.places.config.write_text(
        "webhooks: [{url: 'https://a.org/', secret_file: s}, {url: 'https://b.org/', secret_file: s}]",
        encoding="ascii",
    )
    raise_alert(Kind.ROLLED_BACK, "back")
    ticks = itertools.count(NOW_USEC, SEC)

    deliver.run(lab.places, lambda: next(ticks))

    assert NOW_USEC // SEC < times[0] < times[1]


def test_an_alert_that_brings_a_defect_to_light_does_not_stop_the_others(lab: Lab, sent: Journal) -> None:
    raise_alert(Kind.UNIT_FAILED, "first")
    raise_alert(Kind.UNIT_FAILED, "second")
    lab.settings = Config((MAIL,))

    def once() -> None:
        lab.on_send = lambda: None
        raise RuntimeError("with a secret in it")

    lab.on_send = once
    lab.run()

    assert [summary for _, summary in lab.got] == ["second"]
    assert [entry.attempts for entry in lab.waiting()] == [1]
    assert "Internal error" in sent.text
    assert "secret in it" not in sent.text


def test_more_than_the_rate_wait_for_their_turn(lab: Lab) -> None:
    lab.settings = Config((MAIL,), rate=3)
    for number in range(7):
        raise_alert(Kind.UNIT_FAILED, str(number))

    lab.run()
    assert [summary for _, summary in lab.got] == ["0", "1", "2"]
    lab.run(3599)
    assert len(lab.got) == 3
    lab.run(3600)
    assert [summary for _, summary in lab.got[3:]] == ["3", "4", "5"]
    lab.run(7200)
    assert [summary for _, summary in lab.got[6:]] == ["6"]
    assert lab.waiting() == []


def test_a_further_attempt_does_not_count_for_the_rate(lab: Lab) -> None:
    lab.settings, lab.broken = Config((MAIL,), rate=2), {MAIL}
    raise_alert(Kind.UNIT_FAILED, "first")
    for minute in range(10):
        lab.run(minute * 60)
    lab.broken = set()
    raise_alert(Kind.UNIT_FAILED, "second")

    lab.run(1000)

    assert [summary for _, summary in lab.got] == ["first", "second"]


def test_a_test_is_sent_whatever_the_rate(lab: Lab) -> None:
    lab.settings = Config((MAIL,), rate=1)
    raise_alert(Kind.UNIT_FAILED, "unit")
    raise_alert(Kind.TEST, "test")

    lab.run()

    assert [summary for _, summary in lab.got] == ["unit", "test"]


def test_after_a_week_of_attempts_an_alert_is_given_up(lab: Lab, sent: Journal) -> None:
    raise_alert(Kind.ROLLED_BACK, "back")
    lab.settings, lab.broken = Config((HOOK,)), {HOOK}
    for hour in range(7 * 24 + 1):
        lab.run(hour * 3600)
    assert len(lab.waiting()) == 1

    lab.run(7 * DAY_SEC + 3600)

    assert lab.waiting() == []
    assert sent.ids[-1] == messages.DROPPED
    assert "It is broken." in sent.entries[-1][0]


def test_a_machine_that_was_off_for_a_month_still_tries(lab: Lab) -> None:
    raise_alert(Kind.ROLLED_BACK, "back")
    lab.settings, lab.broken = Config((HOOK,)), {HOOK}
    lab.run()

    lab.run(30 * DAY_SEC)

    (entry,) = lab.waiting()
    assert entry.attempts == 2 < MIN_ATTEMPTS


def test_a_clock_that_was_years_ahead_does_not_hold_an_alert_back(lab: Lab) -> None:
    raise_alert(Kind.ROLLED_BACK, "back")
    lab.broken = {MAIL, HOOK}
    lab.run(1000 * DAY_SEC)
    lab.broken = set()

    lab.run()

    assert len(lab.got) == 2


def test_a_whole_run_takes_in_and_sends(places: Places, sent: Journal) -> None:
    raise_alert(Kind.TEST, "test")
    places.config.write_text("mail: {to: [root], sendmail: /bin/true}", encoding="ascii")

    assert deliver.run(places) == 0
    assert Spool(Store(places.state, places.memory)).entries() == []
    assert sent.ids == [messages.DELIVERED]


def test_a_whole_run_with_a_mistake_in_the_configuration_is_no_failure(
    places: Places, sent: Journal
) -> None:
    raise_alert(Kind.TEST, "test")
    places.config.write_text("mail: nobody", encoding="ascii")

    assert deliver.run(places) == 0
    assert len(Spool(Store(places.state, places.memory)).entries()) == 1
    assert "alerts.yaml:1" in sent.text


def test_what_the_disk_did_not_take_gets_there_as_soon_as_it_does(
    places: Places, full_disk: Disk, sent: Journal
) -> None:
    raise_alert(Kind.ROLLED_BACK, "back")
    places.config.write_text("mail: nobody", encoding="ascii")
    full_disk.full = True
    assert deliver.run(places) == 0
    assert len(list((places.memory / "spool").iterdir())) == 1
    full_disk.full = False

    assert deliver.run(places) == 0

    assert list((places.memory / "spool").iterdir()) == []
    assert len(list((places.state / "spool").iterdir())) == 1
