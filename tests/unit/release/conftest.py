# SPDX-License-Identifier: Apache-2.0
"""A tiny root tree with the real boot files, a signing key, and a whole image made of them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from common import gpt
from common.uki import root_arguments
from hypernet_release import boot, disk, signing
from tests.fakes import root_images, slot_images
from tests.fakes.slot_images import Key

EPOCH = 1_735_689_600
VERSION = "1.2.3"
EFI_FILES = Path("/usr/lib/systemd/boot/efi")


@dataclass(frozen=True)
class Built:
    """An image and what it was made of."""

    image: Path
    uki: Path
    esp: Path
    root: Path
    tree: Path
    root_hash: str


def make_tree(folder: Path, key: Key) -> Path:
    """A root tree that passes the lint, with a boot loader and one more program, and a kernel of noise."""
    folder.mkdir(parents=True)
    signing.write_trusted_keys(signing.Signer(key.home, key.fingerprint), folder.with_name("trusted"))
    root_images.fill(folder, trusted=folder.with_name("trusted"))
    shutil.copytree(EFI_FILES, folder / EFI_FILES.relative_to("/"))
    (folder / "usr/lib/os-release").write_text(f"ID=debian\nIMAGE_ID=hypernet\nIMAGE_VERSION={VERSION}\n")
    (folder / "usr/bin/tool").write_text("#!/bin/sh\n")
    (folder / "usr/bin/tool").chmod(0o755)
    (folder / "boot").mkdir()
    (folder / "boot/vmlinuz-6.1.0-1-amd64").write_bytes(b"kernel" * 5000)
    return folder


def make_image(folder: Path, tree: Path, *, filesystem: str = "erofs", verity: bool = True) -> Built:
    """All steps behind the root tree, as `hypernet-image build` takes them."""
    folder.mkdir()
    image, uki, esp = folder / f"hypernet-{VERSION}.img", folder / "uki.efi", folder / "esp.fat"
    root, hashes, initrd = folder / "root", folder / "root.verity", folder / "initrd"
    initrd.write_bytes(b"initrd" * 3000)
    disk.make_root(tree, root, EPOCH, filesystem)
    root_hash = disk.make_hash_tree(root, hashes) if verity else disk.plain_root_hash(root)
    kernel = boot.find_kernel(tree).image
    arguments = [*root_arguments(root_hash, verity=verity), "ro", root_images.KERNEL_ARGS]
    boot.make_uki(tree, kernel, initrd, " ".join(arguments), uki, EPOCH)
    boot.make_esp(tree, uki, VERSION, esp, EPOCH)
    root_uuid, tree_uuid = disk.part_uuids(root_hash)
    parts = [
        disk.Part("esp", gpt.ESP, disk.esp_uuid(root_hash), esp),
        disk.Part("root", gpt.ROOT_X86_64, root_uuid, root),
        disk.Part("root-verity", gpt.ROOT_X86_64_VERITY, tree_uuid, hashes),
    ]
    disk.assemble(parts if verity else parts[:2], image, root_hash)
    signing.write_checksum(image)
    return Built(image, uki, esp, root, hashes, root_hash)


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory, key: Key) -> Path:
    """Do not change it."""
    return make_tree(tmp_path_factory.mktemp("tree") / "root", key)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, tree: Path) -> Built:
    """Do not change its files, copy them."""
    return make_image(tmp_path_factory.mktemp("built") / "out", tree)


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    """A GnuPG home with one secret key."""
    return slot_images.make_key(tmp_path_factory.mktemp("gpg") / "home", "release")
