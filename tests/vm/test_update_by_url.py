# SPDX-License-Identifier: Apache-2.0
"""An update from a web server: only what the machine does not hold yet goes over the wire."""

import shlex
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from hypernet_release.qemu import HOST, Machine
from tests.fakes import web_server
from tests.fakes.web_server import WebServer
from tests.vm.power import newest_install
from tests.vm.releases import GOOD, START, Releases
from tests.vm.server import UPDATE_SEC, Server, install_server

NETWORK_SEC = 120.0


@dataclass
class Online:
    """A server with a network, and a web server with the releases that it can reach."""

    server: Server
    web: WebServer

    def url(self, version: str) -> str:
        return f"https://{HOST}:{self.web.port}/hypernet-{version}.img"

    def configure(self, text: str) -> None:
        self.write("/config/hypernet/updates.yaml", text)

    def write(self, path: str, text: str) -> None:
        self.server.machine.check("/bin/sh", "-c", f"printf %s {shlex.quote(text)} > {path}")


@pytest.fixture(scope="module")
def online(releases: Releases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Online]:
    folder = tmp_path_factory.mktemp("online")
    disk = install_server(releases, folder, START)
    certificate = web_server.certificate(folder, address=HOST)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    web = WebServer(b"", folder=releases.folder)
    stop = web_server.start(web, context=context)
    try:
        with Machine(disk, folder, share=releases.folder, network=True) as machine:
            online = Online(Server(machine, releases), web)
            online.server.wait_settled()
            machine.wait_until(
                lambda: "\t00000000\t" in machine.check("/bin/cat", "/proc/net/route"),
                "a route to the host",
                NETWORK_SEC,
            )
            public = certificate.read_text()
            online.write("/config/hypernet/authority.pem", public[public.index("-----BEGIN CERT") :])
            yield online
    finally:
        stop()
    disk.unlink()


def test_host_that_is_not_listed_is_not_asked(online: Online) -> None:
    online.configure("hosts: [updates.example.org]\n")

    result = online.server.admin("update", "--image", online.url(GOOD))

    assert (result.status, result.err.count("\n"), online.web.connections) == (2, 1, 0), result.err


def test_authority_that_is_not_known_is_refused_before_anything_is_fetched(online: Online) -> None:
    online.configure(f'hosts: ["{HOST}:{online.web.port}"]\n')

    result = online.server.admin("update", "--image", online.url(GOOD))

    assert (result.status, online.web.requests) == (26, []), result.err
    assert "certificate" in result.err


def test_update_over_https_fetches_only_what_is_new_and_boots(online: Online) -> None:
    host = f"{HOST}:{online.web.port}"
    online.configure(f'hosts: ["{host}"]\nca_file: /config/hypernet/authority.pem\n')

    result = online.server.admin("update", "--image", online.url(GOOD), timeout_sec=UPDATE_SEC)

    assert result.status == 0, result.err
    entry = newest_install(online.server)
    size = online.server.releases.image(GOOD).stat().st_size
    assert online.web.sent_bytes < size // 4
    assert int(entry["BYTES_FETCHED"]) <= online.web.sent_bytes
    assert int(entry["BYTES_COPIED"]) > int(entry["BYTES_FETCHED"])
    online.server.reboot()
    assert online.server.running() == (GOOD, "good")
