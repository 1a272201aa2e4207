# SPDX-License-Identifier: Apache-2.0
"""What is wrong around an install: the source changes, a partition is missing, a file system is full."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agents.slot_manager import install
from agents.slot_manager.errors import ChecksumMismatch, NoSpace, TopologyError, Truncated
from agents.slot_manager.install import Stage
from agents.slot_manager.record import Store
from agents.slot_manager.state import State
from common.errors import AgentError
from tests.fakes.faulty_machine import make_full
from tests.fakes.slot_images import MIB, BuiltImage, Key, copy_image, run
from tests.fakes.slot_lab import Lab

NEW = "3.0.0"


@pytest.fixture
def full(tmp_path: Path, images: dict[str, BuiltImage], key: Key) -> Lab:
    """2.0.0 runs in slot a and is good; slot b, which holds the good 1.0.0, is the target."""
    return make_full(tmp_path / "lab", images["2.0.0"], images["1.0.0"], key)


@pytest.fixture
def image(images: dict[str, BuiltImage], tmp_path: Path) -> BuiltImage:
    """A good image of 3.0.0 that the test may damage."""
    return copy_image(images[NEW], tmp_path / "image")


@contextmanager
def _file_system(folder: Path, size_bytes: int) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        run("umount", str(folder))


def _refuse(lab: Lab, path: Path, error: type[AgentError], match: str) -> None:
    """Nothing at all may change."""
    before = lab.condition()
    with pytest.raises(error, match=match) as caught:
        install.install(lab.machine, str(path))
    assert len(str(caught.value).splitlines()) == 1
    assert lab.condition() == before


def _spoil(path: Path, change: Callable[[Path], None]) -> Callable[[Stage, int, int], None]:
    """A progress function that changes the image once the first byte of it is being written."""
    done: list[Stage] = []

    def progress(stage: Stage, count: int, total: int) -> None:
        if stage is Stage.WRITE and not done:
            done.append(stage)
            change(path)

    return progress


def _flip_all(path: Path) -> None:
    """Change each block of the partitions, wherever the reader is now."""
    with open(path, "r+b") as file:
        for offset in range(9 * MIB, path.stat().st_size - MIB, 4096):
            file.seek(offset)
            byte = file.read(1)
            file.seek(offset)
            file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize(
    ("change", "errors"),
    [
        (_flip_all, (ChecksumMismatch,)),
        (lambda path: os.truncate(path, 9 * MIB), (Truncated, ChecksumMismatch)),
    ],
    ids=["changed", "truncated"],
)
def test_an_image_that_changes_while_it_is_installed_leaves_the_slot_empty(
    full: Lab,
    image: BuiltImage,
    change: Callable[[Path], None],
    errors: tuple[type[AgentError], ...],
) -> None:
    running = full.data("a"), full.tree("a"), full.root_hash("a")

    with pytest.raises(errors, match=image.path.name) as caught:
        install.install(full.machine, str(image.path), progress=_spoil(image.path, change))

    view = full.machine.view()
    assert view.other.state is State.EMPTY
    assert view.other.reason == str(caught.value)
    assert full.root_hash("b") != image.root_hash
    assert full.names() == ["hypernet_2.0.0.efi"]
    assert (full.data("a"), full.tree("a"), full.root_hash("a")) == running


def test_a_cache_without_room_stops_an_install_before_it_begins(
    full: Lab, images: dict[str, BuiltImage]
) -> None:
    with _file_system(full.machine.cache, 64 << 10):
        _refuse(full, images[NEW].path, NoSpace, "make room there")


def test_a_config_partition_without_room_stops_an_install_before_it_begins(
    full: Lab, images: dict[str, BuiltImage]
) -> None:
    saved = shutil.copytree(full.machine.store.folder, full.folder / "saved")
    with _file_system(full.folder / "full", 256 << 10) as folder:
        for path in saved.iterdir():
            shutil.copy(path, folder)
        full.machine = replace(full.machine, store=Store(folder))
        _refuse(full, images[NEW].path, NoSpace, "partition config.*make room there")


@pytest.mark.parametrize("label", ["system_b", "system_b_verity"])
def test_a_missing_partition_stops_an_install_before_it_begins(
    full: Lab, images: dict[str, BuiltImage], label: str
) -> None:
    parts = full.topology.partitions()["b"]
    number = (parts.data if label == "system_b" else parts.tree).number
    run("sfdisk", "--quiet", "--delete", str(full.topology.disk), str(number))
    before = full.snapshot()

    with pytest.raises(TopologyError, match=f"0 partitions labelled '{label}'"):
        install.install(full.machine, str(images[NEW].path))

    assert full.snapshot() == before


@pytest.mark.parametrize("part", ["data", "tree"])
def test_a_device_smaller_than_its_partition_stops_an_install_before_it_begins(
    full: Lab, images: dict[str, BuiltImage], part: str
) -> None:
    os.truncate(getattr(full.topology.slots["b"], part), 512 << 10)

    _refuse(full, images[NEW].path, NoSpace, "smaller than")
