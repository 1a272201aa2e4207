# SPDX-License-Identifier: Apache-2.0
"""The reader against file systems that mkfs.erofs makes, whole and damaged."""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common import erofs, process

BLOCK = 4096
FEATURES = erofs.SUPERBLOCK_OFFSET + 80
Opener = Callable[..., erofs.FileSystem]
Tree = dict[str, object]

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=60).filter(
    lambda name: name not in (".", "..")
)
SIZES = st.sampled_from([BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 17, 40_000])
CONTENTS = st.one_of(st.binary(max_size=200), SIZES.map(lambda size: (bytes(range(256)) * size)[:size]))
TREES = st.recursive(CONTENTS, lambda child: st.dictionaries(NAMES, child, max_size=5), max_leaves=12)
OPTIONS = st.sampled_from([(), ("-Enoinline_data",), ("-Eforce-inode-extended",)])
PATIENT = settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))


def make(image: Path, tree: Path, *options: str) -> Path:
    process.run(["mkfs.erofs", "--quiet", "-T0", *options, str(image), str(tree)], timeout_sec=60)
    return image


def build(path: Path, content: object) -> None:
    """Put a generated tree into a folder."""
    if isinstance(content, dict):
        path.mkdir(exist_ok=True)
        for name, child in content.items():
            build(path / name, child)
    elif isinstance(content, bytes):
        path.write_bytes(content)


def read(files: erofs.FileSystem, path: str, content: object) -> object:
    """The tree as the reader finds it, along the names of the generated one."""
    if isinstance(content, dict):
        assert files.listdir(path) == tuple(sorted(content))
        return {name: read(files, f"{path}/{name}", child) for name, child in content.items()}
    return files.read(path, 1 << 20)


@pytest.fixture
def opened() -> Iterator[Opener]:
    descriptors: list[int] = []

    def open_image(path: Path, *, offset: int = 0, size: int | None = None) -> erofs.FileSystem:
        descriptors.append(os.open(path, os.O_RDONLY))
        size = path.stat().st_size - offset if size is None else size
        return erofs.FileSystem(descriptors[-1], offset_bytes=offset, size_bytes=size, name="IMG")

    yield open_image
    for descriptor in descriptors:
        os.close(descriptor)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / "usr/lib").mkdir(parents=True)
    (folder / "usr/lib/file").write_bytes(b"content")
    (folder / "usr/lib/long").write_bytes(b"long" * BLOCK)
    (folder / "usr/lib/empty").touch()
    (folder / "lib").symlink_to("usr/lib")
    (folder / "absolute").symlink_to("/usr/lib/file")
    (folder / "climbing").symlink_to("../../usr/../usr/lib")
    (folder / "dangling").symlink_to("/nowhere")
    (folder / "circle").symlink_to("circle")
    return folder


@pytest.fixture
def image(tree: Path, tmp_path: Path) -> Path:
    return make(tmp_path / "image", tree)


@PATIENT
@given(tree=st.dictionaries(NAMES, TREES, max_size=6), options=OPTIONS)
def test_a_file_system_is_read_as_it_was_made(tree: Tree, options: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder) / "tree", tree)
        image = make(Path(folder) / "image", Path(folder) / "tree", *options)
        with image.open("rb") as stream:
            files = erofs.FileSystem(
                stream.fileno(), offset_bytes=0, size_bytes=image.stat().st_size, name="IMG"
            )
            assert read(files, "", tree) == tree


@settings(PATIENT, max_examples=400)
@given(damage=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=40))
def test_damage_anywhere_gives_the_one_error_or_nothing(
    whole_image: bytes, damage: list[tuple[float, int]]
) -> None:
    data = bytearray(whole_image)
    for place, value in damage:
        data[int(place * len(data))] = value
    with tempfile.TemporaryFile() as stream:
        stream.write(data)
        stream.flush()
        with suppress(erofs.ErofsError):
            walk(erofs.FileSystem(stream.fileno(), offset_bytes=0, size_bytes=len(data), name="IMG"))


@pytest.fixture(scope="session")
def whole_image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Mostly metadata, so that damage hits it."""
    folder = tmp_path_factory.mktemp("whole")
    content = {f"folder{n}": {f"file{m}": b"x" * (40 * m) for m in range(9)} for n in range(6)}
    build(folder / "tree", content)
    (folder / "tree/link").symlink_to("folder1/file1")
    return make(folder / "image", folder / "tree").read_bytes()


def walk(files: erofs.FileSystem) -> None:
    """Use everything there is, three folders deep."""
    folders = [""]
    for _ in range(3):
        for folder in folders[:20]:
            for name in files.listdir(folder)[:20]:
                if files.exists(f"{folder}/{name}") and not files.listdir(f"{folder}/{name}"):
                    with suppress(erofs.NoSuchFile, erofs.FileTooLong):
                        files.read(f"{folder}/{name}", 1 << 20)
        folders = [f"{folder}/{name}" for folder in folders[:5] for name in files.listdir(folder)[:20]]


@pytest.mark.parametrize(
    "path",
    ["/usr/lib/file", "/lib/file", "/absolute", "/climbing/file", "usr//./lib/../lib/file", "/../lib/file"],
)
def test_symbolic_links_are_followed_inside_the_file_system(image: Path, opened: Opener, path: str) -> None:
    assert opened(image).read(path, 100) == b"content"


@pytest.mark.parametrize("path", ["/dangling", "/circle", "/nowhere", "/lib/file/x", "/" + "x" * 5000])
def test_what_leads_nowhere_does_not_exist(image: Path, opened: Opener, path: str) -> None:
    files = opened(image)

    assert not files.exists(path)
    assert files.listdir(path) == ()
    with pytest.raises(erofs.NoSuchFile, match=r"^IMG has no file /"):
        files.read(path, 100)


def test_a_folder_is_listed_and_cannot_be_read(image: Path, opened: Opener) -> None:
    files = opened(image)

    assert files.listdir("/climbing") == ("empty", "file", "long")
    with pytest.raises(erofs.NoSuchFile):
        files.read("/usr/lib", 1 << 20)


def test_a_file_is_not_read_beyond_the_callers_limit(image: Path, opened: Opener) -> None:
    with pytest.raises(erofs.FileTooLong, match=r"^/usr/lib/long has 16384 bytes, at most 100 are allowed"):
        opened(image).read("/usr/lib/long", 100)


def test_a_folder_of_many_blocks_is_listed_whole(tmp_path: Path, opened: Opener) -> None:
    names = tuple(sorted(f"{n:03}-{'x' * 200}" for n in range(300)))
    build(tmp_path / "tree", dict.fromkeys(names, b""))

    assert opened(make(tmp_path / "image", tmp_path / "tree")).listdir("/") == names


def test_extended_attributes_are_passed_over(tree: Path, tmp_path: Path, opened: Opener) -> None:
    for name in ("user.one", "user.two"):
        os.setxattr(tree / "usr/lib/file", name, b"value" * 20)
        os.setxattr(tree / "usr", name, b"value" * 20)

    assert opened(make(tmp_path / "image", tree)).read("/usr/lib/file", 100) == b"content"


def test_a_file_system_inside_an_image_is_read_at_its_offset(
    image: Path, tmp_path: Path, opened: Opener
) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"\xff" * 1000 + image.read_bytes() + b"\xff" * BLOCK)
    files = opened(disk, offset=1000, size=image.stat().st_size + 500)

    assert files.read("/absolute", 100) == b"content"


@pytest.mark.parametrize("options", [("-zlz4",), ("--chunksize=4096",)])
def test_compressed_and_chunked_files_are_refused_with_the_remedy(
    tree: Path, tmp_path: Path, opened: Opener, options: tuple[str, ...]
) -> None:
    files = opened(make(tmp_path / "image", tree, *options))

    assert files.exists("/usr/lib/long")
    with pytest.raises(erofs.ErofsError, match=r"compressed or in chunks.* with an uncompressed erofs\.$"):
        files.read("/usr/lib/long", 1 << 20)


def test_a_file_system_that_was_cut_short_is_refused(image: Path, opened: Opener) -> None:
    size = image.stat().st_size

    with pytest.raises(
        erofs.ErofsError, match=rf"^IMG has a .*: it should have {size} bytes and has {size - 1}"
    ):
        opened(image, size=size - 1)


def test_a_partition_that_ends_before_its_superblock_is_refused(tmp_path: Path, opened: Opener) -> None:
    (tmp_path / "image").write_bytes(bytes(1030))

    with pytest.raises(erofs.ErofsError, match="it refers to byte"):
        opened(tmp_path / "image")


def test_another_file_system_is_refused(tmp_path: Path, opened: Opener) -> None:
    image = tmp_path / "image"
    process.run(["mkfs.ext4", "-q", str(image), "1M"], timeout_sec=60)

    with pytest.raises(erofs.ErofsError, match=r"^IMG holds no erofs file system\.$"):
        opened(image)


def test_a_newer_kind_of_erofs_is_refused(image: Path, opened: Opener) -> None:
    with image.open("r+b") as stream:
        stream.seek(FEATURES)
        stream.write(struct.pack("<I", 0x80))

    with pytest.raises(erofs.ErofsError, match=r"an erofs of a newer kind \(features 0x80\)\.$"):
        opened(image)
