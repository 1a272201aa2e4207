# SPDX-License-Identifier: Apache-2.0
"""What a build leaves in its output folder when it succeeds, fails and is interrupted."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from pathlib import Path

import pytest

from common import manifest, process, trust
from common.errors import AgentError
from hypernet_release import build, config, framecache, rootfs, signing
from hypernet_release.errors import BuildError, ImageUnfit
from tests.fakes.slot_images import Key
from tests.unit.release.conftest import EPOCH, Built

TOP = Path(__file__).parents[3]
NAMES = [
    "hypernet-1.2.3.archive.zst",
    "hypernet-1.2.3.img",
    "hypernet-1.2.3.img.asc",
    "hypernet-1.2.3.img.sha256",
    "hypernet-1.2.3.img.zst",
    "hypernet-1.2.3.manifest.json",
    "hypernet-1.2.3.manifest.json.asc",
]
MANIFEST = "hypernet-1.2.3.manifest.json"


@pytest.fixture
def request_(tmp_path: Path, key: Key) -> build.Request:
    """A build from an archive that does not exist."""
    folder = tmp_path / "pkg"
    (folder / "DEBIAN").mkdir(parents=True)
    (folder / "DEBIAN/control").write_text(
        "Package: hypernet-agents\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x.test>\n"
        "Depends: dbus\nDescription: x\n"
    )
    process.run(["dpkg-deb", "--build", str(folder), str(tmp_path / "agents.deb")], timeout_sec=30)
    path = tmp_path / "build-config.yaml"
    path.write_text(
        "base_os: debian-12\n"
        "hypernet_version: 1.2.3\n"
        "python_version: '3.11'\n"
        f"mirror: file:{tmp_path}/archive\n"
    )
    return build.Request(
        config=config.load(path),
        version="1.2.3",
        agents_deb=tmp_path / "agents.deb",
        image_data=TOP / "packaging/image",
        output=tmp_path / "out",
        gnupg_home=key.home,
        cache=tmp_path / "cache",
        overlays=(),
        kernel_args=(),
        epoch=EPOCH,
    )


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, built: Built) -> None:
    """The steps that take minutes are left out: they give the tiny image."""

    def make(_request: build.Request, _signer: object, work: Path) -> Path:
        return Path(shutil.copyfile(built.image, work / built.image.name))

    monkeypatch.setattr(build, "_make_image", make)


def names(request: build.Request) -> list[str]:
    return sorted(path.name for path in request.output.iterdir())


@pytest.mark.usefixtures("quick")
def test_a_build_gives_image_manifest_signatures_and_checksum(request_: build.Request) -> None:
    image = build.build(request_)

    assert image == request_.output / "hypernet-1.2.3.img"
    assert names(request_) == NAMES


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("umask", [0, 0o077])
def test_the_files_of_a_build_have_the_same_mode_whatever_the_umask_is(
    request_: build.Request, umask: int
) -> None:
    old = os.umask(umask)
    try:
        build.build(request_)
    finally:
        os.umask(old)

    assert [(request_.output / name).stat().st_mode & 0o777 for name in NAMES] == [0o644] * len(NAMES)


@pytest.mark.usefixtures("quick")
def test_a_second_build_replaces_the_first(request_: build.Request) -> None:
    build.build(request_)
    (request_.output / NAMES[1]).write_bytes(b"old")
    (request_.output / build.LOG).write_text("old")
    build.build(request_)
    said = process.run(["sha256sum", "--check", NAMES[3]], timeout_sec=30, cwd=request_.output)

    assert (said.returncode, names(request_)) == (0, NAMES)


@pytest.mark.usefixtures("quick")
def test_a_server_with_the_key_set_of_the_build_accepts_the_manifest(
    request_: build.Request, key: Key, tmp_path: Path
) -> None:
    build.build(request_)
    signing.write_trusted_keys(signing.Signer(key.home, ""), tmp_path / "keys")
    raw = (request_.output / MANIFEST).read_bytes()
    accepted = trust.verify_bytes(
        trust.load(tmp_path / "keys"),
        raw,
        (request_.output / f"{MANIFEST}.asc").read_bytes(),
        name=f"{MANIFEST}.asc",
        channel=manifest.parse(raw, name=MANIFEST).channel,
    )

    assert accepted.fingerprints == (key.fingerprint,)


@pytest.mark.usefixtures("quick")
def test_the_manifest_describes_the_compressed_form(request_: build.Request) -> None:
    build.build(request_)
    release = manifest.parse((request_.output / MANIFEST).read_bytes(), name=MANIFEST)
    compressed = request_.output / "hypernet-1.2.3.img.zst"

    assert release.transport is not None
    assert (release.transport.name, release.transport.size_bytes) == (
        compressed.name,
        compressed.stat().st_size,
    )


@pytest.mark.usefixtures("quick")
def test_a_second_build_finds_its_frames_in_the_cache(
    request_: build.Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    build.build(request_)
    monkeypatch.delattr(framecache.FrameCompressor, "_compress")

    build.build(request_)


@pytest.mark.usefixtures("quick")
def test_a_manifest_is_issued_now(request_: build.Request) -> None:
    before_sec = int(time.time())
    build.build(request_)
    release = manifest.parse((request_.output / MANIFEST).read_bytes(), name=MANIFEST)

    assert before_sec <= release.issued_sec <= time.time()


@pytest.mark.usefixtures("quick")
def test_a_manifest_is_issued_when_it_was_asked_for(request_: build.Request) -> None:
    build.build(dataclasses.replace(request_, issued_sec=1_800_000_000))
    release = manifest.parse((request_.output / MANIFEST).read_bytes(), name=MANIFEST)

    assert release.issued_sec == 1_800_000_000


@pytest.mark.usefixtures("quick")
def test_an_image_that_could_not_update_itself_again_is_not_kept(
    request_: build.Request, capsys: pytest.CaptureFixture[str]
) -> None:
    statement = dataclasses.replace(request_.config.statement, channel="beta")
    definition = dataclasses.replace(request_.config, statement=statement)

    with pytest.raises(ImageUnfit, match=r"^hypernet-1\.2\.3\.img was not kept, since") as caught:
        build.build(dataclasses.replace(request_, config=definition))
    assert caught.value.exit_status == 17
    assert "has 0 keys that can still sign a release of the channel beta" in capsys.readouterr().err
    assert names(request_) == []


def test_a_tool_that_fails_is_one_sentence_and_a_log(request_: build.Request) -> None:
    with pytest.raises(BuildError) as caught:
        build.build(request_)
    log = request_.output / "build.log"

    assert str(caught.value).startswith("mmdebstrap failed: E: ")
    assert str(caught.value).endswith(f"; {log} has all that it said.")
    assert len(str(caught.value)) < 500
    assert log.read_text().startswith("$ mmdebstrap --mode=root")


def test_a_build_that_fails_leaves_only_its_log(request_: build.Request) -> None:
    with pytest.raises(BuildError):
        build.build(request_)

    assert names(request_) == [build.LOG]
    assert request_.cache is not None
    assert list(request_.cache.iterdir()) == []


def test_a_build_that_is_interrupted_leaves_nothing(
    request_: build.Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rootfs, "bootstrap", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build.build(request_)

    assert names(request_) == []


def test_a_missing_program_is_told_before_the_build_begins(
    request_: build.Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_TOOLS", ("mkfs.nothing",))

    with pytest.raises(AgentError, match=r"^The program mkfs\.nothing is missing"):
        build.build(request_)
    assert not request_.output.exists()


def test_a_trusted_key_set_that_servers_could_not_read_is_refused(
    request_: build.Request, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "fingerprints.yaml").write_text("fingerprints:\n  - fingerprint: ABCD\n")
    definition = dataclasses.replace(request_.config, trusted_keys=keys)

    with pytest.raises(
        AgentError, match=rf"^{keys}/fingerprints\.yaml:2: fingerprints\[0\]\.fingerprint: 'ABCD' is not"
    ):
        build.build(dataclasses.replace(request_, config=definition))


def test_a_program_outside_the_repository_needs_the_package_of_the_agents(
    request_: build.Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_DEB_BUILDER", tmp_path / "nowhere")

    with pytest.raises(BuildError, match=r"needs the \.deb of hypernet-agents; name it with --agents\.$"):
        build.build(dataclasses.replace(request_, agents_deb=None))
