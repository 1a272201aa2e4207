# SPDX-License-Identifier: Apache-2.0
"""The compressed form of an image: read back by ranges, and refused where it lies."""

from __future__ import annotations

import subprocess
import sys
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from common.image import frames, remote
from common.image.errors import ChecksumMismatch, NotAnImage, Truncated
from common.image.frames import FrameOrigin
from common.image.origin import LocalOrigin, Region, fill
from common.manifest import Transport
from tests.fakes.compressed import CONTENT_BYTES, Compressed, compress, memory_origin, sample
from tests.fakes.mutations import mutated
from tests.fakes.web_server import WebServer, start

IMAGE = sample(300_000)
GOOD = compress(IMAGE)


def opened(made: Compressed, raw: bytes = b"") -> FrameOrigin:
    """The image in `made`, or in other bytes with the same table."""
    return FrameOrigin(memory_origin(raw or made.raw), made.parsed(), "x.img.zst")


def fetched(origin: FrameOrigin, ranges: list[tuple[int, int]], step: int = 7000) -> list[bytes]:
    fetch = origin.fetcher(iter(ranges))
    found = []
    for offset, length in ranges:
        data = bytearray(length)
        for at in range(0, length, step):
            fill(fetch, memoryview(data)[at : at + step], offset + at)
        found.append(bytes(data))
    return found


def test_the_image_is_what_was_compressed() -> None:
    origin = opened(GOOD)
    assert origin.size_bytes == len(IMAGE)
    assert origin.read(0, len(IMAGE)) == IMAGE
    assert origin.read(16_383, 2) == IMAGE[16_383:16_385]
    assert origin.read(299_999, 1) == IMAGE[-1:]
    assert origin.read(300_000, 0) == b""


def test_frames_may_have_different_sizes() -> None:
    made = compress(IMAGE, [4096, 1 << 17, 8192, 300_000 - 4096 - (1 << 17) - 8192])
    ranges = [(0, 1), (4095, 2), (4096 + (1 << 17), 100_000), (290_000, 10_000)]
    assert fetched(opened(made), ranges) == [IMAGE[offset : offset + length] for offset, length in ranges]


def test_the_file_is_what_zstd_decompresses_to_the_image(tmp_path: Path) -> None:
    path = tmp_path / "x.img.zst"
    path.write_bytes(GOOD.raw)
    assert subprocess.run(["zstd", "-dc", path], capture_output=True, check=True).stdout == IMAGE


def test_each_frame_is_fetched_once_and_those_side_by_side_as_one_range() -> None:
    table = GOOD.parsed()
    wanted = [(0, 100), (200, 100), (CONTENT_BYTES, 1), (5 * CONTENT_BYTES - 1, 2)]

    assert list(table.pieces(wanted)) == [
        (0, table.compressed[2]),
        (table.compressed[4], table.compressed[6] - table.compressed[4]),
    ]


@pytest.fixture
def web() -> Iterator[WebServer]:
    server = WebServer(GOOD.raw)
    stop = start(server)
    yield server
    stop()


def test_over_the_network_only_the_frames_that_are_touched_are_fetched(web: WebServer) -> None:
    rules = remote.Rules(hosts=(web.host,), gap_bytes=100)
    with remote.opened(web.url, rules) as source:
        origin = FrameOrigin(source, GOOD.parsed(), "x.img.zst")
        part = Region(origin, CONTENT_BYTES, 10 * CONTENT_BYTES, "root")
        before = source.fetched_bytes
        wanted = [(100, 5000), (3 * CONTENT_BYTES + 1, 2 * CONTENT_BYTES)]
        fetch = part.fetcher(wanted)
        for offset, length in wanted:
            data = bytearray(length)
            fill(fetch, memoryview(data), offset)
            assert data == IMAGE[CONTENT_BYTES + offset : CONTENT_BYTES + offset + length]
        offsets = origin._table.compressed
        cost = offsets[2] - offsets[1] + offsets[7] - offsets[4]
        assert part.cost(wanted) == cost
        assert part.fetched_bytes - before == cost
        origin.finish()
    assert web.ranges()[1:] == [
        f"bytes={offsets[1]}-{offsets[2] - 1}",
        f"bytes={offsets[4]}-{offsets[7] - 1}",
    ]


def test_nothing_outside_of_the_image_is_read() -> None:
    origin = opened(GOOD)
    for act in (
        lambda: origin.read(299_999, 2),
        lambda: fetched(origin, [(300_000, 1)]),
        lambda: origin.fetcher([(0, 1)])(memoryview(bytearray(1)), 300_000),
    ):
        with pytest.raises(Truncated, match=r"x\.img\.zst has 300000 bytes"):
            act()


def with_frame(content: bytes) -> bytes:
    """The file with another first frame of the same size, padded by a skippable frame."""
    size = GOOD.parsed().compressed[1]
    room = size - len(content)
    return content + (frames.skippable(room - 8) + bytes(room - 8) if room else b"") + GOOD.raw[size:]


def zstd(content: bytes, **options: bool) -> bytes:
    return zstandard.ZstdCompressor(level=3, **options).compress(content)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "frame",
    [
        zstd(bytes(CONTENT_BYTES + 1)),
        zstd(bytes(CONTENT_BYTES - 1)),
        zstd(bytes(100 << 20)),
        zstd(bytes(CONTENT_BYTES), write_content_size=False),
        zstd(b""),
        b"no zstd frame",
        b"",
        GOOD.raw[:20],
    ],
    ids=["longer", "shorter", "a bomb", "without size", "empty", "junk", "skippable", "cut off"],
)
def test_a_frame_of_another_content_than_its_table_says_is_refused(frame: bytes) -> None:
    origin = opened(GOOD, with_frame(frame))
    with pytest.raises(ChecksumMismatch, match=r"x\.img\.zst holds at byte 0 no frame such as"):
        origin.read(0, 1)
    assert origin.read(CONTENT_BYTES, 100) == IMAGE[CONTENT_BYTES : CONTENT_BYTES + 100]


def test_a_frame_that_says_one_size_and_holds_another_is_refused() -> None:
    for held in (CONTENT_BYTES - 4096, CONTENT_BYTES + 4096):
        frame = bytearray(zstd(bytes(held)))
        assert frame[5:7] == (held - 256).to_bytes(2, "little")
        frame[5:7] = (CONTENT_BYTES - 256).to_bytes(2, "little")
        with pytest.raises(ChecksumMismatch):
            opened(GOOD, with_frame(bytes(frame))).read(0, 1)


def test_a_frame_that_wants_a_larger_window_than_any_frame_needs_is_refused() -> None:
    # magic, descriptor (8 bytes of content size, no single segment), window 2^27, size, one block of zeros
    head = b"\x28\xb5\x2f\xfd\xc0\x88" + CONTENT_BYTES.to_bytes(8, "little")
    block = ((CONTENT_BYTES << 3) | 2 | 1).to_bytes(3, "little") + b"\0"
    assert zstandard.get_frame_parameters(head).window_size == 1 << 27
    assert zstandard.ZstdDecompressor().decompress(head + block) == bytes(CONTENT_BYTES)
    with pytest.raises(ChecksumMismatch):
        opened(GOOD, with_frame(head + block)).read(0, 1)


def test_a_file_shorter_than_its_frames_is_refused() -> None:
    with pytest.raises(Truncated):
        opened(GOOD, GOOD.raw[:100])


def entry(number: int, place: int, value: int) -> bytes:
    raw = bytearray(GOOD.table)
    at = 8 + 8 * number + 4 * place
    raw[at : at + 4] = value.to_bytes(4, "little")
    return bytes(raw)


FRAMES = len(GOOD.parsed().content) - 1
SIZE = GOOD.parsed().compressed[1]
SHORTER = frames.table_bytes([], index_bytes=len(GOOD.index))


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (b"x", "too short"),
        (GOOD.table[:16], "too short"),
        (b"\x5f" + GOOD.table[1:], "is none"),
        (GOOD.table[:-1] + b"\x8e", "is none"),
        (GOOD.table[:-5] + b"\x80" + GOOD.table[-4:], "is none"),
        (GOOD.table[:8] + GOOD.table[16:], "another size than it says"),
        (GOOD.table[:4] + b"\0" + GOOD.table[5:], "another size than it says"),
        (GOOD.table[:-9] + b"\xff\xff\xff\xff" + GOOD.table[-5:], "another size than it says"),
        (SHORTER, "does not end with the block index"),
        (entry(FRAMES, 0, 54), "does not end with the block index"),
        (entry(FRAMES, 1, 4096), "does not end with the block index"),
        (entry(0, 0, 0), "frame of an impossible size"),
        (entry(0, 0, (1 << 32) - 1), "frame of an impossible size"),
        (entry(0, 1, 0), "frame of more than 4194304 bytes, or of none"),
        (entry(0, 1, (4 << 20) + 4096), "frame of more than 4194304 bytes, or of none"),
        (entry(0, 1, CONTENT_BYTES + 1), "do not begin at multiples of 4096"),
        (entry(0, 1, CONTENT_BYTES + 4096), "are not the whole image"),
        (entry(0, 0, SIZE + 1), "are not the whole image"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(raw: bytes, complaint: str) -> None:
    with pytest.raises(NotAnImage, match=complaint) as caught:
        GOOD.parsed(raw)
    assert str(caught.value).startswith("x.img.zst is damaged or was not built properly: ")


def test_a_table_for_25_gib_takes_little_memory_and_time() -> None:
    count = 25 * (1 << 30) >> 16
    raw = frames.table_bytes(((20_000, 1 << 16) for _ in range(count)), index_bytes=5)
    transport = Transport(
        "x",
        count * 20_000 + 13 + len(raw),
        replace(GOOD.transport.frames, offset_bytes=count * 20_000 + 13, size_bytes=len(raw)),
        replace(GOOD.transport.index, offset_bytes=count * 20_000 + 8, size_bytes=5),
    )
    table = frames.parse_table(raw, image_bytes=count << 16, transport=transport, name="x")

    assert isinstance(table.content, array)
    assert table.content.itemsize * len(table.content) < 4 << 20
    assert table.frame_at((25 << 30) - 1) == count - 1
    ranges = ((offset, 4096) for offset in range(0, 25 << 30, 1 << 24))
    assert sum(length for _, length in table.pieces(ranges)) == (25 << 30 >> 24) * 20_000


def test_a_large_image_is_read_with_the_memory_of_one_frame(tmp_path: Path) -> None:
    made = compress(bytes(64 << 20), [1 << 20] * 64)
    (tmp_path / "x.zst").write_bytes(made.raw)
    script = (
        "import resource, sys; from tests.unit.common.test_frames import drained; "
        "drained(sys.argv[1], 1); before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; "
        "drained(sys.argv[1], 64); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "x.zst"], capture_output=True, check=True, text=True
    )
    assert int(answer.stdout) < 8 << 10  # KiB


def drained(path: str, mebibytes: int) -> None:
    made = compress(bytes(64 << 20), [1 << 20] * 64)
    with open(path, "rb") as file:
        local = LocalOrigin(file.fileno(), len(made.raw), "x.zst")
        origin = FrameOrigin(local, made.parsed(), "x.zst")
        fetch = origin.fetcher([(0, mebibytes << 20)])
        view = memoryview(bytearray(1 << 20))
        for number in range(mebibytes):
            fill(fetch, view, number << 20)


@given(mutated(GOOD.table) | st.binary(max_size=200))
def test_any_table_is_that_of_the_image_or_refused(raw: bytes) -> None:
    try:
        table = GOOD.parsed(raw or b"\0")
    except NotAnImage:
        return
    assert table.image_bytes == len(IMAGE)
    assert table.compressed[-1] == GOOD.transport.index.offset_bytes - 8
    try:
        data = FrameOrigin(memory_origin(GOOD.raw), table, "x").read(0, len(IMAGE))
    except ChecksumMismatch:
        return
    assert len(data) == len(IMAGE)


@given(mutated(GOOD.raw[: GOOD.parsed().compressed[4]]))
def test_any_frames_give_as_many_bytes_as_there_are_or_are_refused(raw: bytes) -> None:
    raw += bytes(max(0, len(GOOD.raw) - len(raw)))
    origin = opened(GOOD, raw)
    for number in range(4):
        try:
            found = origin.read(number * CONTENT_BYTES, CONTENT_BYTES)
        except ChecksumMismatch:
            continue
        assert len(found) == CONTENT_BYTES
