# SPDX-License-Identifier: Apache-2.0
"""Who may be asked for an image, and with which secret."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agents.slot_manager import sources
from agents.slot_manager.settings import Settings
from common.errors import ConfigError, InvalidArgument

URL = "https://updates.example.org/r/hypernet-1.2.3.img"


def test_without_a_list_any_https_server_may_be_named_but_may_not_redirect_elsewhere() -> None:
    assert sources.rules_for(URL, Settings()).hosts == ("updates.example.org:443",)
    assert sources.rules_for("https://[2001:db8::1]:8443/x.img.zst", Settings()).hosts == (
        "[2001:db8::1]:8443",
    )


def test_a_list_is_taken_as_it_is() -> None:
    hosts = ("updates.example.org", "cdn.example.org")
    assert sources.rules_for(URL, Settings(hosts=hosts)).hosts == hosts


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("http://updates.example.org/x.img", None),
        (URL, ()),
        (URL, ("example.org",)),
        (URL, ("updates.example.org:8443",)),
        ("http://updates.example.org:443/x.img", ("updates.example.org",)),
    ],
)
def test_other_servers_are_refused_with_the_file_to_change(url: str, hosts: tuple[str, ...] | None) -> None:
    with pytest.raises(InvalidArgument, match=r"'hosts' in /config/hypernet/updates\.yaml"):
        sources.rules_for(url, Settings(hosts=hosts))


def test_the_token_is_read_from_its_file_and_shown_nowhere(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    rules = sources.rules_for(URL, Settings(token_file=tmp_path / "token"))
    assert rules.token == "s3cret"
    assert "s3cret" not in repr(rules)


@pytest.mark.parametrize("content", [b"two words", b"\xff", b"x" * 5000, b"a\nb"])
def test_a_token_that_cannot_be_one_is_an_error_that_does_not_tell_it(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(ConfigError, match="token_file") as caught:
        sources.rules_for(URL, Settings(token_file=tmp_path / "token"))
    assert content.decode(errors="replace") not in str(caught.value)


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        ("/x/a.img", "/x/a.img"),
        (URL, URL),
        ("https://joe:s3cret@x.test/a.img", "https://x.test/a.img"),
        ("https://x.test/a.img?token=s3cret#s3cret", "https://x.test/a.img"),
        ("https://[s3cret/a.img", "an address that is no URL"),
    ],
)
def test_an_address_is_shown_without_secrets(wanted: str, shown: str) -> None:
    assert sources.shown(wanted) == shown


@pytest.mark.parametrize("kind", ["write-only", "pipe", "path-only", "folder"])
def test_open_files_that_cannot_be_read_as_files_are_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_bytes(b"x")
    reader, writer = os.pipe()
    fd = {
        "write-only": lambda: os.open(tmp_path / "file", os.O_WRONLY),
        "pipe": lambda: os.dup(reader),
        "path-only": lambda: os.open(tmp_path / "file", os.O_PATH),
        "folder": lambda: os.open(tmp_path, os.O_RDONLY),
    }[kind]()
    try:
        with pytest.raises(InvalidArgument):
            sources.adopt(fd, fd, fd)
    finally:
        for each in (reader, writer, fd):
            os.close(each)


def test_a_manifest_that_is_too_long_is_refused_before_it_is_read_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(100_000))
    with open(tmp_path / "file", "rb") as file, pytest.raises(InvalidArgument, match="which none has"):
        sources.adopt(file.fileno(), file.fileno(), file.fileno())
