# SPDX-License-Identifier: Apache-2.0
"""Images that must not be installed: each has its own error, and nothing at all changes on the machine."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.slot_manager import install
from agents.slot_manager.errors import (
    ChecksumMismatch,
    Downgrade,
    NoSpace,
    NotAnImage,
    SameVersion,
    SlotBooted,
    Truncated,
    WrongProduct,
)
from agents.slot_manager.topology import SlotDevices, Topology
from common import trust
from common.errors import AgentError, ConfigError, InvalidArgument
from tests.fakes import slot_images
from tests.fakes.slot_images import MIB, BuiltImage, Key, build_image, copy_image, make_key, seal
from tests.fakes.slot_lab import Lab, make_lab


def refuse(lab: Lab, path: Path | str, error: type[AgentError], match: str | None = None) -> None:
    """Install, and demand this very error and an untouched machine."""
    before = lab.condition()
    with pytest.raises(error, match=match) as caught:
        install.install(lab.machine, str(path))
    assert type(caught.value) is error
    assert len(str(caught.value).splitlines()) == 1
    assert lab.condition() == before
    assert not lab.machine.cache.exists() or list(lab.machine.cache.iterdir()) == []


@pytest.fixture(params=["empty slot", "good slot"])
def machine(request: pytest.FixtureRequest, lab: Lab, images: dict[str, BuiltImage]) -> Lab:
    """Once with an empty, once with a filled other slot: neither may lose anything."""
    if request.param == "good slot":
        install.install(lab.machine, str(images["2.0.0"].path))
        (lab.linux / "hypernet_2.0.0+3.efi").rename(lab.linux / "hypernet_2.0.0.efi")
    return lab


@pytest.fixture
def image(images: dict[str, BuiltImage], tmp_path: Path) -> BuiltImage:
    """A good image of 3.0.0 that the test may damage."""
    return copy_image(images["3.0.0"], tmp_path / "image")


def flip(path: Path, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0x10]))


def test_a_flipped_bit_in_the_image_is_a_checksum_mismatch(machine: Lab, image: BuiltImage) -> None:
    flip(image.path, 10 * MIB)
    refuse(machine, image.path, ChecksumMismatch, "another SHA-256")


def test_a_wrong_checksum_file_is_a_checksum_mismatch(machine: Lab, image: BuiltImage) -> None:
    image.beside(".img.sha256").write_text(f"{'0' * 64}  {image.path.name}\n")
    refuse(machine, image.path, ChecksumMismatch, "another SHA-256")


@pytest.mark.parametrize("text", ["", "hello\n", f"{'1' * 64}  one\n{'2' * 64}  two\n"])
def test_a_checksum_file_without_this_image_is_a_checksum_mismatch(
    lab: Lab, image: BuiltImage, text: str
) -> None:
    image.beside(".img.sha256").write_text(text)
    refuse(lab, image.path, ChecksumMismatch, "holds no SHA-256")


def test_a_missing_checksum_file_is_a_checksum_mismatch(lab: Lab, image: BuiltImage) -> None:
    image.beside(".img.sha256").unlink()
    refuse(lab, image.path, ChecksumMismatch, "There is no")


def test_a_signature_of_other_data_is_bad(
    machine: Lab, image: BuiltImage, images: dict[str, BuiltImage]
) -> None:
    image.beside(".img.asc").write_bytes(images["2.0.0"].beside(".img.asc").read_bytes())
    refuse(machine, image.path, trust.BadSignature, "does not fit")


@pytest.mark.parametrize("content", [b"", b"\n", b"-----BEGIN PGP SIGNATURE-----\n"])
def test_an_empty_signature_is_no_signature(lab: Lab, image: BuiltImage, content: bytes) -> None:
    image.beside(".img.asc").write_bytes(content)
    refuse(lab, image.path, trust.NoSignature)


def test_a_missing_signature_is_no_signature(machine: Lab, image: BuiltImage) -> None:
    image.beside(".img.asc").unlink()
    refuse(machine, image.path, trust.NoSignature, "nothing vouches")


def test_an_overlong_signature_is_not_read(lab: Lab, image: BuiltImage) -> None:
    image.beside(".img.asc").write_bytes(b"x" * (17 << 10))
    refuse(lab, image.path, InvalidArgument, "more than 16384 bytes")


def test_a_key_that_is_not_trusted_is_refused(machine: Lab, image: BuiltImage, tmp_path: Path) -> None:
    seal(image, make_key(tmp_path / "gpg", "stranger"))
    refuse(machine, image.path, trust.UntrustedKey)


def test_a_key_whose_fingerprint_is_not_listed_is_refused(
    lab: Lab, image: BuiltImage, key: Key, tmp_path: Path
) -> None:
    other = make_key(tmp_path / "gpg", "other")
    slot_images.trust(lab.machine.trusted_keys, key, other, listed=(other,))
    refuse(lab, image.path, trust.UntrustedKey, key.fingerprint)


def test_an_expired_key_is_refused(machine: Lab, image: BuiltImage, key: Key, tmp_path: Path) -> None:
    then = ("--faked-system-time", "20200101T000000")
    expired = make_key(tmp_path / "gpg", "expired", *then, expire="1d")
    slot_images.trust(machine.machine.trusted_keys, key, expired)
    seal(image, expired, *then)
    refuse(machine, image.path, trust.KeyExpired, "has expired")


def test_a_machine_without_trusted_keys_refuses_everything(lab: Lab, image: BuiltImage) -> None:
    for path in lab.machine.trusted_keys.glob("*.asc"):
        path.unlink()
    refuse(lab, image.path, trust.UntrustedKey, "No key is trusted yet")


def test_a_missing_list_of_fingerprints_refuses_everything(lab: Lab, image: BuiltImage) -> None:
    (lab.machine.trusted_keys / "fingerprints.yaml").unlink()
    refuse(lab, image.path, ConfigError)


@pytest.mark.parametrize("size", [2 * MIB, 11 * MIB, 13 * MIB - 1])
def test_a_truncated_image_is_refused(machine: Lab, image: BuiltImage, size: int) -> None:
    os.truncate(image.path, size)
    refuse(machine, image.path, Truncated, "should have")


@pytest.mark.parametrize(
    "content", [b"", b"x", b"\0" * MIB, os.urandom(MIB)], ids=["empty", "a byte", "zeros", "noise"]
)
def test_a_file_that_is_no_image_is_refused(machine: Lab, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "note.img"
    path.write_bytes(content)
    refuse(machine, path, NotAnImage)


def test_a_disk_without_the_partitions_of_an_image_is_refused(lab: Lab) -> None:
    refuse(lab, lab.topology.disk, NotAnImage, "partitions, one is needed")


def test_an_image_larger_than_the_slot_is_refused(machine: Lab, key: Key, tmp_path: Path) -> None:
    image = build_image(tmp_path / "big", "3.0.0", key=key, root_mib=5)
    refuse(machine, image.path, NoSpace, "does not fit")


def test_an_esp_without_room_for_the_kernel_image_is_refused(
    lab: Lab, image: BuiltImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(lab.machine.loader), "room_bytes", lambda self, keep: 1000)
    refuse(lab, image.path, NoSpace, "ESP has no room")


def test_the_running_version_is_refused(machine: Lab, images: dict[str, BuiltImage]) -> None:
    refuse(machine, images["1.0.0"].path, SameVersion, "running already")


def test_a_version_that_differs_in_case_only_is_refused(key: Key, tmp_path: Path) -> None:
    # On FAT both would have the same file name.
    lab = make_lab(tmp_path / "rc", build_image(tmp_path / "upper", "1.0.0~RC1", key=key), key)
    image = build_image(tmp_path / "lower", "1.0.0~rc1", key=key)
    refuse(lab, image.path, SameVersion, "running already")


def test_an_older_version_is_refused(lab: Lab, key: Key, tmp_path: Path) -> None:
    image = build_image(tmp_path / "old", "0.9.0", key=key)
    refuse(lab, image.path, Downgrade, "older than the running 1.0.0")


def test_a_prerelease_of_the_running_version_is_refused(lab: Lab, key: Key, tmp_path: Path) -> None:
    image = build_image(tmp_path / "old", "1.0.0~rc1", key=key)
    refuse(lab, image.path, Downgrade)


def test_an_image_of_another_product_is_refused(lab: Lab, key: Key, tmp_path: Path) -> None:
    image = build_image(tmp_path / "alien", "3.0.0", key=key, image_id="alien")
    refuse(lab, image.path, WrongProduct, "alien")


def test_a_version_that_cannot_be_a_file_name_is_refused(lab: Lab, key: Key, tmp_path: Path) -> None:
    image = build_image(tmp_path / "odd", "3.0.0+7", key=key, uki_names=("hypernet.efi",))
    refuse(lab, image.path, NotAnImage, "not of the form")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"uki_root_hash": "ab" * 32}, "expects another root hash"),
        ({"partition_root_hash": uuid.uuid4().hex + uuid.uuid4().hex}, "not made of its root hash"),
        ({"uki_names": ()}, "holds 0 kernel images"),
        ({"uki_names": ("a.efi", "b.efi")}, "holds 2 kernel images"),
        ({"salt": "aabb"}, "no salt"),
    ],
)
def test_an_image_whose_parts_do_not_fit_together_is_refused(
    lab: Lab, key: Key, tmp_path: Path, options: dict[str, str], match: str
) -> None:
    image = build_image(tmp_path / "odd", "3.0.0", key=key, **options)  # type: ignore[arg-type]
    refuse(lab, image.path, NotAnImage, match)


def test_a_damaged_hash_tree_in_a_signed_image_is_refused(lab: Lab, key: Key, image: BuiltImage) -> None:
    flip(image.path, (1 + slot_images.ESP_MIB + slot_images.ROOT_MIB) * MIB + 4096)
    seal(image, key)
    refuse(lab, image.path, NotAnImage, "another root hash")


def test_a_renamed_image_is_judged_by_what_is_in_it(
    lab: Lab, images: dict[str, BuiltImage], tmp_path: Path
) -> None:
    copy = copy_image(images["1.0.0"], tmp_path / "copy")
    for suffix in (".img", ".img.sha256", ".img.asc"):
        copy.beside(suffix).rename(copy.path.with_name("hypernet-9.9.9" + suffix))
    refuse(lab, copy.path.with_name("hypernet-9.9.9.img"), SameVersion)


def _link(path: Path, image: Path) -> None:
    path.symlink_to(image)


def _fifo(path: Path, image: Path) -> None:
    os.mkfifo(path)


def _folder(path: Path, image: Path) -> None:
    path.mkdir()


def _writable(path: Path, image: Path) -> None:
    path.write_bytes(image.read_bytes())
    path.chmod(0o666)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (_link, "symbolic link"),
        (_fifo, "not a regular file"),
        (_folder, "not a regular file"),
        (_writable, "group or others"),
    ],
)
def test_only_a_regular_file_of_one_owner_is_opened(
    lab: Lab, image: BuiltImage, make: Callable[[Path, Path], None], match: str
) -> None:
    path = image.path.with_name("odd.img")
    make(path, image.path)
    refuse(lab, path, InvalidArgument, match)


@pytest.mark.parametrize("path", ["", "relative.img", "/does/not/exist.img", "/nul\0.img"])
def test_a_path_that_leads_nowhere_is_refused(lab: Lab, path: str) -> None:
    refuse(lab, path, InvalidArgument)


def test_the_running_slot_is_never_written_whatever_the_topology_says(lab: Lab, image: BuiltImage) -> None:
    top = lab.topology
    slots = {"a": top.slots["a"], "b": SlotDevices("b", top.slots["a"].data, top.slots["b"].tree)}
    wrong = Topology(top.disk, slots, "a", top.esp, top.efivars)
    object.__setattr__(lab.machine, "topology", wrong)
    refuse(lab, image.path, SlotBooted)


def test_an_image_that_changes_between_verification_and_writing_is_noticed(
    lab: Lab, image: BuiltImage
) -> None:
    def progress(stage: install.Stage, done: int, total: int) -> None:
        if stage is install.Stage.WRITE and not changed:
            flip(image.path, (1 + slot_images.ESP_MIB) * MIB + 1000)
            changed.append(True)

    changed: list[bool] = []
    digest = hashlib.sha256(lab.data("a")).digest()
    with pytest.raises(ChecksumMismatch, match="was changed while"):
        install.install(lab.machine, str(image.path), progress=progress)
    assert hashlib.sha256(lab.data("a")).digest() == digest
    assert lab.names() == ["hypernet_1.0.0.efi"]
