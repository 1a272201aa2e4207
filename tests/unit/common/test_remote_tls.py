# SPDX-License-Identifier: Apache-2.0
"""Images read over HTTPS: certificates, redirects, and who gets to see the token."""

from __future__ import annotations

import random
import ssl
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from common.errors import AgentError, InvalidArgument
from common.image import remote
from tests.fakes.web_server import Handler, WebServer, certificate, start

CONTENT = random.Random(5).randbytes(100_000)


@dataclass
class Lab:
    first: WebServer
    second: WebServer
    rules: remote.Rules

    def read(self, **changes: object) -> bytes:
        with remote.opened(self.first.url, replace(self.rules, **changes)) as source:  # type: ignore[arg-type]
            return source.read(10, 1000)


def context(pem: Path) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(pem)
    return made


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    pem = certificate(tmp_path)
    first, second = WebServer(CONTENT), WebServer(CONTENT)
    with ExitStack() as stack:
        for web in (first, second):
            stack.callback(start(web, context=context(pem)))
        hosts = (first.host, second.host)
        yield Lab(first, second, remote.Rules(hosts, pem, "beta-token", pause_sec=0.01, attempts=2))


def to(*locations: str) -> dict[str, str]:
    """Each request is sent on to the next location."""
    return dict(zip(("/images/hypernet-1.2.3.img", *locations), locations, strict=False))


def redirect(web: WebServer, table: dict[str, str], status: int = 302) -> None:
    def answer(request: Handler, first: int, last: int) -> bool:
        if request.path not in table:
            return False
        request.answer(status, b"", Location=table[request.path])
        return True

    web.misbehave = answer


def test_an_image_is_read_over_https_with_the_token(lab: Lab) -> None:
    assert lab.read() == CONTENT[10:1010]
    assert lab.first.requests[1][1]["Authorization"] == "Bearer beta-token"
    assert lab.first.connections == 1


def test_a_redirect_to_another_configured_host_gets_no_token(lab: Lab) -> None:
    redirect(lab.first, to(lab.second.url))

    assert lab.read() == CONTENT[10:1010]
    assert len(lab.first.requests) == 1
    assert len(lab.second.requests) == 2
    assert all("Authorization" not in headers for _, headers in lab.second.requests)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_three_redirects_are_followed(lab: Lab, status: int) -> None:
    redirect(lab.first, to("/a", "/b", "/c"), status)

    assert lab.read() == CONTENT[10:1010]


def test_the_fourth_redirect_is_refused(lab: Lab) -> None:
    redirect(lab.first, to("/a", "/b", "/c", "/d"))

    with pytest.raises(AgentError, match="redirects more than 3 times"):
        lab.read()


def test_a_redirect_to_plain_http_is_refused(lab: Lab) -> None:
    redirect(lab.first, to(lab.second.url.replace("https", "http")))

    with pytest.raises(AgentError, match="redirects without https"):
        lab.read()
    assert not lab.second.requests


def test_a_redirect_to_a_host_that_is_not_configured_is_refused(lab: Lab) -> None:
    redirect(lab.first, to(lab.second.url))

    with pytest.raises(InvalidArgument, match="configured hosts"):
        lab.read(hosts=(lab.first.host,))
    assert not lab.second.requests


@pytest.mark.parametrize("location", ["", "ftp://localhost/x", "https://u:p@localhost/x", "https://[x"])
def test_a_redirect_to_no_valid_address_is_refused(lab: Lab, location: str) -> None:
    redirect(lab.first, to(location))

    with pytest.raises(AgentError, match=r"redirects"):
        lab.read(attempts=1)


def test_a_certificate_of_an_unknown_authority_is_refused(lab: Lab) -> None:
    with pytest.raises(AgentError, match="The certificate of localhost is not accepted: self"):
        lab.read(ca_file=None)
    assert not lab.first.requests


def test_a_certificate_for_another_name_is_refused(lab: Lab, tmp_path: Path) -> None:
    pem = certificate(tmp_path, "other.example")
    web = WebServer(CONTENT)
    stop = start(web, context=context(pem))
    try:
        with pytest.raises(AgentError, match="is not accepted: Hostname mismatch"):
            replace(lab, first=web).read(ca_file=pem, hosts=(web.host,))
    finally:
        stop()


def test_tls_older_than_1_2_is_refused(lab: Lab, tmp_path: Path) -> None:
    old = context(certificate(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    web = WebServer(CONTENT)
    stop = start(web, context=old)
    try:
        with pytest.raises(AgentError, match="there is no TLS connection"):
            replace(lab, first=web).read(hosts=(web.host,))
    finally:
        stop()


def test_an_authority_that_cannot_be_read_is_named(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "junk.pem").write_text("junk")
    for name in ("junk.pem", "absent.pem"):
        with pytest.raises(AgentError, match=f"{name} cannot be used"):
            lab.read(ca_file=tmp_path / name)


def test_the_token_is_not_part_of_what_the_rules_print(lab: Lab) -> None:
    assert "beta-token" not in repr(lab.rules)
