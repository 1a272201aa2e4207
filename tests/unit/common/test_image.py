# SPDX-License-Identifier: Apache-2.0
"""Looking at images without a machine: what `hypernet-admin info` and `verify` print."""

from __future__ import annotations

import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from common import image as images
from common import trust
from common.errors import Cancelled, InvalidArgument
from common.image import content, source, stream, verify
from common.image.errors import ChecksumMismatch, NotAnImage, Truncated
from common.manifest import ManifestInvalid
from common.trust import TrustStore
from tests.fakes import slot_images
from tests.fakes.slot_images import ESP_MIB, MIB, BuiltImage, Key, describe, vouch

GIB = 1 << 30


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return slot_images.make_key(tmp_path_factory.mktemp("gpg") / "home", "vendor")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, key: Key) -> TrustStore:
    folder = tmp_path_factory.mktemp("trusted")
    slot_images.trust(folder, key)
    return trust.load(folder)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, key: Key) -> BuiltImage:
    """An image that is signed as a whole; do not change it."""
    return slot_images.build_image(tmp_path_factory.mktemp("image"), "1.2.3", key=key)


@pytest.fixture
def image(built: BuiltImage, tmp_path: Path) -> BuiltImage:
    return slot_images.copy_image(built, tmp_path / "copy")


def flip(path: Path, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0x10]))


def test_a_look_at_an_image_with_a_manifest_tells_what_both_say(image: BuiltImage, key: Key) -> None:
    stated = vouch(image, key)
    found = images.inspect(image.path, store=None)
    assert (found.product, found.version, found.root_hash) == ("hypernet", "1.2.3", image.root_hash)
    assert (found.channel, found.arch, found.serial) == ("stable", "x86-64", 1_000_002_000_003)
    assert (found.issued_sec, found.expires_sec) == (stated.issued_sec, stated.expires_sec)
    assert found.has_manifest
    assert found.signers == ()
    assert f"roothash={image.root_hash}" in found.kernel_cmdline.split()
    assert found.partitions == (("esp", 8 * MIB), ("root", 2 * MIB), ("root-verity", MIB))
    assert found.bytes == image.path.stat().st_size


def test_a_look_at_an_image_without_a_manifest_tells_what_it_holds(image: BuiltImage) -> None:
    found = images.inspect(image.path, store=None)
    assert (found.version, found.arch, found.channel) == ("1.2.3", "x86-64", "")
    assert (found.serial, found.issued_sec, found.expires_sec, found.has_manifest) == (0, 0, 0, False)


def test_a_look_needs_neither_signature_nor_checksum(image: BuiltImage) -> None:
    vouch(image, None)
    assert images.inspect(image.path, store=None).has_manifest


@pytest.mark.parametrize("with_manifest", [False, True])
def test_a_verified_image_names_who_signed_it(
    image: BuiltImage, key: Key, store: TrustStore, with_manifest: bool
) -> None:
    if with_manifest:
        vouch(image, key)
    assert images.inspect(image.path, store=store).signers == (key.fingerprint,)


@pytest.mark.parametrize("with_manifest", [False, True])
@pytest.mark.parametrize("offset", [100, MIB + 5, 10 * MIB, 11 * MIB + 4096, 13 * MIB - 1])
def test_a_flipped_bit_anywhere_is_found(
    image: BuiltImage, key: Key, store: TrustStore, with_manifest: bool, offset: int
) -> None:
    if with_manifest:
        vouch(image, key)
    flip(image.path, offset)
    with pytest.raises(ChecksumMismatch, match="another SHA-256"):
        images.inspect(image.path, store=store)


def test_an_image_of_another_product_is_shown_as_what_it_is(key: Key, tmp_path: Path) -> None:
    alien = slot_images.build_image(tmp_path, "1.0.0", image_id="alien")
    assert images.inspect(alien.path, store=None).product == "alien"


def test_a_manifest_that_does_not_fit_is_an_error_even_without_verification(
    image: BuiltImage, key: Key
) -> None:
    vouch(image, key, version="9.9.9")
    with pytest.raises(ManifestInvalid, match="differ in the version"):
        images.inspect(image.path, store=None)


def test_a_manifest_that_is_not_signed_does_not_verify(image: BuiltImage, store: TrustStore) -> None:
    vouch(image, None)
    with pytest.raises(trust.NoSignature):
        images.inspect(image.path, store=store)


def test_a_relative_path_is_looked_up_from_here(image: BuiltImage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(image.path.parent)
    assert images.inspect(Path(image.path.name), store=None).version == "1.2.3"


def test_a_file_that_is_no_image_is_said_to_be_none(tmp_path: Path) -> None:
    path = tmp_path / "note.img"
    path.write_bytes(b"hello")
    with pytest.raises(NotAnImage):
        images.inspect(path, store=None)


def test_a_cancelled_look_ends_at_once(image: BuiltImage) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        images.inspect(image.path, store=None, cancel=cancel)


def test_a_manifest_may_not_be_a_symbolic_link(image: BuiltImage, key: Key, tmp_path: Path) -> None:
    vouch(image, key)
    path = image.beside(".manifest.json")
    shutil.move(path, tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidArgument, match="symbolic link"):
        images.inspect(image.path, store=None)


def test_an_image_without_its_suffix_finds_its_manifest_by_its_whole_name(
    image: BuiltImage, key: Key
) -> None:
    vouch(image, key)
    image.beside(".manifest.json").rename(image.path.with_name("release.manifest.json"))
    image.path.rename(image.path.with_name("release"))
    assert images.inspect(image.path.with_name("release"), store=None).has_manifest


@pytest.fixture
def huge(image: BuiltImage, tmp_path: Path) -> BuiltImage:
    """A sparse image of 7 GiB: the content of `image`, its ESP beyond 6 GiB and its root 5 GiB large."""
    path = tmp_path / "hypernet-1.2.3.img"
    raw = image.path.read_bytes()
    halves = [image.root_hash[start : start + 32] for start in (0, 32)]
    uuids = [f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}" for h in halves]
    with open(path, "wb") as file:
        file.truncate(7 * GIB)
    script = "label: gpt\nunit: sectors\nsector-size: 512\n"
    for start, size, kind, extra in (
        (MIB, 5 * GIB, "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", f", uuid={uuids[0]}"),
        (6 * GIB, MIB, "2C7357ED-EBD2-46D9-AEC1-23D437EC2BF5", f", uuid={uuids[1]}"),
        (6 * GIB + MIB, ESP_MIB * MIB, "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", ""),
    ):
        script += f"start={start // 512}, size={size // 512}, type={kind}{extra}\n"
    slot_images.run("sfdisk", "--quiet", str(path), stdin=script.encode())
    with open(path, "r+b") as file:
        for offset, data in (
            (6 * GIB, image.tree),
            (6 * GIB + MIB, raw[MIB : (1 + ESP_MIB) * MIB]),
        ):
            file.seek(offset)
            file.write(data)
    return replace(image, path=path)


def test_numbers_beyond_two_gigabytes_stay_whole(huge: BuiltImage) -> None:
    found = images.inspect(huge.path, store=None)
    assert found.version == "1.2.3"
    assert found.bytes == 7 * GIB
    assert dict(found.partitions)["root"] == 5 * GIB


def test_the_manifest_of_an_image_beyond_two_gigabytes_is_compared_in_full(
    huge: BuiltImage, image: BuiltImage
) -> None:
    stated = describe(image, image_bytes=7 * GIB)
    parts = {part.role: part for part in stated.parts}
    places = {"esp": (6 * GIB + MIB, ESP_MIB * MIB), "root": (MIB, 5 * GIB), "root-verity": (6 * GIB, MIB)}
    moved = tuple(
        replace(parts[role], offset_bytes=offset, size_bytes=size) for role, (offset, size) in places.items()
    )
    # A size that is the same in its lower 32 bits is another size.
    short = tuple(replace(p, size_bytes=GIB) if p.role == "root" else p for p in moved)
    with source.opened(str(huge.path)) as opened:
        layout = source.layout(opened)
        verify.bind_layout(replace(stated, parts=moved), "manifest", opened, layout)
        with pytest.raises(ChecksumMismatch, match="partition root"):
            verify.bind_layout(replace(stated, parts=short), "manifest", opened, layout)
        with pytest.raises(ChecksumMismatch, match="more than"):
            verify.bind_layout(replace(stated, image_bytes=3 * GIB), "manifest", opened, layout)
        with pytest.raises(Truncated):
            verify.bind_layout(replace(stated, image_bytes=11 * GIB), "manifest", opened, layout)


def test_bytes_beyond_two_gigabytes_are_read_where_they_are(huge: BuiltImage, image: BuiltImage) -> None:
    with source.opened(str(huge.path)) as opened:
        read = stream.chunks(opened.fd, 6 * GIB, MIB, name="image", cancel=threading.Event())
        assert b"".join(bytes(chunk) for chunk in read) == image.tree


def test_an_image_that_lost_its_end_beyond_two_gigabytes_is_truncated(huge: BuiltImage) -> None:
    os.truncate(huge.path, 6 * GIB)
    with pytest.raises(Truncated, match=str(7 * GIB)):
        images.inspect(huge.path, store=None)


def test_zeros_of_the_esp_take_no_room(tmp_path: Path) -> None:
    with open(tmp_path / "spool", "xb") as file:
        file.truncate(2 * MIB)
        content.write_sparse(file.fileno(), 0, memoryview(bytes(MIB)), name="x")
        assert os.fstat(file.fileno()).st_blocks == 0
        content.write_sparse(file.fileno(), MIB, memoryview(b"x" * 4096), name="x")
    assert (tmp_path / "spool").read_bytes()[MIB : MIB + 4] == b"xxxx"
