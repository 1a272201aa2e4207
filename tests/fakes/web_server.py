# SPDX-License-Identifier: Apache-2.0
"""A web server on loopback, honest or not, with or without TLS."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

Misbehave = Callable[["Handler", int, int], bool]
"""Called with the request and its range (first, last); true if it has answered."""


@dataclass
class WebServer:
    """Serves `content` at every path, or the files of `folder` by their names.

    requests: (path, headers) in order; connections: their count; sent_bytes: of the bodies of ranges.
    """

    content: bytes = b""
    folder: Path | None = None
    etag: str = '"one"'
    misbehave: Misbehave | None = None
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    connections: int = 0
    sent_bytes: int = 0
    port: int = 0
    scheme: str = "http"

    @property
    def host(self) -> str:
        return f"localhost:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}/images/hypernet-1.2.3.img"

    def url_of(self, name: str) -> str:
        return f"{self.scheme}://{self.host}/images/{name}"

    def size(self, path: str) -> int | None:
        """Of the file at `path`; None if there is none."""
        if self.folder is None:
            return len(self.content)
        file = self.folder / path.rpartition("/")[2]
        return file.stat().st_size if file.is_file() else None

    def pieces(self, path: str, start: int, end: int) -> Iterator[bytes]:
        """The bytes of a file from `start` up to `end`."""
        if self.folder is None:
            yield self.content[start:end]
            return
        with open(self.folder / path.rpartition("/")[2], "rb") as file:
            file.seek(start)
            while start < end and (piece := file.read(min(end - start, 1 << 20))):
                yield piece
                start += len(piece)

    def ranges(self) -> list[str]:
        return [headers["Range"] for _, headers in self.requests]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    web: WebServer

    def setup(self) -> None:
        super().setup()
        self.web.connections += 1

    def do_GET(self) -> None:
        self.web.requests.append((self.path, dict(self.headers.items())))
        size = self.web.size(self.path)
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        start, end = int(first), int(last or (size or 1) - 1)
        if self.web.misbehave is not None and self.web.misbehave(self, start, end):
            return
        if size is None:
            self.answer(404)
        elif start >= size:
            self.answer(416)
        elif self.headers.get("If-Range", self.web.etag) != self.web.etag:
            self.answer(200, b"".join(self.web.pieces(self.path, 0, size)), ETag=self.web.etag)
        else:
            self.send_range(start, min(end, size - 1))

    def send_range(self, start: int, end: int, **headers: str) -> bool:
        fields = {
            "ETag": self.web.etag,
            "Content-Range": f"bytes {start}-{end}/{self.web.size(self.path)}",
            "Content-Length": str(end + 1 - start),
        }
        self.send_head(206, fields | {key.replace("_", "-"): value for key, value in headers.items()})
        for piece in self.web.pieces(self.path, start, end + 1):
            self.web.sent_bytes += len(piece)
            self.wfile.write(piece)
        return True

    def answer(self, status: int, body: bytes = b"", **headers: str) -> bool:
        self.send_head(status, {"Content-Length": str(len(body))} | headers)
        self.wfile.write(body)
        return True

    def send_head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            if value:
                self.send_header(key, value)
        self.end_headers()

    def cut(self) -> bool:
        """Close the connection after this answer."""
        self.close_connection = True
        return True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


def start(web: WebServer, *, context: ssl.SSLContext | None = None) -> Callable[[], None]:
    """Serve until the returned function is called."""
    handler = type("BoundHandler", (Handler,), {"web": web})
    server = _QuietServer(("127.0.0.1", 0), handler)
    web.port = server.server_address[1]
    if context is not None:
        web.scheme = "https"
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()

    def stop() -> None:
        server.shutdown()
        thread.join(5)
        server.server_close()

    return stop


def certificate(folder: Path, name: str = "localhost", address: str = "127.0.0.1") -> Path:
    """PEM file with a key and a self-signed certificate for `name` and the address."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address(address))]
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path
