# SPDX-License-Identifier: Apache-2.0
"""alerts.yaml: what it may say, and what each mistake is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.alerter import config
from agents.alerter.config import Config, Mail, Webhook
from common.alerts import Kind
from common.errors import ConfigError

FULL = """
rate_limit: 5
repeat_after: 10min
mail:
  to: [admin@example.org, root]
  from: machine@example.org
  sendmail: /usr/bin/msmtp
  kinds: [rolled-back, boot-degraded]
webhooks:
  - url: https://hooks.example.org:8443/in?token=x
    secret_file: /config/hypernet/secrets/hook
    ca_file: /config/hypernet/ca.pem
    kinds: [unit-failed]
  - url: http://127.0.0.1:9000/
    secret_file: local
"""


def load(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "alerts.yaml"
    path.write_text(text, encoding="utf-8")
    return config.load(path)


def test_every_setting_is_read(tmp_path: Path) -> None:
    assert load(tmp_path, FULL) == Config(
        (
            Mail(
                ("admin@example.org", "root"),
                "machine@example.org",
                "/usr/bin/msmtp",
                frozenset({Kind.ROLLED_BACK, Kind.BOOT_DEGRADED}),
            ),
            Webhook(
                "https://hooks.example.org:8443/in?token=x",
                "/config/hypernet/secrets/hook",
                "/config/hypernet/ca.pem",
                frozenset({Kind.UNIT_FAILED}),
            ),
            Webhook("http://127.0.0.1:9000/", "local"),
        ),
        5,
        600.0,
    )


def test_without_a_file_nobody_is_told(tmp_path: Path) -> None:
    assert config.load(tmp_path / "alerts.yaml") == Config()


def test_each_destination_gets_its_kinds_and_all_get_a_test(tmp_path: Path) -> None:
    settings = load(tmp_path, FULL)
    mail, outside, local = settings.destinations

    assert settings.destinations_for(Kind.ROLLED_BACK) == (mail, local)
    assert settings.destinations_for(Kind.UNIT_FAILED) == (outside, local)
    assert settings.destinations_for(Kind.BACKUP_FAILED) == (local,)
    assert settings.destinations_for(Kind.TEST) == (mail, outside, local)


def test_the_name_of_a_webhook_tells_nothing_of_its_path(tmp_path: Path) -> None:
    assert load(tmp_path, FULL).destinations[1].name == "webhook https://hooks.example.org:8443"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("mail: {to: []}", "mail.to: must be a list of 1 to 32 addresses"),
        ("mail: {from: root}", "mail.to: is missing"),
        ("mail: {to: ['a, b@c']}", "is no mail address"),
        ('mail: {to: ["a@b\\nBcc: c@d"]}', "is no mail address"),
        ("mail: {to: ['-oQ/tmp@b']}", "is no mail address"),
        ("mail: {to: [a], from: '<>'}", "mail.from"),
        ("mail: {to: [a], sendmail: msmtp}", "must be the absolute path"),
        ("mail: {to: [a], kinds: [all]}", "'all' is not allowed, allowed are boot-degraded"),
        ("mail: {to: [a], colour: blue}", "unknown key"),
        ("webhooks: [{url: 'https://a/'}]", "secret_file: is missing"),
        ("webhooks: [{url: 'https://a/', secret_file: ../x}]", "secret_file: must be an absolute path"),
        ("webhooks: [{url: 'https://a/', secret_file: /x, ca_file: x}]", "ca_file"),
        ("rate_limit: 0", "at least 1"),
        ("repeat_after: 8d", "is too large"),
    ],
)
def test_a_mistake_is_named_with_file_and_line(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=r"alerts\.yaml:1: ") as raised:
        load(tmp_path, text)

    assert complaint in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.org/",
        "http://10.0.0.1/",
        "https://user:hunter2@example.org/",
        "ftp://example.org/",
        "https:///hunter2",
        "https://example.org:hunter2/",
        "https://example.org/ hunter2",
        "https://example.org/a#hunter2",
        "http://[::2]/hunter2",
        "http://localhost.example.org/hunter2",
    ],
)
def test_an_address_that_is_not_allowed_is_refused_and_not_repeated(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match=r"url: must be https://") as raised:
        load(tmp_path, f"webhooks: [{{url: '{url}', secret_file: /x}}]")

    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["http://localhost/", "http://127.0.0.8:1/", "http://[::1]:80/", "HTTPS://A/"]
)
def test_addresses_that_are_allowed(tmp_path: Path, url: str) -> None:
    assert load(tmp_path, f"webhooks: [{{url: '{url}', secret_file: /x}}]").destinations


def test_an_address_stands_there_once(tmp_path: Path) -> None:
    twice = "{url: 'https://a/', secret_file: /x}"

    with pytest.raises(ConfigError, match="twice"):
        load(tmp_path, f"webhooks: [{twice}, {twice}]")
