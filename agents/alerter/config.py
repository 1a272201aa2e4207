# SPDX-License-Identifier: Apache-2.0
"""Who is told of what: alerts.yaml(5)."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from common import config
from common.alerts import Kind

DEFAULT_RATE: Final = 20
DEFAULT_REPEAT_SEC: Final = 3600.0
MAX_REPEAT_SEC: Final = 7 * 86400.0
MAX_WEBHOOKS: Final = 16
MAX_ADDRESSES: Final = 32
SENDMAIL: Final = "/usr/sbin/sendmail"

_ADDRESS: Final = re.compile(r"[A-Za-z0-9._%+=][A-Za-z0-9._%+=-]{0,63}(@[A-Za-z0-9][A-Za-z0-9.-]{0,252})?")
_URL: Final = re.compile(r"[!-~]{1,2000}")
_CREDENTIAL: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True, slots=True)
class Mail:
    """sender: address, "" for the mail system's own choice. kinds: empty for all."""

    recipients: tuple[str, ...]
    sender: str = ""
    sendmail: str = SENDMAIL
    kinds: frozenset[Kind] = frozenset()

    @property
    def name(self) -> str:
        """How the journal calls it."""
        return f"mail to {', '.join(self.recipients)}"

    @property
    def key(self) -> str:
        """Stays the same as long as it means the same destination."""
        return _key("mail", *self.recipients)


@dataclass(frozen=True, slots=True)
class Webhook:
    """secret_file: absolute path, or name of a credential of the service. kinds: empty for all."""

    url: str
    secret_file: str
    ca_file: str = ""
    kinds: frozenset[Kind] = frozenset()

    @property
    def name(self) -> str:
        """How the journal calls it; the rest of the address is often a secret."""
        parts = urlsplit(self.url)
        return f"webhook {parts.scheme}://{parts.netloc}"

    @property
    def key(self) -> str:
        """Stays the same as long as it means the same destination."""
        return _key("webhook", self.url)


Destination = Mail | Webhook


@dataclass(frozen=True, slots=True)
class Config:
    """rate: alerts sent in one hour. repeat_sec: within it nobody is told the same twice."""

    destinations: tuple[Destination, ...] = ()
    rate: int = DEFAULT_RATE
    repeat_sec: float = DEFAULT_REPEAT_SEC

    def destinations_for(self, kind: Kind) -> tuple[Destination, ...]:
        """Those who want to know; a test reaches all."""
        return tuple(
            each for each in self.destinations if kind is Kind.TEST or not each.kinds or kind in each.kinds
        )


def load(path: Path) -> Config:
    """Read alerts.yaml; a machine without that file tells nobody. Raises ConfigError."""
    top = config.load(path, optional=True)
    rate = top.get_int("rate_limit", DEFAULT_RATE, minimum=1, maximum=1000)
    repeat_sec = top.get_duration_sec("repeat_after", DEFAULT_REPEAT_SEC, minimum=0, maximum=MAX_REPEAT_SEC)
    mail = top.section("mail")
    destinations: list[Destination] = [_mail(mail)] if mail.keys() else []
    hooks = top.sections("webhooks")
    if len(hooks) > MAX_WEBHOOKS:
        raise top.error("webhooks", f"has {len(hooks)} entries, at most {MAX_WEBHOOKS} are allowed")
    destinations += [_webhook(each) for each in hooks]
    top.finish()
    keys = [each.key for each in destinations]
    if len(set(keys)) < len(keys):
        raise top.error("webhooks", "names the same address twice; keep one and list its kinds there")
    return Config(tuple(destinations), rate, repeat_sec)


def _mail(section: config.Section) -> Mail:
    recipients = section.get_strings("to", config.REQUIRED)
    if not 1 <= len(recipients) <= MAX_ADDRESSES:
        raise section.error("to", f"must be a list of 1 to {MAX_ADDRESSES} addresses")
    sender = section.get_str("from", "")
    for key, address in [*(("to", each) for each in recipients), *([("from", sender)] if sender else [])]:
        if not _ADDRESS.fullmatch(address):
            raise section.error(key, f"{address!r} is no mail address such as admin@example.org or root")
    sendmail = section.get_str("sendmail", SENDMAIL)
    if not sendmail.startswith("/"):
        raise section.error("sendmail", f"must be the absolute path of a program, such as {SENDMAIL}")
    return Mail(recipients, sender, sendmail, _kinds(section))


def _webhook(section: config.Section) -> Webhook:
    url = section.get_str("url")
    if not _URL.fullmatch(url) or not _is_allowed(url):
        # The address itself stays out of the complaint: it often holds a secret.
        raise section.error(
            "url", "must be https://HOST[:PORT]/..., or http:// to this machine itself, without a password"
        )
    secret_file = section.get_str("secret_file")
    if not secret_file.startswith("/") and not _CREDENTIAL.fullmatch(secret_file):
        raise section.error("secret_file", "must be an absolute path, or the name of a credential")
    ca_file = section.get_str("ca_file", "")
    if ca_file and not ca_file.startswith("/"):
        raise section.error("ca_file", "must be an absolute path")
    return Webhook(url, secret_file, ca_file, _kinds(section))


def _is_allowed(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        return False
    if not host or "@" in parts.netloc or parts.fragment:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts))


def _is_loopback(parts: SplitResult) -> bool:
    try:
        return parts.hostname == "localhost" or ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def _kinds(section: config.Section) -> frozenset[Kind]:
    known = {str(kind): kind for kind in Kind}
    words = section.get_strings("kinds")
    for word in words:
        if word not in known:
            raise section.error("kinds", f"{word!r} is not allowed, allowed are {', '.join(known)}")
    return frozenset(known[word] for word in words)


def _key(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
