# SPDX-License-Identifier: Apache-2.0
"""The maker of static deltas, with real file systems and images."""

from __future__ import annotations

import random
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest
import zstandard

from common import gpt
from common.errors import InvalidArgument
from common.image import staticdelta
from common.image.errors import NotAnImage
from common.image.origin import LocalOrigin
from common.image.staticdelta import StaticDelta
from common.image.verity import BLOCK_BYTES
from hypernet_release import __main__ as program
from hypernet_release import deltas, disk
from hypernet_release.errors import BuildError
from tests.fakes.slot_images import Key
from tests.fakes.static_deltas import applied
from tests.unit.release.conftest import VERSION, Built, make_image, make_tree

FORMATS = {
    "erofs": ["mkfs.erofs", "--quiet", "-T0", "-U00000000-0000-0000-0000-000000000001", "-Enoinline_data"],
    "erofs with inline data": ["mkfs.erofs", "--quiet", "-T0", "-U00000000-0000-0000-0000-000000000001"],
    "compressed erofs": ["mkfs.erofs", "--quiet", "-T0", "-zlz4hc"],
    "squashfs": ["mksquashfs"],
    "ext4": ["mkfs.ext4", "-q", "-d"],
}


def program_text(version: int, size: int = 60_000, seed: int = 0) -> bytes:
    """Bytes such as of a program: each version differs from the one before in a few places."""
    text = bytearray(random.Random(seed).randbytes(size))
    for place in range(0, version * 20):
        text[place * 7919 % size] ^= 0xFF
    return bytes(text)


def fill_tree(folder: Path, version: int) -> Path:
    """A system with a program that changes, some text that does not, and a module in a folder of its own."""
    modules = folder / f"usr/lib/modules/6.1.0-{version}-amd64/kernel"
    modules.mkdir(parents=True)
    (modules / "disk.ko").write_bytes(program_text(version, seed=1))
    (folder / "usr/bin").mkdir()
    (folder / "usr/bin/tool").write_bytes(program_text(version))
    (folder / "usr/bin/large").write_bytes(program_text(version, 6 << 20, seed=2))
    (folder / "usr/bin/other").write_bytes(random.Random(3).randbytes(300_000))
    (folder / "usr/zero").write_bytes(bytes(100_000))
    (folder / "etc").mkdir()
    for number in range(60):
        (folder / f"etc/{number}.conf").write_text(
            f"[Section]\nvalue={number}\nsystem={version * (number < 5)}\n"
        )
    return folder


def make_root(tree: Path, kind: str) -> Path:
    """A root file system of the tree beside it."""
    image = tree.with_suffix("." + kind.replace(" ", "-"))
    command = FORMATS[kind]
    if kind == "squashfs":
        command = [*command, str(tree), str(image), "-noappend", "-quiet", "-no-progress", "-all-time", "0"]
    elif kind == "ext4":
        command = [*command, str(tree), str(image), "16M"]
    else:
        command = [*command, str(image), str(tree)]
    subprocess.run(command, check=True, capture_output=True)
    with image.open("r+b") as stream:
        stream.truncate(-(-image.stat().st_size // BLOCK_BYTES) * BLOCK_BYTES)
    return image


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two versions of a system; do not change them."""
    folder = tmp_path_factory.mktemp("trees")
    return fill_tree(folder / "one", 1), fill_tree(folder / "two", 2)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_byte_of_the_new_system_comes_out(kind: str, trees: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = (make_root(tree, kind) for tree in trees)

    path = deltas.make(old, new, tmp_path)

    assert applied(path.read_bytes(), old.read_bytes()) == new.read_bytes()
    assert path.name.startswith(f"{new.name}.from-")


def test_a_changed_program_costs_what_changed_in_it(trees: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = (make_root(tree, "erofs") for tree in trees)

    path = deltas.make(old, new, tmp_path)

    # The noise of large, tool and disk.ko is 6.1 MB: each was found, the module under its new folder, too.
    assert path.stat().st_size < 12_000


def test_equal_systems_give_equal_bytes(trees: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = (make_root(tree, "erofs") for tree in trees)

    first, second = (deltas.make(old, new, tmp_path / name).read_bytes() for name in ("one", "two"))

    assert first == second


@pytest.fixture(scope="module")
def builds(built: Built, key: Key, tmp_path_factory: pytest.TempPathFactory) -> tuple[Built, Built]:
    """Two system images with hash trees; do not change them."""
    folder = tmp_path_factory.mktemp("images")
    changed = make_tree(folder / "root", key)
    (changed / "usr/bin/tool").write_text("#!/bin/sh\n# another one\n")
    return built, make_image(folder / "out", changed)


@pytest.fixture(scope="module")
def images(builds: tuple[Built, Built]) -> tuple[Path, Path]:
    return builds[0].image, builds[1].image


def test_the_delta_of_two_images_is_between_their_root_hashes(
    builds: tuple[Built, Built], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    old, new = builds

    assert program.main(["delta", str(old.image), str(new.image), f"--output={tmp_path / 'out'}"]) == 0

    path = tmp_path / f"out/hypernet-{VERSION}.from-{old.root_hash[:16]}.delta"
    assert capsys.readouterr().out == f"{path}\n"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list((tmp_path / "out").iterdir()) == [path]
    with path.open("rb") as stream:
        delta = StaticDelta(LocalOrigin(stream.fileno(), path.stat().st_size, "D"), name="D")
    tree = new.tree.read_bytes()
    assert delta.old_root_hash == old.root_hash
    assert delta.new_root_hash == new.root_hash
    assert delta.superblock == tree[:512]
    assert applied(path.read_bytes(), old.root.read_bytes()) == new.root.read_bytes()


def test_the_delta_lies_beside_the_new_image_if_nothing_else_is_said(
    images: tuple[Path, Path], tmp_path: Path
) -> None:
    new = shutil.copyfile(images[1], tmp_path / "hypernet-1.3.0.img")

    assert program.main(["delta", str(images[0]), str(new)]) == 0

    assert [path.name.partition("-")[2][:10] for path in tmp_path.glob("*.delta")] == ["1.3.0.from"]


def test_an_image_without_hash_tree_goes_by_the_hash_of_its_root_partition(
    trees: tuple[Path, Path], tmp_path: Path
) -> None:
    old, new = (make_root(tree, "ext4") for tree in trees)
    part = disk.Part("root", gpt.ROOT_X86_64, disk.esp_uuid("root"), new)
    esp = disk.Part("esp", gpt.ESP, disk.esp_uuid("esp"), old)
    disk.assemble([esp, part], tmp_path / "hypernet-2.0.0.img", "test")

    path = deltas.make(old, tmp_path / "hypernet-2.0.0.img", tmp_path)

    with path.open("rb") as stream:
        delta = StaticDelta(LocalOrigin(stream.fileno(), path.stat().st_size, "D"), name="D")
    assert delta.superblock == b""
    assert delta.new_root_hash == sha256(new.read_bytes()).hexdigest()
    assert applied(path.read_bytes(), old.read_bytes()) == new.read_bytes()


def test_a_delta_from_a_system_to_itself_is_refused(images: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="hold the same system; name two releases"):
        deltas.make(images[0], images[0], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_image_that_is_not_what_its_hash_tree_says_is_refused(
    images: tuple[Path, Path], tmp_path: Path
) -> None:
    damaged = shutil.copyfile(images[0], tmp_path / "damaged.img")
    with damaged.open("r+b") as stream:
        found = gpt.read(stream.fileno(), name="IMG", size_bytes=damaged.stat().st_size)
        stream.seek(found.by_type(gpt.ROOT_X86_64)[0].offset_bytes + 50_000)
        stream.write(b"damage")
    with pytest.raises(NotAnImage, match="does not have the content of its hash tree"):
        deltas.make(damaged, images[1], tmp_path)


def test_half_a_block_is_no_system(images: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "half").write_bytes(bytes(100_001))
    with pytest.raises(NotAnImage, match="holds no whole blocks of 4096 bytes; name an image"):
        deltas.make(tmp_path / "half", images[1], tmp_path)


def test_nothing_is_kept_when_the_delta_does_not_give_the_new_system(
    trees: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (make_root(tree, "erofs") for tree in trees)
    packed = zstandard.ZstdCompressor().compress
    monkeypatch.setattr(
        deltas, "_compress", lambda old, new, frame: packed(bytes(frame.blocks * BLOCK_BYTES))
    )

    with pytest.raises(BuildError, match=rf"^The delta .* does not give {new.name}; report this"):
        deltas.make(old, new, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_systems_with_too_little_in_common_get_no_delta(
    trees: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (make_root(tree, "erofs") for tree in trees)
    monkeypatch.setattr(staticdelta, "MAX_TABLE_BYTES", 100)

    with pytest.raises(BuildError, match=r"have too little in common for a delta; make none\.$"):
        deltas.make(old, new, tmp_path)
