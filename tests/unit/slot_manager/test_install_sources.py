# SPDX-License-Identifier: Apache-2.0
"""Installing from everywhere: a server, a compressed image, open files; and going on after a broken try."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agents.slot_manager import install, sources
from agents.slot_manager.errors import ImageUnfit, NoManifest
from agents.slot_manager.install import Installed, Stage
from agents.slot_manager.medium import Medium
from agents.slot_manager.state import State
from common import trust
from common.errors import AgentError, Cancelled, InvalidArgument
from common.image.errors import ChecksumMismatch, DownloadFailed
from hypernet_release import deltas
from tests.fakes import slot_images, slot_transport, web_server
from tests.fakes.slot_images import MIB, BuiltImage, Key
from tests.fakes.slot_lab import Lab, make_lab

OLD, NEW = "1.0.0", "2.0.0"
CHANGED = 64 << 10


def _build(folder: Path, version: str, key: Key) -> BuiltImage:
    """A release that shares nearly all of its blocks with the others."""
    content = {
        "usr/share/blob": random.Random("same").randbytes(MIB - CHANGED)
        + random.Random(version).randbytes(CHANGED),
        "usr/lib/os-release": f"ID=debian\nIMAGE_ID=hypernet\nIMAGE_VERSION={version}\n".encode(),
    }
    return slot_images.build_image(folder, version, key=key, root_options={"extra": content})


@pytest.fixture(scope="module")
def related(tmp_path_factory: pytest.TempPathFactory, key: Key) -> dict[str, BuiltImage]:
    """Two releases with manifests and compressed forms, and the static delta between them."""
    folder = tmp_path_factory.mktemp("related")
    images = {version: _build(folder, version, key) for version in (OLD, NEW)}
    for image in images.values():
        slot_images.vouch(
            image,
            key,
            transport=slot_transport.compress(image),
            archive=slot_transport.compress(image, ".archive.zst", 4 * MIB, level=19),
        )
    deltas.make(images[OLD].path, images[NEW].path, folder)
    return images


@dataclass
class Place:
    """A machine that runs OLD, and a server with NEW whose files are free to be changed."""

    lab: Lab
    image: BuiltImage
    web: web_server.WebServer

    @property
    def folder(self) -> Path:
        return self.image.path.parent

    @property
    def packed(self) -> Path:
        return self.folder / f"hypernet-{NEW}.img.zst"

    @property
    def delta(self) -> Path:
        return next(self.folder.glob("*.delta"))

    def without(self, *paths: Path) -> None:
        for path in paths:
            path.unlink()

    def url(self, suffix: str = ".img") -> str:
        return self.web.url_of(f"hypernet-{NEW}{suffix}")

    def install(self, suffix: str = ".img", **options: object) -> Installed:
        return install.install(self.lab.machine, self.url(suffix), **options)  # type: ignore[arg-type]

    def assert_whole(self, installed: Installed) -> None:
        view = self.lab.machine.view()
        assert (view.other.state, view.other.version) == (State.ARMED, NEW)
        assert self.lab.root_hash("b") == self.image.root_hash
        assert self.lab.data("b").startswith(self.image.root)
        assert self.lab.tree("b").startswith(self.image.tree)
        assert view.record.begun is None
        assert list(self.lab.machine.cache.iterdir()) == []
        found = installed.statistics
        assert found is not None
        assert found.total == len(self.image.root)
        assert found.copied + found.skipped + found.zero + found.fetched == found.total


@pytest.fixture
def place(related: dict[str, BuiltImage], tmp_path: Path, key: Key) -> Iterator[Place]:
    lab = make_lab(tmp_path / "lab", related[OLD], key)
    image = slot_images.copy_image(related[NEW], tmp_path / "server")
    for path in (*related[NEW].path.parent.glob("*.delta"), related[NEW].path.with_suffix(".img.zst")):
        (image.path.parent / path.name).write_bytes(path.read_bytes())
    web = web_server.WebServer(folder=image.path.parent)
    stop = web_server.start(web)
    lab.configure(f"hosts: ['{web.host}']\n")
    yield Place(lab, image, web)
    stop()


@pytest.mark.parametrize("suffix", [".img", ".img.zst"])
def test_of_the_compressed_form_only_what_the_running_slot_lacks_is_fetched(
    place: Place, suffix: str
) -> None:
    place.without(place.delta)
    installed = place.install(suffix)
    place.assert_whole(installed)
    assert installed.statistics is not None
    assert installed.statistics.copied > MIB // 2
    assert installed.fetched_bytes < place.packed.stat().st_size // 2


def test_a_server_without_the_compressed_form_is_asked_for_the_blocks_themselves(place: Place) -> None:
    place.without(place.delta, place.packed)
    installed = place.install()
    place.assert_whole(installed)
    assert installed.statistics is not None
    assert CHANGED <= installed.statistics.fetched < MIB // 2


def test_a_server_that_has_only_the_compressed_form_is_enough(place: Place) -> None:
    place.without(place.delta, place.image.path)
    place.assert_whole(place.install(".img.zst"))


def test_a_server_that_has_only_the_archive_is_enough(place: Place, related: dict[str, BuiltImage]) -> None:
    place.without(place.delta, place.image.path, place.packed)
    archive = related[NEW].beside(".archive.zst")
    (place.folder / archive.name).write_bytes(archive.read_bytes())
    place.assert_whole(place.install(".img.zst"))


def test_a_static_delta_from_the_running_system_is_taken(place: Place) -> None:
    installed = place.install()
    place.assert_whole(installed)
    assert any(place.delta.name in path for path, _ in place.web.requests)
    assert installed.statistics is not None
    assert installed.statistics.fetched < MIB // 2


def test_a_static_delta_that_leads_elsewhere_is_mended(place: Place) -> None:
    raw = bytearray(place.delta.read_bytes())
    raw[-1000] ^= 1
    place.delta.write_bytes(raw)
    place.assert_whole(place.install())


def test_a_running_slot_that_is_not_what_its_tree_says_costs_a_fetch_and_nothing_else(place: Place) -> None:
    with open(place.lab.topology.slots["a"].data, "r+b") as device:
        device.seek(MIB)
        device.write(bytes(64 << 10))
    place.assert_whole(place.install())


def test_a_compressed_image_is_installed_from_a_file(place: Place) -> None:
    installed = install.install(place.lab.machine, str(place.packed))
    place.assert_whole(installed)
    assert installed.fetched_bytes == installed.statistics.fetched if installed.statistics else False


def test_an_image_is_installed_from_open_files(place: Place) -> None:
    manifest = place.image.beside(".manifest.json")
    descriptors = [
        os.open(path, os.O_RDONLY)
        for path in (place.image.path, manifest, manifest.with_name(f"{manifest.name}.asc"))
    ]
    opened = sources.adopt(*descriptors)
    for fd in descriptors:
        os.close(fd)
    try:
        place.assert_whole(install.install(place.lab.machine, opened))
    finally:
        opened.close()


@pytest.mark.parametrize("mode", [0o666, 0o620])
def test_open_files_that_others_can_write_are_refused(place: Place, mode: int) -> None:
    place.image.path.chmod(mode)
    manifest = place.image.beside(".manifest.json")
    with (
        open(place.image.path) as image,
        open(manifest) as raw,
        pytest.raises(InvalidArgument, match="chmod"),
    ):
        sources.adopt(image.fileno(), raw.fileno(), raw.fileno())


def test_installing_the_same_system_again_writes_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    install.install(place.lab.machine, str(place.image.path))
    written: list[int] = []
    monkeypatch.setattr(Medium, "write", lambda medium, view, offset: written.append(offset))
    installed = install.install(place.lab.machine, str(place.image.path))
    place.assert_whole(installed)
    assert installed.statistics is not None
    assert installed.statistics.skipped + installed.statistics.zero == installed.statistics.total
    assert written == []


@pytest.mark.parametrize("kind", ["file", "server"])
def test_a_cancelled_install_goes_on_where_it_was(place: Place, kind: str) -> None:
    place.without(place.delta)
    source = str(place.image.path) if kind == "file" else place.url()
    cancel = threading.Event()

    def progress(stage: Stage, done: int, total: int) -> None:
        if stage is Stage.WRITE and done >= total - MIB:
            cancel.set()

    with pytest.raises(Cancelled):
        install.install(place.lab.machine, source, cancel=cancel, progress=progress)
    view = place.lab.machine.view()
    assert view.other.state is State.EMPTY
    assert view.record.begun is not None
    assert view.record.begun.root_hash == place.image.root_hash

    installed = install.install(place.lab.machine, source)
    place.assert_whole(installed)
    assert installed.statistics is not None
    assert installed.statistics.skipped > 0


def test_another_install_forgets_the_broken_one(place: Place, images: dict[str, BuiltImage]) -> None:
    cancel = threading.Event()

    def progress(stage: Stage, done: int, total: int) -> None:
        if stage is Stage.WRITE:
            cancel.set()

    with pytest.raises(Cancelled):
        place.install(cancel=cancel, progress=progress)
    install.install(place.lab.machine, str(images["3.0.0"].path))
    assert place.lab.machine.store.load().begun is None
    assert place.lab.data("b").startswith(images["3.0.0"].root)


def _refused(place: Place, error: type[AgentError], match: str, source: str = "") -> None:
    before = place.lab.condition()
    with pytest.raises(error, match=match) as caught:
        install.install(place.lab.machine, source or place.url())
    assert len(str(caught.value).splitlines()) == 1
    assert place.lab.condition() == before
    assert list(place.lab.machine.cache.glob("*")) == []


def test_a_release_without_a_manifest_is_not_installed_from_a_server(place: Place) -> None:
    place.without(place.image.beside(".manifest.json"))
    _refused(place, NoManifest, "publish the manifest")


def test_a_manifest_without_a_signature_is_not_installed_from_a_server(place: Place) -> None:
    place.without(place.image.beside(".manifest.json.asc"))
    _refused(place, trust.NoSignature, "nothing vouches for it")


def test_a_server_with_neither_form_of_the_image_is_told(place: Place) -> None:
    place.without(place.image.path, place.packed)
    _refused(place, DownloadFailed, "publish one of them")


def test_a_compressed_image_that_is_not_the_signed_one_is_refused(place: Place) -> None:
    place.packed.write_bytes(place.packed.read_bytes() + b"x")
    _refused(place, ChecksumMismatch, "its manifest says")


@pytest.mark.parametrize("text", ["", "hosts: []\n", "hosts: [updates.invalid]\n"])
def test_a_host_that_is_not_listed_is_not_asked(place: Place, text: str) -> None:
    place.lab.configure(text)
    _refused(place, InvalidArgument, r"'hosts' in /config/hypernet/updates\.yaml")
    assert place.web.requests == []


@pytest.mark.parametrize("address", ["", "?x=1", "hypernet.iso", "hypernet-2.0.0.img#x"])
def test_an_address_that_is_not_that_of_an_image_is_refused(place: Place, address: str) -> None:
    _refused(place, InvalidArgument, "end in", f"http://{place.web.host}/{address}")


def test_an_image_from_a_server_that_is_unfit_never_becomes_bootable(
    related: dict[str, BuiltImage], place: Place, key: Key, tmp_path: Path
) -> None:
    unfit = slot_images.build_image(tmp_path / "unfit", NEW, key=key, root_options={"extra": {}})
    slot_images.vouch(unfit, key, key_epoch=2)
    place.web.folder = unfit.path.parent

    with pytest.raises(ImageUnfit):
        place.install()

    view = place.lab.machine.view()
    assert (view.other.state, view.booted.default) == (State.EMPTY, True)
    assert place.lab.root_hash("b") != unfit.root_hash
    assert view.record.refused[-1].rule.startswith("lint-")


@pytest.mark.parametrize("kind", ["file", "triple", "server", "compressed"])
def test_an_image_without_a_hash_tree_is_named_by_the_hash_of_its_root(
    place: Place, key: Key, tmp_path: Path, kind: str
) -> None:
    plain = slot_images.build_image(tmp_path / "plain", NEW, key=key, verity=False)
    if kind != "triple":
        slot_images.vouch(plain, key)
    if kind == "compressed":
        slot_images.vouch(plain, key, transport=slot_transport.compress(plain))
        plain.path.unlink()
    place.web.folder = plain.path.parent
    is_local = kind in ("file", "triple")

    installed = install.install(place.lab.machine, str(plain.path) if is_local else place.url())

    assert installed.state is State.ARMED
    assert place.lab.root_hash("b") == plain.root_hash
    assert place.lab.data("b").startswith(plain.root)
