# SPDX-License-Identifier: Apache-2.0
"""A server that lies about the blocks of a system, when the slot is being written already."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.slot_manager import install
from agents.slot_manager.state import State
from common.errors import AgentError
from common.image.errors import ChecksumMismatch, DownloadFailed
from tests.fakes import web_server
from tests.fakes.faulty_machine import make_full
from tests.fakes.slot_images import ESP_MIB, MIB, ROOT_MIB, BuiltImage, Key
from tests.fakes.slot_lab import Lab
from tests.fakes.web_server import Handler, Misbehave, WebServer

NEW = "3.0.0"
FIRST = (1 + ESP_MIB) * MIB
"""Where the root partition is in an image."""


@pytest.fixture
def web(releases: dict[str, BuiltImage]) -> Iterator[WebServer]:
    web = WebServer(folder=releases[NEW].path.parent)
    stop = web_server.start(web)
    yield web
    stop()


@pytest.fixture
def full(tmp_path: Path, images: dict[str, BuiltImage], key: Key, web: WebServer) -> Lab:
    """2.0.0 runs in slot a and is good; slot b, which holds the good 1.0.0, is the target."""
    lab = make_full(tmp_path / "lab", images["2.0.0"], images["1.0.0"], key)
    lab.configure(f'hosts: ["{web.host}"]\n')
    return lab


def _for_blocks(misbehave: Misbehave) -> Misbehave:
    """Honest but for blocks of the root partition."""

    def choose(request: Handler, first: int, last: int) -> bool:
        inside = request.path.endswith(".img") and FIRST <= first < FIRST + ROOT_MIB * MIB
        return inside and misbehave(request, first, last)

    return choose


def _read(request: Handler, first: int, last: int) -> bytes:
    return b"".join(request.web.pieces(request.path, first, last + 1))


def _flipped(request: Handler, first: int, last: int) -> bool:
    data = bytearray(_read(request, first, last))
    data[len(data) // 2] ^= 1
    return _send(request, first, last, bytes(data))


def _elsewhere(request: Handler, first: int, last: int) -> bool:
    return _send(request, first, last, _read(request, first + 4096, last + 4096))


def _zeros(request: Handler, first: int, last: int) -> bool:
    return _send(request, first, last, bytes(last + 1 - first))


def _send(request: Handler, first: int, last: int, data: bytes) -> bool:
    headers = {
        "ETag": request.web.etag,
        "Content-Range": f"bytes {first}-{last}/{request.web.size(request.path)}",
        "Content-Length": str(len(data)),
    }
    request.send_head(206, headers)
    request.wfile.write(data)
    return True


@pytest.mark.parametrize(
    ("misbehave", "error"),
    [
        (_flipped, ChecksumMismatch),
        (_elsewhere, ChecksumMismatch),
        (_zeros, ChecksumMismatch),
        (lambda request, first, last: request.send_range(first, last, ETag='"two"'), ChecksumMismatch),
        (lambda request, first, last: request.answer(416), ChecksumMismatch),
        (lambda request, first, last: request.answer(200, bytes(MIB)), DownloadFailed),
        (lambda request, first, last: request.answer(403), DownloadFailed),
        (lambda request, first, last: request.send_range(first + 1, last + 1), DownloadFailed),
        (lambda request, first, last: request.send_range(first, last, Content_Length="7"), DownloadFailed),
        (lambda request, first, last: request.send_range(first, last, Content_Range=""), DownloadFailed),
    ],
    ids=[
        "flipped",
        "elsewhere",
        "zeros",
        "another version",
        "shorter",
        "no ranges",
        "forbidden",
        "shifted",
        "length",
        "no range told",
    ],
)
def test_a_server_that_lies_costs_the_target_and_nothing_else(
    full: Lab,
    web: WebServer,
    images: dict[str, BuiltImage],
    misbehave: Misbehave,
    error: type[AgentError],
) -> None:
    running = full.data("a"), full.tree("a"), full.root_hash("a")
    web.misbehave = _for_blocks(misbehave)

    with pytest.raises(error) as caught:
        install.install(full.machine, web.url_of(images[NEW].path.name))

    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert len(sentence.splitlines()) == 1
    view = full.machine.view()
    assert (view.other.state, view.other.reason) == (State.EMPTY, sentence)
    assert full.root_hash("b") not in (images[NEW].root_hash, images["1.0.0"].root_hash)
    assert full.names() == ["hypernet_2.0.0.efi"]
    assert (full.data("a"), full.tree("a"), full.root_hash("a")) == running

    web.misbehave = None
    install.install(full.machine, web.url_of(images[NEW].path.name))
    assert full.machine.view().other.state is State.ARMED
    assert full.data("b").startswith(images[NEW].root)
