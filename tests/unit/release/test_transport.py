# SPDX-License-Identifier: Apache-2.0
"""The compressed form that a build makes, read by the code of the servers."""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
import zstandard

from common.image import frames, source
from common.image.blockindex import BlockIndex
from common.image.hashtree import HashTree
from common.image.verity import BLOCK_BYTES
from common.manifest import Transport
from hypernet_release import disk, listing, transport
from hypernet_release.errors import BuildError
from hypernet_release.framecache import FrameCompressor
from hypernet_release.listing import Run
from tests.fakes.compressed import memory_origin
from tests.fakes.slot_images import Key
from tests.unit.release.conftest import EPOCH, Built, make_image, make_tree

QUICK = FrameCompressor(1)
FRAME = transport.FRAME_BLOCKS
GROUP = transport.GROUP_BLOCKS
PLAIN = transport.PLAIN_BLOCKS


def compressed(image: Path, folder: Path) -> tuple[Path, Transport]:
    copy = Path(shutil.copyfile(image, folder / image.name))
    stated, _ = transport.write(copy, QUICK)
    return folder / stated.name, stated


def origin_of(path: Path, stated: Transport, image: Path) -> frames.FrameOrigin:
    data = path.read_bytes()
    raw = data[stated.frames.offset_bytes :]
    table = frames.parse_table(raw, image_bytes=image.stat().st_size, transport=stated, name=path.name)
    return frames.FrameOrigin(memory_origin(data), table, path.name)


def frame_starts(image: Path) -> list[int]:
    with source.opened(str(image)) as opened:
        return transport.starts(opened, source.layout(opened))


def test_zstd_decompresses_the_compressed_form_to_the_image(built: Built, tmp_path: Path) -> None:
    path, _ = compressed(built.image, tmp_path)
    said = subprocess.run(["zstd", "-d", "--stdout", str(path)], check=True, capture_output=True)

    assert path.name == f"{built.image.name}.zst"
    assert said.stdout == built.image.read_bytes()


def test_the_manifest_can_say_where_index_and_table_are(built: Built, tmp_path: Path) -> None:
    path, stated = compressed(built.image, tmp_path)
    raw = path.read_bytes()

    assert (stated.name, stated.size_bytes) == (path.name, len(raw))
    for extent in (stated.frames, stated.index):
        part = raw[extent.offset_bytes :][: extent.size_bytes]
        assert hashlib.sha256(part).hexdigest() == extent.sha256


def test_the_index_has_the_hashes_of_the_tree(built: Built, tmp_path: Path) -> None:
    path, stated = compressed(built.image, tmp_path)
    content = tmp_path / "index"
    content.write_bytes(path.read_bytes()[stated.index.offset_bytes :][: stated.index.size_bytes])
    with content.open("rb") as stream, built.tree.open("rb") as tree:
        index = BlockIndex(stream.fileno(), stated.index.size_bytes, name="index")
        hashes = list(HashTree(tree.fileno(), 0, root_hash=built.root_hash, name="tree"))

        assert index.superblock == built.tree.read_bytes()[:512]
        assert index.leaves(0, index.blocks) == b"".join(item[:8] for item in hashes)


def test_the_index_of_an_image_without_a_tree_has_the_hashes_of_its_root(tmp_path: Path, tree: Path) -> None:
    image = make_image(tmp_path / "plain", tree, verity=False)
    path, stated = compressed(image.image, tmp_path)
    raw = path.read_bytes()[stated.index.offset_bytes :][: stated.index.size_bytes]
    root = image.root.read_bytes()
    hashes = [
        hashlib.sha256(root[at : at + BLOCK_BYTES]).digest()[:8] for at in range(0, len(root), BLOCK_BYTES)
    ]

    assert raw[-len(hashes) * 8 :] == b"".join(hashes)
    assert raw[16 : 16 + 512] == bytes(512)


def test_the_same_image_gives_the_same_bytes(built: Built, tmp_path: Path) -> None:
    folders = tmp_path / "1", tmp_path / "2"
    for folder in folders:
        folder.mkdir()
    first, second = (compressed(built.image, folder)[0].read_bytes() for folder in folders)

    assert first == second


@pytest.mark.parametrize("filesystem", ["squashfs", "ext4"])
def test_other_root_file_systems_are_compressed_too(tmp_path: Path, tree: Path, filesystem: str) -> None:
    image = make_image(tmp_path / filesystem, tree, filesystem=filesystem).image
    path, stated = compressed(image, tmp_path)

    assert origin_of(path, stated, image).read(0, image.stat().st_size) == image.read_bytes()


def test_a_file_has_frames_that_hold_nothing_else(tmp_path: Path, key: Key) -> None:
    folder = make_tree(tmp_path / "tree", key)
    noise = random.Random(1)
    (folder / "usr/large").write_bytes(noise.randbytes(3 << 20))
    (folder / "usr/medium").write_bytes(noise.randbytes(200_000))
    image = make_image(tmp_path / "out", folder)
    begins = frame_starts(image.image)
    with image.image.open("rb") as stream, source.opened(str(image.image)) as opened:
        root = source.layout(opened).root
        files = listing.files(
            stream.fileno(), offset_bytes=root.offset_bytes, size_bytes=root.size_bytes, name="x"
        )
    first_block = root.offset_bytes // BLOCK_BYTES
    for name in ("/usr/large", "/usr/medium"):
        run = next(run for run in files if run.path == name)

        assert first_block + run.first in begins
        assert first_block + run.end in begins


def test_a_changed_file_costs_about_its_own_size(tmp_path: Path, key: Key) -> None:
    folder = make_tree(tmp_path / "tree", key)
    noise = random.Random(1)
    for number in range(40):
        (folder / f"usr/file{number}").write_bytes(noise.randbytes(100_000))
    image = make_image(tmp_path / "out", folder)
    path, stated = compressed(image.image, tmp_path)
    data = image.image.read_bytes()
    at = data.index((folder / "usr/file20").read_bytes())
    table = origin_of(path, stated, image.image)._table

    assert sum(length for _, length in table.pieces([(at, 4096)])) < 101_000


def test_frames_begin_at_the_partitions(built: Built) -> None:
    begins = frame_starts(built.image)
    with source.opened(str(built.image)) as opened:
        for part in source.layout(opened).by_role().values():
            assert part.offset_bytes // BLOCK_BYTES in begins


def test_no_frame_is_larger_than_a_server_reads(built: Built) -> None:
    begins = frame_starts(built.image)
    blocks = built.image.stat().st_size // BLOCK_BYTES

    assert begins[0] == 0
    assert all(0 < end - start <= FRAME for start, end in pairwise([*begins, blocks]))


def test_a_long_run_of_zeros_has_a_frame_of_its_own(tmp_path: Path, key: Key) -> None:
    folder = make_tree(tmp_path / "tree", key)
    noise = random.Random(2)
    ends = noise.randbytes(8192), noise.randbytes(8192)
    (folder / "usr/holes").write_bytes(ends[0] + bytes(40 * BLOCK_BYTES) + ends[1])
    image = make_image(tmp_path / "out", folder).image
    at = image.read_bytes().index(ends[0]) // BLOCK_BYTES
    begins = frame_starts(image)

    assert [start - at for start in begins if at <= start <= at + 42] == [0, 2, 42]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param([], [0, PLAIN, 2 * PLAIN, 3 * PLAIN], id="nothing known"),
        pytest.param([Run(1, 2, "/a/x"), Run(3, 3, "/a/y"), Run(6, 1, "/a/z")], [0, 1], id="one folder"),
        pytest.param([Run(1, 2, "/a/x"), Run(3, 3, "/b/y")], [0, 1, 3], id="two folders"),
        pytest.param([Run(1, GROUP, "/a/x"), Run(1 + GROUP, 1, "/a/y")], [0, 1, 1 + GROUP], id="full"),
        pytest.param([Run(1, 2, "/a/x"), Run(4, 2, "/a/y")], [0, 1, 3, 4], id="metadata between"),
        pytest.param([Run(1, 1, "/a/x"), Run(2, 1, "/a/b/"), Run(3, 1, "/a/y")], [0, 1, 2, 3], id="folder"),
        pytest.param([Run(0, GROUP + 1, "/a/x"), Run(GROUP + 1, 1, "/a/y")], [0, GROUP + 1], id="large"),
        pytest.param(
            [Run(0, 20, "/usr/lib/modules/6.1/a/x.ko"), Run(20, 20, "/usr/lib/modules/6.1/b/y.ko")],
            [0],
            id="modules of a kernel",
        ),
        pytest.param(
            [Run(0, 20, "/usr/lib/modules/6.1/a/x.ko"), Run(20, 20, "/usr/lib/modules/6.2/a/x.ko")],
            [0, 20],
            id="modules of two kernels",
        ),
    ],
)
def test_frames_hold_what_changes_together(files: list[Run], expected: list[int]) -> None:
    end = max((run.end for run in files), default=0)
    blocks = end or 4 * PLAIN

    assert list(transport.cuts(files, blocks)) == expected


def test_what_lies_behind_the_last_file_has_frames_of_its_own() -> None:
    assert list(transport.cuts([Run(0, 1, "/x")], 1 + PLAIN + 1)) == [0, 1, 1 + PLAIN]


def test_a_large_file_has_several_frames() -> None:
    assert list(transport.cuts([Run(0, 2 * FRAME + 1, "/x")], 2 * FRAME + 1)) == [0, FRAME, 2 * FRAME]


def test_too_many_frames_become_few(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_MAX_FRAMES", 3)
    blocks = built.image.stat().st_size // BLOCK_BYTES

    assert frame_starts(built.image) == list(range(0, blocks, FRAME))


def test_a_compressor_that_lies_is_noticed(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lie(_self: FrameCompressor, content: bytes) -> bytes:
        return zstandard.ZstdCompressor().compress(bytes(len(content)))

    monkeypatch.setattr(FrameCompressor, "_compress", lie)
    copy = Path(shutil.copyfile(built.image, tmp_path / built.image.name))

    with pytest.raises(BuildError, match=r"\.img\.zst does not decompress to the image; report this"):
        transport.write(copy, QUICK)


def test_the_root_that_disk_makes_is_listed(tmp_path: Path, tree: Path) -> None:
    disk.make_root(tree, tmp_path / "root", EPOCH)
    with (tmp_path / "root").open("rb") as stream:
        size = (tmp_path / "root").stat().st_size
        found = listing.files(stream.fileno(), offset_bytes=0, size_bytes=size, name="root")

    assert "/usr/bin/tool" in {run.path for run in found}


def test_the_archive_holds_the_image_in_larger_frames(built: Built, tmp_path: Path) -> None:
    copy = Path(shutil.copyfile(built.image, tmp_path / built.image.name))
    fine, archive = transport.write(copy, QUICK)
    path = tmp_path / archive.name
    said = subprocess.run(["zstd", "-d", "--stdout", str(path)], check=True, capture_output=True)

    assert path.name == copy.name.removesuffix(".img") + ".archive.zst"
    assert said.stdout == copy.read_bytes()
    assert archive.frames.size_bytes < fine.frames.size_bytes
    assert archive.index.sha256 == fine.index.sha256
