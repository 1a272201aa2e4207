# SPDX-License-Identifier: Apache-2.0
"""An alert as a mail, handed to the machine's own mail system by the interface of sendmail(8)."""

from __future__ import annotations

from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Final

from agents.alerter.config import Mail
from agents.alerter.errors import DeliveryFailed
from agents.alerter.spool import Entry
from common import process

LIMIT_SEC: Final = 60.0
MAX_SUBJECT_CHARS: Final = 150


def send(mail: Mail, entry: Entry, *, host: str) -> None:
    """Hand the mail over; from then on the mail system answers for it. Raises DeliveryFailed."""
    sender = ("-f", mail.sender) if mail.sender else ()
    command = (mail.sendmail, "-i", "-t", *sender)
    try:
        process.run(command, timeout_sec=LIMIT_SEC, stdin=message(mail, entry, host=host))
    except process.ProcessError as error:
        raise DeliveryFailed(f"The mail system does not take the mail: {error}") from None


def message(mail: Mail, entry: Entry, *, host: str) -> bytes:
    """The mail with its headers, lines ending as sendmail(8) expects them."""
    alert = entry.alert
    raised = datetime.fromtimestamp(alert.usec / 1e6, UTC)
    text = EmailMessage()
    text["From"] = mail.sender or "root"
    text["To"] = ", ".join(mail.recipients)
    text["Subject"] = f"[{host}] {alert.kind}: {alert.summary}"[:MAX_SUBJECT_CHARS]
    text["Date"] = format_datetime(raised)
    text["Message-ID"] = f"<{alert.id}@{host}>"
    text["Auto-Submitted"] = "auto-generated"
    text["X-Hypernet-Kind"] = str(alert.kind)
    lines = [alert.summary, ""]
    if entry.repeats:
        lines += [f"The same was reported {entry.repeats} times more.", ""]
    lines += [f"{key}: {value}" for key, value in alert.details.items()]
    lines += [f"host: {host}", f"time: {raised:%Y-%m-%d %H:%M:%S} UTC", f"id: {alert.id}", ""]
    lines += ["'hypernet-admin status' on that machine shows its present state."]
    text.set_content("\n".join(lines) + "\n", cte="quoted-printable")
    return text.as_bytes()
