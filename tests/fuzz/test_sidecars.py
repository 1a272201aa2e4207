# SPDX-License-Identifier: Apache-2.0
"""Damaged files beside an image, and things in their place that are no files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from common.image import source
from tests.fuzz.hostile import Sample, damaged, explore, survives

NAME = "hypernet-1.2.3.img"
GOOD = f"{'0123456789abcdef' * 4}  {NAME}\n".encode()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / NAME
    path.write_bytes(b"image")
    return path


def test_a_damaged_checksum_file_gives_a_checksum_or_an_error(image: Path) -> None:
    beside = [
        b"",
        GOOD * 3,
        GOOD.replace(b"  ", b" *"),
        GOOD.replace(NAME.encode(), b"../../" + NAME.encode()),
        b"\\" + GOOD.replace(b"3.img", b"3\\n.img"),
        GOOD.upper(),
        b"SHA256 (" + NAME.encode() + b") = " + b"0" * 64,
        b"\xef\xbb\xbf" + GOOD,
        GOOD * 40,
        b"\x1b[2J" + GOOD,
    ]

    def judge(case: bytes) -> None:
        image.with_name(f"{NAME}.sha256").write_bytes(case)
        found: list[str] = []
        with source.opened(str(image)) as opened:
            survives(lambda: found.append(source.expected_sha256(opened)))
        assert all(len(digest) == 64 and set(digest) <= set("0123456789abcdef") for digest in found)

    explore("sidecar", damaged([Sample(raw or GOOD) for raw in beside]), judge)


READERS: Mapping[str, Callable[[source.Image], object]] = {
    ".img": source.layout,
    ".img.sha256": source.expected_sha256,
    ".img.asc": source.signature,
    ".manifest.json": source.statement,
    ".manifest.json.asc": lambda image: source.Statement(
        _beside(image.path, ".manifest.json"), b""
    ).signature(),
}


@pytest.mark.parametrize("suffix", READERS)
@pytest.mark.parametrize("kind", ["fifo", "folder", "link", "link to a device", "endless", "open to all"])
def test_what_is_no_plain_small_file_is_refused_at_once(image: Path, suffix: str, kind: str) -> None:
    path = _beside(image, suffix)
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind.startswith("link"):
        path.symlink_to("/dev/zero" if "device" in kind else "/etc/passwd")
    elif kind == "endless":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    else:
        path.write_bytes(b"x")
        path.chmod(0o666)

    def read() -> None:
        with source.opened(str(image)) as opened:
            READERS[suffix](opened)

    assert survives(read) is not None


def _beside(image: Path, suffix: str) -> Path:
    return image.with_name(image.name.removesuffix(".img") + suffix)
