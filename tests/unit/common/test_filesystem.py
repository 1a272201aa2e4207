# SPDX-License-Identifier: Apache-2.0
"""The readers of all three file systems against what the image builder makes, whole and damaged."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common import erofs, ext4, filesystem, squashfs
from common.filesystem import Extent, FileSystemError, FileTooLong, NoSuchFile
from hypernet_release import disk

BLOCK = 4096
EPOCH = 1_735_689_600
READERS: dict[str, type[filesystem.FileSystem[Any]]] = {
    "erofs": erofs.FileSystem,
    "ext4": ext4.FileSystem,
    "squashfs": squashfs.FileSystem,
}
Files = filesystem.FileSystem[Any]
Opener = Callable[..., Files]
Tree = dict[str, object]

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=60).filter(
    lambda name: name not in (".", "..") and name.isprintable()
)
SIZES = st.sampled_from([BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 17, 300_000])
CONTENTS = st.one_of(
    st.binary(max_size=200),
    SIZES.map(lambda size: (bytes(range(256)) * size)[:size]),
    SIZES.map(lambda size: b"begin" + bytes(size) + b"end"),
)
TREES = st.recursive(CONTENTS, lambda child: st.dictionaries(NAMES, child, max_size=5), max_leaves=12)
PATIENT = settings(deadline=None, max_examples=15, suppress_health_check=list(HealthCheck))
each_kind = pytest.mark.parametrize("kind", list(READERS))


def build(path: Path, content: object) -> None:
    """Put a generated tree into a folder."""
    if isinstance(content, dict):
        path.mkdir(exist_ok=True)
        for name, child in content.items():
            build(path / name, child)
    elif isinstance(content, bytes):
        path.write_bytes(content)


def make(kind: str, image: Path, tree: Path) -> Path:
    disk.make_root(tree, image, EPOCH, kind)
    return image


def read(files: Files, path: str, content: object) -> object:
    """The tree as the reader finds it, along the names of the generated one."""
    if isinstance(content, dict):
        assert files.listdir(path) == tuple(sorted(content))
        return {name: read(files, f"{path}/{name}", child) for name, child in content.items()}
    return files.read(path, 1 << 20)


def walk(files: Files) -> None:
    """Use everything there is, three folders deep."""
    folders = [""]
    for _ in range(3):
        for folder in folders[:20]:
            for name in files.listdir(folder)[:20]:
                if files.exists(f"{folder}/{name}") and not files.listdir(f"{folder}/{name}"):
                    with suppress(NoSuchFile, FileTooLong):
                        files.read(f"{folder}/{name}", 1 << 20)
        folders = [f"{folder}/{name}" for folder in folders[:5] for name in files.listdir(folder)[:20]]


@pytest.fixture(params=list(READERS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def opened(kind: str) -> Iterator[Opener]:
    descriptors: list[int] = []

    def open_image(path: Path, *, offset: int = 0, size: int | None = None) -> Files:
        descriptors.append(os.open(path, os.O_RDONLY))
        size = path.stat().st_size - offset if size is None else size
        return READERS[kind](Extent(descriptors[-1], offset_bytes=offset, size_bytes=size, name="IMG"))

    yield open_image
    for descriptor in descriptors:
        os.close(descriptor)


@pytest.fixture
def image(kind: str, tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / "usr/lib").mkdir(parents=True)
    (folder / "usr/lib/file").write_bytes(b"content")
    (folder / "usr/lib/long").write_bytes(random.Random(0).randbytes(4 * BLOCK))
    (folder / "usr/lib/empty").touch()
    for name, target in {
        "lib": "usr/lib",
        "absolute": "/usr/lib/file",
        "climbing": "../../usr/../usr/lib",
        "far": "./" * 50 + "usr/lib/file",
        "dangling": "/nowhere",
        "circle": "circle",
    }.items():
        (folder / name).symlink_to(target)
    return make(kind, tmp_path / "image", folder)


@each_kind
@PATIENT
@given(tree=st.dictionaries(NAMES, TREES, max_size=6))
def test_a_file_system_is_read_as_it_was_made(kind: str, tree: Tree) -> None:
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder) / "tree", tree)
        image = make(kind, Path(folder) / "image", Path(folder) / "tree")
        with image.open("rb") as stream:
            size = image.stat().st_size
            files = READERS[kind](Extent(stream.fileno(), offset_bytes=0, size_bytes=size, name="IMG"))
            assert read(files, "", tree) == tree


@pytest.fixture(scope="session")
def whole_images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Mostly metadata, so that damage hits it."""
    folder = tmp_path_factory.mktemp("whole")
    content = {f"folder{n}": {f"file{m}": b"x" * (40 * m) for m in range(9)} for n in range(6)}
    build(folder / "tree", content)
    (folder / "tree/link").symlink_to("folder1/file1")
    return {kind: make(kind, folder / kind, folder / "tree").read_bytes().rstrip(b"\0") for kind in READERS}


@each_kind
@settings(PATIENT, max_examples=400)
@given(damage=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=40))
def test_damage_anywhere_gives_the_one_error_or_nothing(
    kind: str, whole_images: dict[str, bytes], damage: list[tuple[float, int]]
) -> None:
    data = bytearray(whole_images[kind]) + bytes(1 << 20)
    used = [place for place, byte in enumerate(whole_images[kind]) if byte]
    for place, value in damage:
        data[used[int(place * len(used))]] = value
    with tempfile.TemporaryFile() as stream:
        stream.write(data)
        stream.flush()
        with suppress(FileSystemError):
            walk(READERS[kind](Extent(stream.fileno(), offset_bytes=0, size_bytes=len(data), name="IMG")))


@pytest.mark.parametrize(
    "path",
    [
        "/usr/lib/file",
        "/lib/file",
        "/absolute",
        "/climbing/file",
        "/far",
        "usr//./lib/../lib/file",
        "/../lib/file",
    ],
)
def test_symbolic_links_are_followed_inside_the_file_system(image: Path, opened: Opener, path: str) -> None:
    assert opened(image).read(path, 100) == b"content"


@pytest.mark.parametrize("path", ["/dangling", "/circle", "/nowhere", "/lib/file/x", "/" + "x" * 5000])
def test_what_leads_nowhere_does_not_exist(image: Path, opened: Opener, path: str) -> None:
    files = opened(image)

    assert not files.exists(path)
    assert files.listdir(path) == ()
    with pytest.raises(NoSuchFile, match=r"^IMG has no file /"):
        files.read(path, 100)


def test_a_folder_is_listed_and_cannot_be_read(image: Path, opened: Opener) -> None:
    files = opened(image)

    assert files.listdir("/climbing") == ("empty", "file", "long")
    with pytest.raises(NoSuchFile):
        files.read("/usr/lib", 1 << 20)


def test_a_file_is_not_read_beyond_the_callers_limit(image: Path, opened: Opener) -> None:
    with pytest.raises(FileTooLong, match=r"^/usr/lib/long has 16384 bytes, at most 100 are allowed"):
        opened(image).read("/usr/lib/long", 100)


def test_a_folder_of_many_blocks_is_listed_whole(kind: str, tmp_path: Path, opened: Opener) -> None:
    names = tuple(sorted(f"{n:03}-{'x' * 200}" for n in range(300)))
    build(tmp_path / "tree", dict.fromkeys(names, b""))

    assert opened(make(kind, tmp_path / "image", tmp_path / "tree")).listdir("/") == names


def test_extended_attributes_are_passed_over(kind: str, tmp_path: Path, opened: Opener) -> None:
    build(tmp_path / "tree", {"folder": {"file": b"content"}})
    for name in ("user.one", "user.two"):
        os.setxattr(tmp_path / "tree/folder/file", name, b"value" * 20)
        os.setxattr(tmp_path / "tree/folder", name, b"value" * 20)

    files = opened(make(kind, tmp_path / "image", tmp_path / "tree"))
    assert files.read("/folder/file", 100) == b"content"


def test_a_file_system_inside_an_image_is_read_at_its_offset(
    image: Path, tmp_path: Path, opened: Opener
) -> None:
    disk_image = tmp_path / "disk"
    disk_image.write_bytes(b"\xff" * 1000 + image.read_bytes() + b"\xff" * BLOCK)
    files = opened(disk_image, offset=1000, size=image.stat().st_size + 500)

    assert files.read("/absolute", 100) == b"content"


def test_a_file_system_that_was_cut_short_is_refused(image: Path, opened: Opener) -> None:
    with pytest.raises(FileSystemError, match=r"^IMG has a .*: it should have \d+ bytes and has 8192"):
        opened(image, size=8192)


def test_a_partition_that_ends_before_its_superblock_is_refused(tmp_path: Path, opened: Opener) -> None:
    (tmp_path / "image").write_bytes(bytes(50))

    with pytest.raises(FileSystemError, match="it refers to byte"):
        opened(tmp_path / "image")


def test_another_file_system_is_refused(kind: str, tmp_path: Path, opened: Opener) -> None:
    (tmp_path / "image").write_bytes(bytes(BLOCK))

    with pytest.raises(FileSystemError, match=rf"^IMG holds no {kind} file system\.$"):
        opened(tmp_path / "image")


def test_a_path_that_leads_in_circles_for_ever_is_given_up_within_seconds(
    kind: str, tmp_path: Path, opened: Opener
) -> None:
    """Each link leads through the same large folder a thousand times, and on to the next link."""
    content: Tree = {f"{n:03}-{'x' * 200}": b"" for n in range(300)}
    build(tmp_path / "tree", {"d": content | {"s": {}}})
    for number in range(39):
        (tmp_path / f"tree/{number}").symlink_to("d/s/../../" * 400 + str(number + 1))
    files = opened(make(kind, tmp_path / "image", tmp_path / "tree"))
    begin = time.monotonic()

    with pytest.raises(FileSystemError, match="it leads in circles"):
        files.exists("/0")
    assert time.monotonic() - begin < 60
