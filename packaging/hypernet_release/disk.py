# SPDX-License-Identifier: Apache-2.0
"""The image file itself: root file system, dm-verity hash tree, and the GPT around the partitions.

Root and tree partition get the PARTUUIDs that follow from the root hash, its first and last 128 bits
(Discoverable Partitions Specification), so that systemd-veritysetup-generator(8) finds them. For an image
without a tree the SHA-256 of its root partition takes the place of the root hash.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hypernet_release import ext4, tools
from hypernet_release.cache import file_digest
from hypernet_release.errors import BuildError

_NAMESPACE = uuid.UUID("6d4a0a34-9a0e-4c52-8c57-b21f0c1bd1cd")  # of the UUIDs that we derive
_ALIGN = 1 << 20
_CHUNK = 4 << 20
_SECTOR = 512
FILESYSTEMS = {
    "erofs": ("mkfs.erofs",),
    "squashfs": ("mksquashfs",),
    "ext4": ("debugfs", "mke2fs", "tune2fs"),
}
"""The kinds of root file systems, and the programs that make each."""


@dataclass(frozen=True, slots=True)
class Part:
    """One partition to put into an image: label, GPT type and unique UUID, and the file with its bytes."""

    label: str
    type_uuid: uuid.UUID
    part_uuid: uuid.UUID
    content: Path


def make_root(tree: Path, target: Path, epoch: int, filesystem: str = "erofs") -> None:
    """Make the root file system, one of FILESYSTEMS; all times in it are `epoch` (seconds since 1970).

    erofs is uncompressed and without inline data, so that equal files are equal blocks in every release;
    squashfs is the smallest.
    """
    fs_uuid = str(uuid.uuid5(_NAMESPACE, "root-file-system"))
    if filesystem == "ext4":
        ext4.make(tree, target, epoch, fs_uuid)
    elif filesystem == "squashfs":
        times = ["-all-time", str(epoch), "-mkfs-time", str(epoch)]
        argv = ["mksquashfs", str(tree), str(target), "-comp", "zstd", "-Xcompression-level", "9", *times]
        tools.run([*argv, "-noappend", "-quiet", "-no-progress"], timeout_sec=1800)
    else:
        argv = ["mkfs.erofs", "-T", str(epoch), "-U", fs_uuid, "-E", "noinline_data"]
        tools.run([*argv, str(target), str(tree)], timeout_sec=600)


def make_hash_tree(root: Path, target: Path) -> str:
    """Build the unsalted SHA-256 hash tree of a root image with veritysetup(8).

    Returns the root hash, 64 hexadecimal digits.
    """
    tree_uuid = uuid.uuid5(_NAMESPACE, "hash-tree")
    argv = ["veritysetup", "format", "--salt=-", f"--uuid={tree_uuid}", "--hash=sha256"]
    completed = tools.run([*argv, str(root), str(target)], timeout_sec=600)
    for line in completed.stdout.decode().splitlines():
        name, _, value = line.partition(":")
        if name == "Root hash":
            return value.strip()
    raise BuildError("veritysetup printed no root hash; use the version that Debian 12 has.")


def plain_root_hash(root: Path) -> str:
    """What stands for the root hash of a root image without a hash tree: the SHA-256 of its partition.

    The file gets the size of the partition, filled up with zeros.
    """
    with root.open("r+b") as stream:
        stream.truncate(_aligned(root))
    return file_digest(root)


def part_uuids(root_hash: str) -> tuple[uuid.UUID, uuid.UUID]:
    """PARTUUIDs of root and tree partition for a root hash (64 hexadecimal digits)."""
    return uuid.UUID(root_hash[:32]), uuid.UUID(root_hash[32:])


def esp_uuid(identity: str) -> uuid.UUID:
    """The ESP's PARTUUID, derived from the same text as the disk's."""
    return uuid.uuid5(_NAMESPACE, f"esp {identity}")


def assemble(parts: Sequence[Part], target: Path, identity: str) -> None:
    """Write the GPT disk image: partitions one after another, aligned to 1 MiB, holes left sparse.

    identity: text that the disk's UUID is derived from (equal inputs, equal bytes).
    """
    sizes = [_aligned(part.content) for part in parts]
    with target.open("wb") as stream:
        stream.truncate(_ALIGN + sum(sizes) + _ALIGN)
    script = ["label: gpt", f"label-id: {uuid.uuid5(_NAMESPACE, identity)}", "unit: sectors"]
    script.append(f"sector-size: {_SECTOR}")
    start = _ALIGN
    offsets = []
    for part, size in zip(parts, sizes, strict=True):
        offsets.append(start)
        place = f"start={start // _SECTOR}, size={size // _SECTOR}"
        script.append(f'{place}, type={part.type_uuid}, uuid={part.part_uuid}, name="{part.label}"')
        start += size
    argv = ["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", str(target)]
    tools.run(argv, timeout_sec=60, stdin="\n".join([*script, ""]).encode())
    with target.open("r+b") as stream:
        for part, offset in zip(parts, offsets, strict=True):
            _copy_sparse(part.content, stream.fileno(), offset)
        os.fsync(stream.fileno())


def _aligned(content: Path) -> int:
    return -(-content.stat().st_size // _ALIGN) * _ALIGN


def _copy_sparse(source: Path, target_fd: int, offset: int) -> None:
    with source.open("rb", buffering=0) as stream:
        while chunk := stream.read(_CHUNK):
            if chunk.count(0) != len(chunk):
                write_all(target_fd, chunk, offset)
            offset += len(chunk)


def write_all(target_fd: int, data: bytes, offset: int) -> None:
    """pwrite(2) until every byte is written; offset in bytes."""
    view = memoryview(data)
    while view:
        written = os.pwrite(target_fd, view, offset)
        view = view[written:]
        offset += written
