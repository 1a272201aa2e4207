# SPDX-License-Identifier: Apache-2.0
"""What slot-manager takes from updates.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.slot_manager import settings
from agents.slot_manager.settings import Settings
from common.errors import ConfigError


def test_without_a_file_the_channel_is_stable_and_no_manifest_is_demanded(tmp_path: Path) -> None:
    assert settings.load(tmp_path) == Settings("stable", require_manifest=False)


def test_keys_of_other_agents_are_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "updates.yaml").write_text(
        "server: https://x.invalid\nchannel: beta\nrequire_manifest: yes\n"
    )
    assert settings.load(tmp_path) == Settings("beta", require_manifest=True)


@pytest.mark.parametrize("text", ["channel: ''\n", "channel: 'a b'\n", "channel: [x]\n", "channel: ../x\n"])
def test_a_channel_that_cannot_be_one_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "updates.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"updates\.yaml:1: channel"):
        settings.load(tmp_path)


def test_a_demand_that_is_neither_yes_nor_no_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "updates.yaml").write_text("channel: stable\nrequire_manifest: maybe\n")
    with pytest.raises(ConfigError, match=r"updates\.yaml:2: require_manifest"):
        settings.load(tmp_path)


def test_servers_and_how_to_trust_them_are_read(tmp_path: Path) -> None:
    (tmp_path / "updates.yaml").write_text(
        "hosts: [updates.example.org, 'updates.example.org:8443', '[2001:db8::1]:80']\n"
        "ca_file: /config/ca.pem\ntoken_file: /config/token\n"
    )
    found = settings.load(tmp_path)
    assert found.hosts == ("updates.example.org", "updates.example.org:8443", "[2001:db8::1]:80")
    assert (found.ca_file, found.token_file) == (Path("/config/ca.pem"), Path("/config/token"))


def test_an_empty_list_of_hosts_is_not_the_same_as_none(tmp_path: Path) -> None:
    assert settings.load(tmp_path).hosts is None
    (tmp_path / "updates.yaml").write_text("hosts: []\n")
    assert settings.load(tmp_path).hosts == ()


@pytest.mark.parametrize(
    "text",
    ["hosts: ['https://x']\n", "hosts: ['a b']\n", "hosts: x\n", "ca_file: ca.pem\n", "token_file: ./t\n"],
)
def test_servers_that_cannot_be_meant_are_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "updates.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"updates\.yaml:1: (hosts|ca_file|token_file)"):
        settings.load(tmp_path)
