# SPDX-License-Identifier: Apache-2.0
"""Frames that were compressed before."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import zstandard

from hypernet_release import framecache
from hypernet_release.framecache import FrameCompressor

CONTENT = b"some text " * 5000


def kept(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_frame_holds_its_content_and_says_how_much_it_is() -> None:
    frame = FrameCompressor(19).compress(CONTENT)

    assert zstandard.get_frame_parameters(frame).content_size == len(CONTENT)
    assert zstandard.ZstdDecompressor().decompress(frame) == CONTENT


def test_a_frame_is_the_same_with_and_without_a_cache(tmp_path: Path) -> None:
    cached = FrameCompressor(19, tmp_path)

    assert {cached.compress(CONTENT), cached.compress(CONTENT)} == {FrameCompressor(19).compress(CONTENT)}


def test_a_frame_is_compressed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = FrameCompressor(3, tmp_path).compress(CONTENT)
    monkeypatch.delattr(FrameCompressor, "_compress")

    assert FrameCompressor(3, tmp_path).compress(CONTENT) == first


def test_each_level_has_frames_of_its_own(tmp_path: Path) -> None:
    FrameCompressor(1, tmp_path).compress(CONTENT)

    assert FrameCompressor(19, tmp_path).compress(CONTENT) == FrameCompressor(19).compress(CONTENT)


@pytest.mark.parametrize("damaged", [b"", b"not zstd", FrameCompressor(1).compress(b"other" * 10_000)])
def test_a_damaged_frame_is_made_anew(tmp_path: Path, damaged: bytes) -> None:
    compressor = FrameCompressor(3, tmp_path)
    frame = compressor.compress(CONTENT)
    (path,) = kept(tmp_path)
    path.write_bytes(damaged)

    assert compressor.compress(CONTENT) == frame
    assert path.read_bytes() == frame


def test_what_is_used_is_kept_and_what_is_not_is_removed(tmp_path: Path) -> None:
    compressor = FrameCompressor(3, tmp_path)
    long_ago_sec = time.time() - framecache.KEPT_SEC - 60
    for content in (CONTENT, CONTENT[1:]):
        compressor.compress(content)
    for path in kept(tmp_path):
        os.utime(path, (long_ago_sec, long_ago_sec))
    frame = compressor.compress(CONTENT)
    compressor.prune()

    assert [path.read_bytes() for path in kept(tmp_path)] == [frame]
