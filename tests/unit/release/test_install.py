# SPDX-License-Identifier: Apache-2.0
"""Installing a small image: what a disk looks like afterwards, and what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from common import gpt, process, uki
from common.errors import AgentError
from hypernet_release import install, signing, tools
from hypernet_release.errors import ToolError
from tests.unit.release.conftest import EPOCH, VERSION, Built, make_image

MIB = 1 << 20
DISK_BYTES = 256 * MIB
REAL_LAYOUT = Path(__file__).parents[3] / "packaging/image/repart.d"
ENTRY = f"hypernet_{VERSION}+3.efi"

LAYOUT = {
    "esp": "Type=esp\nLabel=esp\nFormat=vfat\nSizeMinBytes=80M\n",
    "a": "Type=root-x86-64\nLabel=system_a\nSizeMinBytes=4M\nSizeMaxBytes=4M\n",
    "a2": "Type=root-x86-64-verity\nLabel=system_a_verity\nSizeMinBytes=1M\nSizeMaxBytes=1M\n",
    "b": "Type=root-x86-64\nLabel=system_b\nSizeMinBytes=4M\nSizeMaxBytes=4M\n",
    "b2": "Type=root-x86-64-verity\nLabel=system_b_verity\nSizeMinBytes=1M\nSizeMaxBytes=1M\n",
    "config": "Type=linux-generic\nLabel=config\nFormat=ext4\nSizeMinBytes=16M\nMakeDirectories=/hypernet\n",
}


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    folder = tmp_path / "repart.d"
    folder.mkdir()
    for number, (name, text) in enumerate(LAYOUT.items()):
        (folder / f"{number}0-{name}.conf").write_text(f"[Partition]\n{text}")
    return folder


@pytest.fixture
def request_(built: Built, layout: Path, tmp_path: Path) -> install.Request:
    """To create a disk file."""
    (tmp_path / "disks").mkdir()
    return install.Request(built.image, tmp_path / "disks/disk.img", layout, DISK_BYTES, wipe=False)


@pytest.fixture
def copy(built: Built, tmp_path: Path) -> Path:
    """The image with its checksum, free to be damaged."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in (built.image.name, built.image.name + ".sha256"):
        shutil.copyfile(built.image.parent / name, folder / name)
    return folder / built.image.name


def read(path: Path) -> gpt.Table:
    with path.open("rb") as stream:
        return gpt.read(stream.fileno(), name=path.name)


def esp_files(disk: Path) -> list[str]:
    (esp,) = read(disk).by_label("esp")
    argv = ["mdir", "-i", f"{disk}@@{esp.offset_bytes}", "-/", "-b", "::/"]
    env = {"MTOOLS_SKIP_CHECK": "1"}
    return process.run(argv, timeout_sec=30, env=env).stdout.decode().splitlines()


def leftovers(request: install.Request) -> list[str]:
    return [path.name for path in request.disk.parent.iterdir()]


def refusal(request: install.Request) -> str:
    with pytest.raises(AgentError) as caught:
        install.install(request)
    return str(caught.value)


def test_slot_a_holds_root_and_hash_tree_of_the_image(request_: install.Request, built: Built) -> None:
    version = install.install(request_)
    data = request_.disk.read_bytes()

    assert version == VERSION
    for label, file in (("system_a", built.root), ("system_a_verity", built.tree)):
        (slot,) = read(request_.disk).by_label(label)
        content = file.read_bytes()
        assert data[slot.offset_bytes : slot.offset_bytes + len(content)] == content


def test_the_partitions_of_slot_a_carry_the_root_hash(request_: install.Request, built: Built) -> None:
    install.install(request_)
    table = read(request_.disk)
    (root,), (tree,) = table.by_label("system_a"), table.by_label("system_a_verity")

    assert root.unique_uuid.hex + tree.unique_uuid.hex == built.root_hash


def test_an_image_without_hash_tree_gives_both_partitions_the_hash_of_its_root(
    tree: Path, tmp_path: Path, layout: Path
) -> None:
    plain = make_image(tmp_path / "plain", tree, filesystem="squashfs", verity=False)
    disk = tmp_path / "disk.img"
    install.install(install.Request(plain.image, disk, layout, DISK_BYTES, wipe=False))
    table = read(disk)
    (slot,), (hashes,) = table.by_label("system_a"), table.by_label("system_a_verity")
    content = plain.root.read_bytes()

    assert slot.unique_uuid.hex + hashes.unique_uuid.hex == hashlib.sha256(content).hexdigest()
    assert disk.read_bytes()[slot.offset_bytes :].startswith(content)


def test_an_image_that_lost_its_hash_tree_is_refused(built: Built, tmp_path: Path, layout: Path) -> None:
    image = tmp_path / built.image.name
    shutil.copyfile(built.image, image)
    process.run(["sfdisk", "--quiet", "--delete", str(image), "3"], timeout_sec=30)
    signing.write_checksum(image)

    assert "starts another root file system than it holds" in refusal(
        install.Request(image, tmp_path / "disk.img", layout, DISK_BYTES, wipe=False)
    )


def test_the_boot_entry_is_counted_and_the_only_one(request_: install.Request) -> None:
    install.install(request_)

    entries = [name for name in esp_files(request_.disk) if name.startswith("::/EFI/Linux/")]
    assert entries == ["::/EFI/Linux/", f"::/EFI/Linux/{ENTRY}"]


def test_the_boot_entry_starts_what_is_in_slot_a(
    request_: install.Request, built: Built, tmp_path: Path
) -> None:
    install.install(request_)
    (esp,) = read(request_.disk).by_label("esp")
    source = f"{request_.disk}@@{esp.offset_bytes}"
    process.run(["mcopy", "-i", source, f"::/EFI/Linux/{ENTRY}", str(tmp_path / "uki.efi")], timeout_sec=30)

    assert uki.read(tmp_path / "uki.efi").root_hash == built.root_hash


def test_the_boot_loader_and_its_configuration_are_on_the_esp(request_: install.Request) -> None:
    install.install(request_)

    assert {"::/EFI/BOOT/BOOTX64.EFI", "::/loader/loader.conf"} <= set(esp_files(request_.disk))


def test_the_partition_table_of_the_disk_is_right(request_: install.Request) -> None:
    install.install(request_)
    said = process.run(["sfdisk", "--verify", str(request_.disk)], timeout_sec=30)

    assert b"No errors detected." in said.stdout


def test_two_disks_have_different_identities(request_: install.Request) -> None:
    install.install(request_)
    other = dataclasses.replace(request_, disk=request_.disk.with_name("other.img"))
    install.install(other)

    assert read(request_.disk).disk_uuid != read(other.disk).disk_uuid


def test_the_files_on_the_esp_have_the_time_that_was_asked_for(request_: install.Request) -> None:
    install.install(dataclasses.replace(request_, epoch=EPOCH))
    (esp,) = read(request_.disk).by_label("esp")
    argv = ["mdir", "-i", f"{request_.disk}@@{esp.offset_bytes}", "::/loader"]
    said = process.run(argv, timeout_sec=30, env={"TZ": "UTC"}).stdout.decode()

    assert [line.split()[3] for line in said.splitlines() if "loader.conf" in line] == ["2025-01-01"]


def test_the_layout_of_the_product_fits_on_a_disk_of_3_gib(request_: install.Request) -> None:
    install.install(dataclasses.replace(request_, definitions=REAL_LAYOUT, size_bytes=3 << 30))

    assert [part.label for part in read(request_.disk).partitions] == [
        "esp",
        "system_a",
        "system_a_verity",
        "system_b",
        "system_b_verity",
        "config",
        "data",
        "media",
        "logs",
        "cache",
    ]


def test_a_disk_that_exists_and_is_empty_is_taken(request_: install.Request) -> None:
    with request_.disk.open("wb") as stream:
        stream.truncate(DISK_BYTES)
    install.install(dataclasses.replace(request_, size_bytes=None))

    assert f"::/EFI/Linux/{ENTRY}" in esp_files(request_.disk)


def test_a_disk_that_holds_partitions_is_refused(request_: install.Request) -> None:
    install.install(request_)
    before = request_.disk.read_bytes()
    sentence = refusal(dataclasses.replace(request_, size_bytes=None))

    assert sentence.startswith(f"{request_.disk} is not empty (")
    assert "gpt" in sentence
    assert request_.disk.read_bytes() == before


def test_a_disk_that_holds_a_bare_file_system_is_refused(request_: install.Request) -> None:
    with request_.disk.open("wb") as stream:
        stream.truncate(DISK_BYTES)
    process.run(["mkfs.ext4", "-q", str(request_.disk)], timeout_sec=30)

    assert refusal(dataclasses.replace(request_, size_bytes=None)) == (
        f"{request_.disk} is not empty (ext4); name another disk, or --wipe to give up what is on it."
    )


@pytest.mark.parametrize("size", [None, DISK_BYTES])
def test_a_disk_is_wiped_when_asked(request_: install.Request, size: int | None) -> None:
    install.install(request_)
    (before,) = read(request_.disk).by_label("config")
    install.install(dataclasses.replace(request_, size_bytes=size, wipe=True))
    (after,) = read(request_.disk).by_label("config")

    assert before.unique_uuid != after.unique_uuid
    assert f"::/EFI/Linux/{ENTRY}" in esp_files(request_.disk)


def test_a_file_that_exists_is_not_created_again(request_: install.Request) -> None:
    request_.disk.write_bytes(b"precious")

    assert refusal(request_) == (
        f"{request_.disk} exists; give another name, or --wipe to give up what is in it."
    )
    assert request_.disk.read_bytes() == b"precious"


@pytest.fixture
def loop(request_: install.Request) -> Iterator[Path]:
    """An empty block device."""
    with request_.disk.open("wb") as stream:
        stream.truncate(DISK_BYTES)
    said = process.run(["losetup", "--find", "--show", str(request_.disk)], timeout_sec=30)
    device = said.stdout.decode().strip()
    yield Path(device)
    process.run(["losetup", "--detach", device], timeout_sec=30)


def test_a_block_device_is_installed_to(request_: install.Request, loop: Path) -> None:
    install.install(dataclasses.replace(request_, disk=loop, size_bytes=None))

    assert f"::/EFI/Linux/{ENTRY}" in esp_files(request_.disk)


def test_a_disk_that_is_mounted_is_refused_even_with_wipe(
    request_: install.Request, loop: Path, tmp_path: Path
) -> None:
    process.run(["mkfs.ext4", "-q", str(loop)], timeout_sec=30)
    (tmp_path / "mnt").mkdir()
    process.run(["mount", str(loop), str(tmp_path / "mnt")], timeout_sec=30)
    try:
        sentence = refusal(dataclasses.replace(request_, disk=loop, size_bytes=None, wipe=True))
    finally:
        process.run(["umount", str(tmp_path / "mnt")], timeout_sec=30)

    assert sentence == f"{loop} is in use: Device or resource busy; unmount what is on it."


def test_a_block_device_is_not_replaced_by_a_file(request_: install.Request, loop: Path) -> None:
    sentence = refusal(dataclasses.replace(request_, disk=loop, wipe=True))

    assert sentence.startswith(f"{loop} is no file, so it cannot be created with --size;")
    assert loop.is_block_device()


def test_a_disk_that_does_not_exist_is_refused(request_: install.Request) -> None:
    assert refusal(dataclasses.replace(request_, size_bytes=None)) == (
        f"{request_.disk} does not exist; name a disk, or --size to create a file."
    )


def test_a_disk_that_is_no_disk_is_refused(request_: install.Request) -> None:
    assert refusal(dataclasses.replace(request_, disk=Path("/dev/null"), size_bytes=None)) == (
        "/dev/null is neither a disk nor a file; name one, such as /dev/sda."
    )


def test_a_disk_that_is_too_small_is_refused_and_leaves_nothing(request_: install.Request) -> None:
    sentence = refusal(dataclasses.replace(request_, size_bytes=64 * MIB))

    assert sentence.startswith(f"{request_.disk} could not be partitioned: systemd-repart failed: ")
    assert leftovers(request_) == []


def test_a_slot_that_is_too_small_is_refused_and_leaves_nothing(
    request_: install.Request, layout: Path
) -> None:
    size = "SizeMinBytes=512K\nSizeMaxBytes=512K"
    (layout / "10-a.conf").write_text(f"[Partition]\nType=root-x86-64\nLabel=system_a\n{size}\n")

    assert refusal(request_) == (
        f"{request_.disk} is too small: the image needs 1048576 bytes in system_a, which got 524288; "
        "take a larger disk."
    )
    assert leftovers(request_) == []


def _with_checksum(request: install.Request, image: Path) -> install.Request:
    signing.write_checksum(image)
    return dataclasses.replace(request, image=image)


def test_an_image_with_a_wrong_checksum_is_refused(request_: install.Request, copy: Path) -> None:
    with copy.open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"x")

    assert refusal(dataclasses.replace(request_, image=copy)) == (
        f"{copy} does not have the checksum in {copy.name}.sha256; fetch the image again."
    )
    assert leftovers(request_) == []


def test_an_image_without_checksum_is_refused(request_: install.Request, copy: Path) -> None:
    copy.with_name(copy.name + ".sha256").unlink()

    assert refusal(dataclasses.replace(request_, image=copy)) == (
        f"Cannot read {copy}.sha256: there is no such file; it belongs beside the image."
    )


def test_an_image_that_is_not_there_is_refused(request_: install.Request, copy: Path) -> None:
    copy.unlink()

    assert refusal(dataclasses.replace(request_, image=copy)) == (
        f"{copy} cannot be read: No such file or directory; name the .img of a release."
    )


def test_a_file_that_is_no_image_is_refused(request_: install.Request, copy: Path) -> None:
    copy.write_bytes(bytes(MIB))

    assert f"{copy} holds no usable GPT partition table" in refusal(_with_checksum(request_, copy))


def test_an_image_without_a_root_partition_is_refused(request_: install.Request, copy: Path) -> None:
    process.run(["sfdisk", "--quiet", "--delete", str(copy), "2"], timeout_sec=30)

    assert refusal(_with_checksum(request_, copy)) == (
        f"{copy} is not a system image: it has 0 root partitions instead of one; "
        "name one made by hypernet-image build."
    )


def test_an_image_whose_kernel_starts_another_root_is_refused(request_: install.Request, copy: Path) -> None:
    uuid = "00000000-1111-2222-3333-444444444444"
    process.run(["sfdisk", "--quiet", "--part-uuid", str(copy), "2", uuid], timeout_sec=30)

    assert "starts another root file system than it holds" in refusal(_with_checksum(request_, copy))


def test_an_image_with_two_kernels_is_refused(request_: install.Request, copy: Path, built: Built) -> None:
    (esp,) = read(copy).by_label("esp")
    fat = f"{copy}@@{esp.offset_bytes}"
    process.run(["mcopy", "-i", fat, str(built.uki), "::/EFI/Linux/second.efi"], timeout_sec=30)

    assert "its ESP holds 2 unified kernel images instead of one" in refusal(_with_checksum(request_, copy))


def test_a_missing_program_is_told_before_anything_is_written(
    request_: install.Request, layout: Path
) -> None:
    (layout / "60-media.conf").write_text("[Partition]\nType=linux-generic\nLabel=media\nFormat=nofs\n")

    assert refusal(request_) == "The program mkfs.nofs is missing; install it."
    assert leftovers(request_) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ToolError("mren failed: it did.")])
def test_an_install_that_ends_before_the_last_step_leaves_no_file(
    request_: install.Request, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    _fail_at_rename(monkeypatch, error)

    with pytest.raises(type(error)):
        install.install(request_)
    assert leftovers(request_) == []


def test_a_disk_that_was_not_finished_has_no_boot_entry(
    request_: install.Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    with request_.disk.open("wb") as stream:
        stream.truncate(DISK_BYTES)
    _fail_at_rename(monkeypatch, KeyboardInterrupt())

    with pytest.raises(KeyboardInterrupt):
        install.install(dataclasses.replace(request_, size_bytes=None))
    assert [
        name
        for name in esp_files(request_.disk)
        if name.startswith("::/EFI/Linux/h") and name.endswith(".efi")
    ] == []


def test_a_file_that_is_wiped_is_there_until_the_new_one_is_complete(
    request_: install.Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_.disk.write_bytes(b"old")
    _fail_at_rename(monkeypatch, KeyboardInterrupt())

    with pytest.raises(KeyboardInterrupt):
        install.install(dataclasses.replace(request_, wipe=True))
    assert request_.disk.read_bytes() == b"old"


def _fail_at_rename(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    real = tools.run

    def run(argv: list[str], *, timeout_sec: float, env: dict[str, str] = {}) -> process.Completed:  # noqa: B006
        if argv[0] == "mren":
            raise error
        return real(argv, timeout_sec=timeout_sec, env=env)

    monkeypatch.setattr(tools, "run", run)
