# SPDX-License-Identifier: Apache-2.0
"""Mail: by a real mail program to a real SMTP server, and what a program that misbehaves leads to."""

from __future__ import annotations

import email
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import default
from pathlib import Path

import pytest

from agents.alerter import mail
from agents.alerter.alert import Alert, from_members
from agents.alerter.config import Mail
from agents.alerter.errors import DeliveryFailed
from agents.alerter.spool import Entry
from common.alerts import Kind

ALERT = Alert(
    "01800000000000000000-0123abcd",
    Kind.BOOT_DEGRADED,
    "Die Prüfung ist fehlgeschlagen.",
    {"check": "disk", "output": "first\n.\nlast"},
    1_800_000_000_000_000,
)


@dataclass
class MailSystem:
    """A server whose mailbox is a Maildir, and the sendmail(8) that gives mail to it."""

    sendmail: str
    mailbox: Path

    def mails(self) -> list[EmailMessage]:
        found = sorted((self.mailbox / "new").iterdir())
        return [email.message_from_bytes(path.read_bytes(), policy=default) for path in found]


@pytest.fixture
def mail_system(tmp_path: Path) -> Iterator[MailSystem]:
    missing = [] if shutil.which("msmtp") else ["msmtp"]
    missing += [] if importlib.util.find_spec("aiosmtpd") else ["aiosmtpd"]
    if missing:
        reason = f"{' and '.join(missing)} not installed"
        # On a build server a missing program must not look like success.
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    mailbox = tmp_path / "mailbox"
    command = [sys.executable, "-m", "aiosmtpd", "--nosetuid", "--listen", f"127.0.0.1:{port}"]
    with subprocess.Popen([*command, "--class", "aiosmtpd.handlers.Mailbox", str(mailbox)]) as server:
        try:
            wait_for(port)
            settings = tmp_path / "msmtprc"
            settings.write_text(f"account default\nhost 127.0.0.1\nport {port}\nfrom machine@example.org\n")
            settings.chmod(0o600)
            sendmail = tmp_path / "sendmail"
            sendmail.write_text(f'#!/bin/sh\nexec msmtp --file={settings} "$@"\n')
            sendmail.chmod(0o755)
            yield MailSystem(str(sendmail), mailbox)
        finally:
            server.terminate()


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, "the mail server does not come up"
            time.sleep(0.05)
        else:
            return


def program(folder: Path, script: str) -> str:
    path = folder / "sendmail"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="ascii")
    path.chmod(0o755)
    return str(path)


def send(settings: Mail, entry: Entry | None = None) -> None:
    mail.send(settings, entry or Entry(ALERT), host="server-1")


def test_a_mail_arrives_at_every_recipient(mail_system: MailSystem) -> None:
    to = ("admin@example.org", "night@example.org")

    send(Mail(to, "machine@example.org", mail_system.sendmail), Entry(ALERT, repeats=4))

    (arrived,) = mail_system.mails()
    assert arrived["Subject"] == "[server-1] boot-degraded: Die Prüfung ist fehlgeschlagen."
    assert arrived["To"] == "admin@example.org, night@example.org"
    assert arrived["From"] == arrived["X-MailFrom"] == "machine@example.org"
    assert sorted(arrived["X-RcptTo"].split(", ")) == sorted(to)
    assert arrived["Auto-Submitted"] == "auto-generated"
    assert arrived["Message-ID"] == f"<{ALERT.id}@server-1>"
    text = arrived.get_content()
    assert text.startswith("Die Prüfung ist fehlgeschlagen.\n\nThe same was reported 4 times more")
    assert "check: disk\noutput: first\n.\nlast\nhost: server-1\ntime: 2027-01-15 08:00:00 UTC" in text


def test_without_a_sender_the_mail_system_chooses(mail_system: MailSystem) -> None:
    send(Mail(("admin@example.org",), sendmail=mail_system.sendmail))

    (arrived,) = mail_system.mails()
    assert arrived["X-MailFrom"] == "machine@example.org"


def test_a_summary_cannot_add_headers(mail_system: MailSystem) -> None:
    members = {"kind": "test", "summary": "x\nBcc: evil@example.org\r\n\r\nbody", "details": {}, "usec": 1}
    entry = Entry(from_members(ALERT.id, members))

    send(Mail(("admin@example.org",), sendmail=mail_system.sendmail), entry)

    (arrived,) = mail_system.mails()
    assert arrived["Bcc"] is None
    assert arrived["X-RcptTo"] == "admin@example.org"


def test_the_interface_is_that_of_sendmail(tmp_path: Path) -> None:
    sendmail = program(tmp_path, f'echo "$@" > {tmp_path}/arguments; cat > {tmp_path}/mail')

    send(Mail(("root",), "machine@example.org", sendmail))

    assert (tmp_path / "arguments").read_text() == "-i -t -f machine@example.org\n"
    assert b"\r" not in (tmp_path / "mail").read_bytes()


def test_a_mail_system_that_refuses_is_quoted(tmp_path: Path) -> None:
    sendmail = program(tmp_path, "echo 'no route to the relay' >&2; exit 75")

    with pytest.raises(DeliveryFailed, match="failed with status 75: no route to the relay"):
        send(Mail(("root",), sendmail=sendmail))


def test_a_mail_system_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(DeliveryFailed, match="No such file"):
        send(Mail(("root",), sendmail=str(tmp_path / "none")))


def test_a_mail_system_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "LIMIT_SEC", 0.5)

    with pytest.raises(DeliveryFailed, match="took longer"):
        send(Mail(("root",), sendmail=program(tmp_path, "sleep 30")))
