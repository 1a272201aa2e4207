# SPDX-License-Identifier: Apache-2.0
"""The built-in checks that are commands, against real servers: http and database."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agents.boot_health.builtin import BUILTINS
from agents.boot_health.builtins import probe_http
from common import config, process
from common.errors import AgentError
from tests.fakes.web_server import Handler, WebServer, certificate, start

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
DIFFERENT = 1


@pytest.fixture
def web() -> Iterator[WebServer]:
    server = WebServer(b"x")
    stop = start(server)
    yield server
    stop()


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    return certificate(tmp_path)


@pytest.fixture
def secure(pem: Path) -> Iterator[WebServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server = WebServer(b"x")
    stop = start(server, context=context)
    yield server
    stop()


def answer(web: WebServer, status: int, **headers: str) -> None:
    def send(request: Handler, first: int, last: int) -> bool:
        return request.answer(status, b"details", **headers)

    web.misbehave = send


def test_the_wanted_status_passes(web: WebServer, capsys: pytest.CaptureFixture[str]) -> None:
    answer(web, 204)

    assert probe_http.run(f"{web.url}?full=1", 204, None) == 0
    assert capsys.readouterr().out == f"{web.url}?full=1 answered 204 No Content.\n"
    assert web.requests[0][0] == "/images/hypernet-1.2.3.img?full=1"


def test_another_status_fails_and_is_told(web: WebServer, capsys: pytest.CaptureFixture[str]) -> None:
    answer(web, 503)

    assert probe_http.run(web.url, 200, None) == DIFFERENT
    assert capsys.readouterr().out == f"{web.url} answered 503 Service Unavailable, wanted is 200.\n"


def test_a_redirect_is_not_followed(web: WebServer) -> None:
    answer(web, 302, Location="/elsewhere")

    assert probe_http.run(web.url, 200, None) == DIFFERENT
    assert len(web.requests) == 1
    assert probe_http.run(web.url, 302, None) == 0


def test_a_url_without_a_path_asks_for_the_top(web: WebServer) -> None:
    answer(web, 200)

    assert probe_http.run(f"http://{web.host}", 200, None) == 0
    assert web.requests[0][0] == "/"


def test_a_proxy_of_the_environment_is_not_asked(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1/")
    answer(web, 200)

    assert probe_http.run(web.url, 200, None) == 0


def test_a_port_where_nobody_listens_is_one_sentence() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
        with pytest.raises(AgentError, match=f"^No answer from {url}: Connection refused.$"):
            probe_http.run(url, 200, None)


@pytest.mark.parametrize(
    "text", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200]
)
def test_a_server_that_speaks_something_else_is_one_sentence(text: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(text)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with pytest.raises(AgentError, match=r"^(No answer from )?http://127\.0\.0\.1:[^\n]*\.$"):
            probe_http.run(f"http://127.0.0.1:{server.getsockname()[1]}/", 200, None)
        thread.join(5)


def test_a_server_with_a_trusted_certificate_passes(secure: WebServer, pem: Path) -> None:
    answer(secure, 200)

    assert probe_http.run(secure.url, 200, pem) == 0


def test_a_certificate_that_nobody_vouches_for_fails(secure: WebServer) -> None:
    with pytest.raises(AgentError, match=r"cannot be trusted: self-signed certificate; set 'ca_file' if"):
        probe_http.run(secure.url, 200, None)
    assert secure.requests == []


def test_a_certificate_for_another_name_fails(tmp_path: Path) -> None:
    pem = certificate(tmp_path, "other.example", "127.0.0.2")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server = WebServer(b"x")
    with ExitStack() as stack:
        stack.callback(start(server, context=context))
        with pytest.raises(AgentError, match="cannot be trusted: Hostname mismatch"):
            probe_http.run(server.url, 200, pem)


def test_certificates_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match=r"gone\.pem cannot be read: No such file or directory"):
        probe_http.run("https://localhost/", 200, tmp_path / "gone.pem")


@pytest.mark.parametrize("url", ["ftp://localhost/", "localhost", "http://"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(AgentError, match="is no URL of http or https"):
        probe_http.run(url, 200, None)


def database(text: str) -> process.Completed:
    """Run the command of the check as it would be run in its unit."""
    command = BUILTINS["database"](config.parse(text.encode(), Path("health.yaml")))
    assert isinstance(command, tuple)
    return process.run(command, timeout_sec=20, success=None)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Path]:
    """The folder of the socket of a real PostgreSQL, which does not run as root."""
    if not POSTGRES:
        pytest.fail("no postgres") if os.environ.get("CI") else pytest.skip("PostgreSQL is not installed")
    programs = POSTGRES[-1].parent
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    user = None
    if os.geteuid() == 0:
        user = "nobody"
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
    data = folder / "data"
    try:
        subprocess.run(
            [programs / "initdb", "--no-sync", "--auth=trust", "--pgdata", data],
            user=user,
            cwd="/",
            check=True,
            capture_output=True,
            timeout=120,
        )
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, "-k", folder, "-h", "", "-F"],
            user=user,
            cwd="/",
            stderr=subprocess.PIPE,
        )
        with server:
            assert server.stderr is not None
            try:
                while b"ready to accept connections" not in (line := server.stderr.readline()):
                    assert line, "PostgreSQL did not start"
                yield folder
            finally:
                server.kill()
    finally:
        shutil.rmtree(folder)


@pytest.mark.skipif(shutil.which("pg_isready") is None, reason="PostgreSQL's client is not installed")
def test_a_database_that_takes_connections_passes(postgres: Path) -> None:
    completed = database(f"host: {postgres}\n")

    assert completed.returncode == 0
    assert b"accepting connections" in completed.stdout


@pytest.mark.skipif(shutil.which("pg_isready") is None, reason="PostgreSQL's client is not installed")
def test_a_database_that_is_not_there_fails(tmp_path: Path) -> None:
    completed = database(f"host: {tmp_path}\nport: 5433\n")

    assert completed.returncode == 2
    assert b"no response" in completed.stdout
