# SPDX-License-Identifier: Apache-2.0
"""Webhooks against real HTTP and HTTPS servers, honest or not."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agents.alerter import webhook
from agents.alerter.alert import Alert
from agents.alerter.config import Webhook
from agents.alerter.errors import DeliveryFailed
from agents.alerter.spool import Entry
from common.alerts import Kind
from tests.fakes.web_server import certificate

from .conftest import SECRET

ALERT = Alert(
    "01800000000000000000-0123abcd", Kind.ROLLED_BACK, "Went back ü.", {"to": "1.0"}, 1_800_000_000_000_000
)
ENTRY = Entry(ALERT, repeats=2)
NOW_SEC = 1_800_000_100


@dataclass
class Receiver:
    """What a server got: (path, headers, body)."""

    url: str
    got: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"ok"


def serve(context: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    receiver = Receiver("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.got.append((self.path, dict(self.headers.items()), body))
            self.send_response(receiver.status)
            for name, value in receiver.headers.items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(receiver.body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    class QuietServer(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    server = QuietServer(("127.0.0.1", 0), Handler)
    scheme = "http"
    if context is not None:
        scheme = "https"
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    receiver.url = f"{scheme}://localhost:{server.server_address[1]}/hook?token=hunter2"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield receiver
    server.shutdown()
    thread.join(5)
    server.server_close()


@pytest.fixture
def plain() -> Iterator[Receiver]:
    yield from serve()


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    return certificate(tmp_path)


@pytest.fixture
def secure(pem: Path) -> Iterator[Receiver]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    yield from serve(context)


def send(hook: Webhook, *, limit_sec: float = 5) -> None:
    webhook.send(hook, ENTRY, host="server-1", now_sec=NOW_SEC, limit_sec=limit_sec)


def raw_server(talk: Callable[[socket.socket], None]) -> tuple[socket.socket, str]:
    """A server that reads a little and then does what `talk` says."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                talk(connection)

    threading.Thread(target=run, daemon=True).start()
    return listener, f"http://127.0.0.1:{listener.getsockname()[1]}/"


def test_a_receiver_gets_the_alert_over_https_and_can_check_the_signature(
    secure: Receiver, pem: Path, secret_file: Path
) -> None:
    send(Webhook(secure.url, str(secret_file), str(pem)))

    ((path, headers, body),) = secure.got
    assert path == "/hook?token=hunter2"
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Hypernet-Timestamp"] == str(NOW_SEC)
    # As the manual page tells receivers to do it.
    signed = headers["X-Hypernet-Timestamp"].encode() + b"." + body
    digest = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    assert headers["X-Hypernet-Signature"] == f"sha256={digest}"
    assert json.loads(body) == {
        "id": ALERT.id,
        "kind": "rolled-back",
        "summary": "Went back ü.",
        "details": {"to": "1.0"},
        "host": "server-1",
        "time": "2027-01-15T08:00:00Z",
        "repeats": 2,
    }


def test_the_signature_is_that_of_the_example_in_the_manual_page() -> None:
    page = (Path(__file__).parents[3] / "packaging/man/alerts.yaml.5").read_text(encoding="utf-8")
    _, headers = webhook.request(ENTRY, b"0123456789abcdef", host="server-1", now_sec=NOW_SEC)

    assert all(name in page.replace("\\-", "-") for name in headers if name.startswith("X-"))


def test_a_certificate_that_nobody_vouches_for_is_refused(secure: Receiver, secret_file: Path) -> None:
    with pytest.raises(DeliveryFailed, match="certificate is not accepted"):
        send(Webhook(secure.url, str(secret_file)))
    assert secure.got == []


def test_a_certificate_for_another_host_is_refused(tmp_path: Path, secret_file: Path) -> None:
    other = certificate(tmp_path, "example.org", "192.0.2.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(other)
    for receiver in serve(context):
        with pytest.raises(DeliveryFailed, match="certificate is not accepted"):
            send(Webhook(receiver.url, str(secret_file), str(other)))
        assert receiver.got == []


@pytest.mark.parametrize("status", [300, 301, 307, 308, 400, 404, 410, 500, 503])
def test_every_other_answer_than_success_is_a_failure_and_nothing_is_followed(
    plain: Receiver, secret_file: Path, status: int
) -> None:
    plain.status = status
    plain.headers = {"Location": plain.url}

    with pytest.raises(DeliveryFailed, match=f"answered with status {status}") as raised:
        send(Webhook(plain.url, str(secret_file)))
    assert len(plain.got) == 1
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("status", [200, 202, 204])
def test_success_is_success(plain: Receiver, secret_file: Path, status: int) -> None:
    plain.status = status

    send(Webhook(plain.url, str(secret_file)))


def test_a_huge_answer_is_not_read(plain: Receiver, secret_file: Path) -> None:
    plain.body = bytes(100_000_000)

    send(Webhook(plain.url, str(secret_file)))


def slowly(connection: socket.socket, head: bytes, rest: bytes) -> None:
    connection.sendall(head)
    for _ in range(60):
        time.sleep(0.05)
        connection.sendall(rest)


@pytest.mark.parametrize(
    "talk",
    [
        lambda connection: time.sleep(3),
        lambda connection: slowly(connection, b"HTTP/1.1 2", b"0"),
        lambda connection: slowly(connection, b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    ],
    ids=["silent", "slow-status", "slow-headers"],
)
def test_a_server_that_takes_its_time_is_given_up(
    talk: Callable[[socket.socket], None], secret_file: Path
) -> None:
    listener, url = raw_server(talk)
    began = time.monotonic()

    with closing(listener), pytest.raises(DeliveryFailed):
        send(Webhook(url, str(secret_file)), limit_sec=0.5)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    "head",
    [b"Content-Length: 100\r\n\r\nok", b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"],
    ids=["stalls", "malformed"],
)
def test_a_success_whose_content_never_comes_is_a_success(head: bytes, secret_file: Path) -> None:
    def talk(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + head)
        time.sleep(2)

    listener, url = raw_server(talk)

    with closing(listener):
        send(Webhook(url, str(secret_file)), limit_sec=1)


def test_what_is_no_http_is_a_failure(secret_file: Path) -> None:
    listener, url = raw_server(lambda connection: connection.sendall(b"220 mail ESMTP\r\n"))

    with closing(listener), pytest.raises(DeliveryFailed, match="is not HTTP"):
        send(Webhook(url, str(secret_file)))


def test_a_host_that_refuses_is_a_failure(secret_file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    with pytest.raises(DeliveryFailed, match="cannot be reached: Connection refused"):
        send(Webhook(f"http://127.0.0.1:{port}/", str(secret_file)))


def test_a_secret_comes_from_a_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hook").write_text(SECRET, encoding="ascii")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))

    assert webhook.read_secret("hook") == SECRET.encode()


def test_a_credential_that_was_not_given_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)

    with pytest.raises(DeliveryFailed, match=r"no credential hook.*LoadCredential="):
        webhook.read_secret("hook")


def test_a_secret_that_others_can_read_is_none(secret_file: Path) -> None:
    secret_file.chmod(0o640)

    with pytest.raises(DeliveryFailed, match="chmod 600"):
        webhook.read_secret(str(secret_file))


@pytest.mark.parametrize("content", ["", "hunter2", "x" * 5000])
def test_a_secret_has_a_sensible_length_and_is_never_shown(secret_file: Path, content: str) -> None:
    secret_file.write_text(content, encoding="ascii")

    with pytest.raises(DeliveryFailed) as raised:
        webhook.read_secret(str(secret_file))
    assert not content or content not in str(raised.value)


def test_a_missing_secret_is_a_failure_of_the_delivery(tmp_path: Path) -> None:
    with pytest.raises(DeliveryFailed, match="no such file"):
        send(Webhook("https://localhost/", str(tmp_path / "none")))
