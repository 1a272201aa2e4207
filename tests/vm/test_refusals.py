# SPDX-License-Identifier: Apache-2.0
"""Images that must not run: each refused with its own error, and nothing on the machine touched."""

import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common import gpt
from hypernet_release import disk
from hypernet_release.signing import write_checksum
from tests.integration.slots import ReleaseMaker
from tests.vm.releases import GOOD, Releases
from tests.vm.server import Server

Spoil = Callable[[Releases, Path, Path], None]


def _wrong_signature(releases: Releases, image: Path, other: Path) -> None:
    releases.sign(other, "release")
    shutil.copyfile(f"{other}.asc", f"{image}.asc")


def _stranger(releases: Releases, image: Path, other: Path) -> None:
    releases.sign(image, "stranger")


def _expired(releases: Releases, image: Path, other: Path) -> None:
    releases.sign(image, "expired")


def _changed(releases: Releases, image: Path, other: Path) -> None:
    with image.open("r+b") as stream:
        stream.seek(image.stat().st_size // 2)
        stream.write(b"changed")


def _truncated(releases: Releases, image: Path, other: Path) -> None:
    with image.open("r+b") as stream:
        stream.truncate(image.stat().st_size // 2)


def _no_image(releases: Releases, image: Path, other: Path) -> None:
    image.write_bytes(b"this is a letter, not an image\n" * 100_000)
    write_checksum(image)
    releases.sign(image, "release")


def _huge(releases: Releases, image: Path, other: Path) -> None:
    root, rest = image.with_suffix(".root"), image.with_suffix(".rest")
    for path, size in ((root, 800 << 20), (rest, 1 << 20)):
        with path.open("wb") as stream:
            stream.truncate(size)
    kinds = (
        ("esp", gpt.ESP, rest),
        ("root", gpt.ROOT_X86_64, root),
        ("root-verity", gpt.ROOT_X86_64_VERITY, rest),
    )
    disk.assemble([disk.Part(label, kind, uuid.uuid4(), path) for label, kind, path in kinds], image, "huge")
    root.unlink()
    rest.unlink()
    write_checksum(image)
    releases.sign(image, "release")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ReleaseMaker:
    """Complete images with a small root file system: they are refused before anybody looks inside."""
    return ReleaseMaker(tmp_path_factory.mktemp("images"))


@pytest.fixture
def offered(server: Server, images: ReleaseMaker) -> Iterator[Callable[[Spoil], str]]:
    """Put a signed image, then spoilt, where the guest sees it; gives its path there."""
    folder = server.releases.folder
    made: list[Path] = []

    def offer(spoil: Spoil) -> str:
        release, other = images.get("9.9.9"), images.get("9.9.8")
        image = folder / f"refused-{spoil.__name__.strip('_')}.img"
        made.append(image)
        shutil.copyfile(release.image, image)
        write_checksum(image)
        server.releases.sign(image, "release")
        spoil(server.releases, image, other.image)
        return f"/mnt/{image.name}"

    yield offer
    for image in made:
        for path in folder.glob(f"{image.name}*"):
            path.unlink()


@pytest.mark.parametrize(
    ("spoil", "status"),
    [
        (_wrong_signature, 12),
        (_stranger, 13),
        (_expired, 14),
        (_changed, 15),
        (_truncated, 16),
        (_no_image, 17),
        (_huge, 18),
    ],
    ids=[
        "wrong signature",
        "key not trusted",
        "expired key",
        "checksum mismatch",
        "truncated",
        "not an image",
        "larger than the slot",
    ],
)
def test_spoilt_image_is_refused_with_its_own_error_and_nothing_is_touched(
    server: Server, offered: Callable[[Spoil], str], spoil: Spoil, status: int
) -> None:
    path = offered(spoil)
    before = (server.entries(), server.status()["slots"])

    result = server.admin("update", "--image", path, timeout_sec=300)

    assert (result.status, result.err.count("\n"), result.err[:16]) == (status, 1, "hypernet-admin: ")
    assert (server.entries(), server.status()["slots"]) == before


def test_refused_images_do_not_stand_in_the_way_of_a_good_one(server: Server) -> None:
    server.update(GOOD)

    assert server.slot("b")["state"] == "armed"
