# SPDX-License-Identifier: Apache-2.0
"""Other root file systems than the usual one: from squashfs with dm-verity to ext4 without, and back.

Each test goes on where the last ended; three boots in all.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from common import gpt
from hypernet_release.qemu import Machine
from tests.vm import releases as release_builder
from tests.vm.releases import SQUASHFS, WITHOUT_VERITY, Releases
from tests.vm.server import Server, install_server


@pytest.fixture(scope="module")
def layouts(vm_cache: Path) -> Releases:
    return release_builder.prepare(vm_cache, (SQUASHFS, WITHOUT_VERITY))


@pytest.fixture(scope="module")
def server(layouts: Releases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose first system is the one with squashfs."""
    folder = tmp_path_factory.mktemp("server")
    disk = install_server(layouts, folder, SQUASHFS)
    with Machine(disk, folder, share=layouts.folder) as machine:
        server = Server(machine, layouts)
        server.wait_settled()
        yield server
    disk.unlink()


def root(server: Server) -> list[str]:
    """Device, kind and first mount option of the root file system."""
    argv = ("/bin/findmnt", "--noheadings", "--output", "SOURCE,FSTYPE,OPTIONS", "/")
    return server.machine.check(*argv).split(",")[0].split()


def test_a_squashfs_over_dm_verity_boots_and_proves_good(server: Server) -> None:
    assert root(server) == ["/dev/mapper/root", "squashfs", "ro"]
    assert (server.running(), server.system_state()) == ((SQUASHFS, "good"), "running")


def test_an_update_without_dm_verity_boots_from_its_partition_and_proves_good(server: Server) -> None:
    server.update(WITHOUT_VERITY)

    server.reboot()

    device, kind, option = root(server)
    assert (device[:7], kind, option) == ("/dev/vd", "ext4", "ro")
    assert (server.running(), server.system_state()) == ((WITHOUT_VERITY, "good"), "running")
    assert server.slot("a")["state"] == "good"


def test_a_running_slot_without_dm_verity_is_known_by_the_hash_of_its_root(server: Server) -> None:
    (booted,) = (slot for slot in server.status()["slots"] if slot["booted"])
    words = server.machine.check("/bin/cat", "/proc/cmdline").split()

    assert booted["name"] == "b"
    assert f"hypernet.rootsha256={booted['root_hash']}" in words


def test_a_root_without_dm_verity_cannot_be_made_writable(server: Server) -> None:
    assert server.machine.run("/bin/mount", "-o", "remount,rw", "/").status != 0
    assert root(server)[2] == "ro"


def test_nothing_has_written_to_the_root_without_dm_verity(server: Server) -> None:
    """Neither fsck in the initrd nor the mount: its SHA-256 is still the one that the slot is named by."""
    with server.machine.disk.open("rb") as stream:
        table = gpt.read(stream.fileno(), name="disk.img")
        (root,), (tree,) = table.by_label("system_b"), table.by_label("system_b_verity")
        stream.seek(root.offset_bytes)
        content = stream.read(_root_bytes(server.releases.image(WITHOUT_VERITY)))

    assert hashlib.sha256(content).hexdigest() == root.unique_uuid.hex + tree.unique_uuid.hex


def _root_bytes(image: Path) -> int:
    with image.open("rb") as stream:
        (part,) = gpt.read(stream.fileno(), name=image.name).by_type(gpt.ROOT_X86_64)
    return part.size_bytes


def test_rollback_goes_from_a_system_without_dm_verity_to_the_one_with_it(server: Server) -> None:
    assert server.admin("rollback", "--reason", "no hash tree").status == 0

    server.reboot()

    assert root(server) == ["/dev/mapper/root", "squashfs", "ro"]
    assert (server.running(), server.system_state()) == ((SQUASHFS, "good"), "running")
    assert server.slot("b")["state"] == "bad"
