# SPDX-License-Identifier: Apache-2.0
"""The manifest that a build writes: read by the parser of the servers, compared with the image."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from common import manifest
from hypernet_release import statement
from hypernet_release.config import Statement
from hypernet_release.errors import BuildError
from tests.unit.release.conftest import VERSION, Built

ISSUED_SEC = 1_800_000_000
DAY_SEC = 86400.0
Write = Callable[[Statement], manifest.Manifest]


@pytest.fixture
def image(built: Built, tmp_path: Path) -> Path:
    return Path(shutil.copyfile(built.image, tmp_path / built.image.name))


@pytest.fixture
def write(image: Path) -> Write:
    def write_and_read(stated: Statement) -> manifest.Manifest:
        path = statement.write_manifest(image, stated, issued_sec=ISSUED_SEC)
        return manifest.parse(path.read_bytes(), name=path.name)

    return write_and_read


def test_the_manifest_describes_the_image(write: Write, image: Path, built: Built) -> None:
    release = write(Statement())

    assert (release.product, release.arch, release.version) == ("hypernet", "x86-64", VERSION)
    assert release.root_hash == built.root_hash
    assert (release.image_name, release.image_bytes) == (image.name, image.stat().st_size)
    assert release.image_sha256 == hashlib.sha256(image.read_bytes()).hexdigest()
    assert release.uki_bytes == built.uki.stat().st_size
    assert release.uki_sha256 == hashlib.sha256(built.uki.read_bytes()).hexdigest()


@pytest.mark.parametrize(("role", "content"), [("esp", "esp"), ("root", "root"), ("root-verity", "tree")])
def test_the_manifest_has_the_place_and_hash_of_each_partition(
    write: Write, image: Path, built: Built, role: str, content: str
) -> None:
    part = write(Statement()).part(role)
    data = image.read_bytes()[part.offset_bytes :][: part.size_bytes]
    source: Path = getattr(built, content)

    assert part.sha256 == hashlib.sha256(data).hexdigest()
    assert data.rstrip(b"\0") == source.read_bytes().rstrip(b"\0")


def test_the_manifest_says_what_the_image_brings_along(write: Write) -> None:
    release = write(Statement())

    assert (release.key_epoch, release.config_schema) == (1, 1)


def test_the_manifest_says_what_the_vendor_states(write: Write) -> None:
    release = write(
        Statement(
            channel="beta",
            serial=17,
            valid_sec=10 * DAY_SEC,
            min_version="1.0.0",
            min_from_version="1.1.0",
            notes_url="https://hypernet.test/notes",
        )
    )

    assert (release.channel, release.serial) == ("beta", 17)
    assert (release.issued_sec, release.expires_sec) == (ISSUED_SEC, ISSUED_SEC + 10 * DAY_SEC)
    assert (release.min_version, release.min_from_version) == ("1.0.0", "1.1.0")
    assert release.notes_url == "https://hypernet.test/notes"


def test_the_manifest_has_the_compressed_forms_that_it_is_given(image: Path) -> None:
    extents = manifest.Extent(10, 80, "a" * 64), manifest.Extent(90, 100, "b" * 64)
    form = manifest.Transport(f"{image.name}.zst", 190, frames=extents[1], index=extents[0])
    archive = dataclasses.replace(form, name="hypernet.archive.zst")
    path = statement.write_manifest(
        image, Statement(), issued_sec=ISSUED_SEC, transport=form, archive=archive
    )
    release = manifest.parse(path.read_bytes(), name=path.name)

    assert (release.transport, release.archive) == (form, archive)


def test_the_same_statement_about_the_same_image_is_the_same_file(image: Path) -> None:
    first = statement.write_manifest(image, Statement(), issued_sec=ISSUED_SEC).read_bytes()

    assert statement.write_manifest(image, Statement(), issued_sec=ISSUED_SEC).read_bytes() == first


def test_a_manifest_that_servers_would_refuse_is_not_written(write: Write, image: Path) -> None:
    with pytest.raises(manifest.ManifestInvalid, match=r"min_version 2\.0\.0 is newer than the release"):
        write(Statement(min_version="2.0.0"))
    assert not image.with_name(f"hypernet-{VERSION}.manifest.json").exists()


@pytest.mark.parametrize("key", ["min_version", "min_from_version"])
def test_a_bound_above_the_release_is_refused_before_the_build(key: str) -> None:
    statement.check(Statement(**{key: "1.2.3"}), "1.2.3")  # type: ignore[arg-type]

    with pytest.raises(BuildError, match=rf"^{key}: 1\.2\.4 is newer than the release itself, 1\.2\.3; "):
        statement.check(Statement(**{key: "1.2.4"}), "1.2.3")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("version", "serial"),
    [
        ("0.0.1", 1),
        ("1.2.3", 1_000_002_000_003),
        ("1.2.3~rc1", 1_000_002_000_003),
        ("0.999999.999999", 10**12 - 1),
    ],
)
def test_the_serial_number_follows_from_the_version(version: str, serial: int) -> None:
    assert statement.serial_of(version) == serial


@pytest.mark.parametrize("version", ["1.0.1000000", "1.1000000.0", "9007.199255.0", "999999999.0.0"])
def test_a_version_too_large_for_a_serial_number_needs_one(version: str) -> None:
    with pytest.raises(BuildError, match=rf"^No serial number follows from the version {version}; give one"):
        statement.check(Statement(), version)
    statement.check(Statement(serial=1), version)
