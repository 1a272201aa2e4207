# SPDX-License-Identifier: Apache-2.0
"""Messages to the journal."""

from __future__ import annotations

import logging
import struct

import pytest

from common import journal
from tests.unit.common.conftest import Datagrams


def fields(datagram: bytes) -> dict[str, str]:
    """Decode a datagram of the native protocol."""
    found = {}
    while datagram:
        line, _, datagram = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack_from("<Q", datagram)
            value, datagram = datagram[8 : 8 + size], datagram[8 + size + 1 :]
        found[name.decode()] = value.decode()
    return found


def test_a_message_carries_its_fields(journald: Datagrams) -> None:
    journal.setup("slot-manager")
    journal.send("Slot a is good", priority=journal.NOTICE, message_id="0" * 32, slot="a", tries_left=2)
    (datagram,) = journald.received()
    assert fields(datagram) == {
        "SYSLOG_IDENTIFIER": "slot-manager",
        "SLOT": "a",
        "TRIES_LEFT": "2",
        "MESSAGE": "Slot a is good",
        "PRIORITY": "5",
        "MESSAGE_ID": "0" * 32,
    }


def test_a_value_of_several_lines_cannot_add_fields(journald: Datagrams) -> None:
    journal.send("first\nPRIORITY=0", output="a\nb=c\n\n")
    (datagram,) = journald.received()
    found = fields(datagram)
    assert found["MESSAGE"] == "first\nPRIORITY=0"
    assert found["OUTPUT"] == "a\nb=c\n\n"
    assert found["PRIORITY"] == "6"


def test_a_huge_value_is_cut(journald: Datagrams) -> None:
    journal.send("x" * 10_000_000)
    (datagram,) = journald.received()
    assert len(datagram) < 50_000


@pytest.mark.parametrize("name", ["_UID", "BAD-NAME", "", "GRÜN"])
def test_a_field_that_the_journal_would_drop_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a journal field name"):
        journal.send("text", priority=journal.INFO, message_id=None, **{name: "value"})


@pytest.mark.usefixtures("no_journald")
def test_without_a_journal_each_line_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    journal.send("first\nsecond", priority=journal.ERR)
    assert capsys.readouterr().err == "<3>first\n<3>second\n"


def test_the_logging_module_arrives_in_the_journal(journald: Datagrams) -> None:
    journal.setup("alerter")
    logging.getLogger("agents.alerter").warning("Mail to %s is late", "root")
    (datagram,) = journald.received()
    assert fields(datagram) == {
        "SYSLOG_IDENTIFIER": "alerter",
        "LOGGER": "agents.alerter",
        "MESSAGE": "Mail to root is late",
        "PRIORITY": "4",
    }


@pytest.mark.usefixtures("no_journald")
def test_a_logged_traceback_does_not_show_up_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    journal.setup("alerter")
    try:
        raise ValueError("secret")
    except ValueError:
        logging.getLogger().exception("It failed")
    assert capsys.readouterr().err == "<3>It failed\n"


@pytest.mark.parametrize(
    ("level", "messages"),
    [
        ("debug", ["d", "i", "w", "e"]),
        ("7", ["d", "i", "w", "e"]),
        ("", ["i", "w", "e"]),
        ("notice", ["i", "w", "e"]),
        ("warning", ["w", "e"]),
        ("err", ["e"]),
        ("0", []),
    ],
)
def test_the_level_comes_from_the_environment(
    level: str, messages: list[str], journald: Datagrams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYSTEMD_LOG_LEVEL", level)
    journal.setup("alerter")
    logger = logging.getLogger("test")
    logger.debug("d")
    logger.info("i")
    logger.warning("w")
    logger.error("e")
    assert [fields(datagram)["MESSAGE"] for datagram in journald.received()] == messages
