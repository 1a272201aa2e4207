# SPDX-License-Identifier: Apache-2.0
"""Disks and file systems that fail amid an install: a clear error, an empty target, a running slot that
nothing touched.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.slot_manager import install
from agents.slot_manager.errors import LoaderError, NoSpace, ReadBackMismatch
from agents.slot_manager.state import State
from common.errors import AgentError
from tests.fakes.faulty_disk import Fault, FaultyDisk
from tests.fakes.faulty_machine import content, faulty, make_full
from tests.fakes.slot_images import MIB, BuiltImage, Key
from tests.fakes.slot_lab import Lab

NEW = "3.0.0"
UKI = "efi/EFI/Linux/.hypernet_3.0.0*"


@pytest.fixture
def full(tmp_path: Path, images: dict[str, BuiltImage], key: Key) -> Lab:
    """2.0.0 runs in slot a and is good; slot b, which holds the good 1.0.0, is the target."""
    return make_full(tmp_path / "lab", images["2.0.0"], images["1.0.0"], key)


@pytest.fixture
def disk(full: Lab) -> Iterator[FaultyDisk]:
    with faulty(full) as made:
        yield made


def _fail(lab: Lab, image: BuiltImage, error: type[AgentError] = AgentError) -> str:
    """Install and fail with one good sentence."""
    with pytest.raises(error) as caught:
        install.install(lab.machine, str(image.path))
    sentence = str(caught.value)
    assert sentence[-1] in ".?"
    assert len(sentence.splitlines()) == 1
    assert "Errno" not in sentence
    return sentence


def _assert_only_the_target_was_lost(
    lab: Lab, disk: FaultyDisk, before: tuple[bytes, bytes], image: BuiltImage, *, reason: str
) -> None:
    disk.fail()
    view = lab.machine.view()
    assert view.other.state is State.EMPTY
    assert view.partitions["b"].root_hash != image.root_hash
    assert view.other.reason == reason
    assert lab.names() == ["hypernet_2.0.0.efi"]
    assert content(disk, "a") == before
    assert (view.booted.state, view.booted.default) == (State.GOOD, True)
    assert view.record.pending is None
    assert view.record.installing is None
    install.install(lab.machine, str(image.path))
    assert lab.machine.view().other.state is State.ARMED


DATA, TREE = "slot-b", "slot-b-tree"
GONE = {errno.EIO: "Input/output error", errno.ENODEV: "No such device", errno.ENXIO: "No such device"}


@pytest.mark.parametrize("number", [errno.EIO, errno.ENODEV, errno.ENXIO], ids=["EIO", "ENODEV", "ENXIO"])
@pytest.mark.parametrize("op", ["write", "flush", "read"])
@pytest.mark.parametrize("part", [DATA, TREE])
def test_a_slot_that_fails_is_left_empty(
    full: Lab, disk: FaultyDisk, images: dict[str, BuiltImage], part: str, op: str, number: int
) -> None:
    before = content(disk, "a")
    start = 0 if op == "flush" or part == TREE else MIB + 4096
    disk.fail(Fault(part, op, number=number, start=start))

    sentence = _fail(full, images[NEW])

    assert disk.hits()
    assert str(disk.folder / part) in sentence
    assert GONE[number] in sentence
    _assert_only_the_target_was_lost(full, disk, before, images[NEW], reason=sentence)


@pytest.mark.parametrize("part", [DATA, TREE])
def test_a_slot_without_room_is_left_empty(
    full: Lab, disk: FaultyDisk, images: dict[str, BuiltImage], part: str
) -> None:
    before = content(disk, "a")
    disk.fail(Fault(part, "write", number=errno.ENOSPC, after=2))

    sentence = _fail(full, images[NEW], NoSpace)

    assert str(disk.folder / part) in sentence
    _assert_only_the_target_was_lost(full, disk, before, images[NEW], reason=sentence)


@pytest.mark.parametrize(("op", "effect"), [("write", "lose"), ("write", "flip"), ("read", "flip")])
@pytest.mark.parametrize(("part", "start"), [(DATA, MIB), (TREE, 8192)], ids=["data", "tree"])
def test_a_disk_that_lies_is_found_out(
    full: Lab,
    disk: FaultyDisk,
    images: dict[str, BuiltImage],
    part: str,
    start: int,
    op: str,
    effect: str,
) -> None:
    before = content(disk, "a")
    disk.fail(Fault(part, op, effect, start=start, end=start + 8192))

    sentence = _fail(full, images[NEW], ReadBackMismatch)

    assert str(disk.folder / part) in sentence
    _assert_only_the_target_was_lost(full, disk, before, images[NEW], reason=sentence)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(UKI, "create", number=errno.ENOSPC), NoSpace),
        (Fault(UKI, "create"), LoaderError),
        (Fault(UKI, "write", number=errno.ENOSPC, after=1), NoSpace),
        (Fault(UKI, "write", number=errno.EIO, after=1), AgentError),
        (Fault(UKI, "flush"), AgentError),
        (Fault(UKI, "read"), AgentError),
        (Fault(UKI, "read", "flip"), LoaderError),
        (Fault(UKI, "write", "lose"), AgentError),
        (Fault(UKI, "rename"), AgentError),
    ],
    ids=lambda item: f"{item.op} {item.effect} {item.number}" if isinstance(item, Fault) else "",
)
def test_an_esp_that_fails_leaves_no_entry(
    full: Lab, disk: FaultyDisk, images: dict[str, BuiltImage], fault: Fault, error: type[AgentError]
) -> None:
    before = content(disk, "a")
    disk.fail(fault)

    sentence = _fail(full, images[NEW], error)

    assert disk.hits()
    assert "efi" in sentence
    _assert_only_the_target_was_lost(full, disk, before, images[NEW], reason=sentence)


def _everything(disk: FaultyDisk, lab: Lab) -> tuple[object, ...]:
    files = [path for path in lab.topology.esp.rglob("*") if path.is_file()]
    return (
        content(disk, "b"),
        content(disk, "a"),
        disk.content("disk.img"),
        {path.name: path.read_bytes() for path in files},
    )


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO], ids=["EROFS", "EIO"])
def test_an_esp_that_cannot_be_written_costs_no_slot(
    full: Lab, disk: FaultyDisk, images: dict[str, BuiltImage], number: int
) -> None:
    before = _everything(disk, full)
    disk.fail(Fault("efi/*", "change", number=number))

    sentence = _fail(full, images[NEW])

    assert "efi" in sentence
    disk.fail()
    assert _everything(disk, full) == before
    assert full.machine.view().other.state is State.GOOD


def test_a_full_esp_costs_no_slot(full: Lab, images: dict[str, BuiltImage]) -> None:
    with faulty(full, room_bytes=400_000) as disk:
        before = _everything(disk, full)
        sentence = _fail(full, images[NEW], NoSpace)
        assert "The ESP has no room" in sentence
        assert _everything(disk, full) == before


@pytest.mark.parametrize("op", ["create", "write", "flush", "rename"])
def test_a_record_that_cannot_be_kept_costs_no_slot(
    full: Lab, disk: FaultyDisk, images: dict[str, BuiltImage], op: str
) -> None:
    before = content(disk, "b"), content(disk, "a"), disk.content("disk.img")
    disk.fail(Fault("state*", op, number=errno.ENOSPC))

    sentence = _fail(full, images[NEW])

    assert "state" in sentence
    disk.fail()
    assert (content(disk, "b"), content(disk, "a"), disk.content("disk.img")) == before
    assert full.machine.view().other.state is State.GOOD


def test_a_record_that_cannot_be_kept_any_more_leaves_the_target_empty(
    full: Lab, disk: FaultyDisk, images: dict[str, BuiltImage]
) -> None:
    before = content(disk, "a")
    disk.fail(Fault("state*", "rename", number=errno.ENOSPC, after=2))  # both copies were written once

    _fail(full, images[NEW])

    assert disk.hits()
    reason = "the installation of 3.0.0 was interrupted"
    disk.fail()
    assert full.machine.view().other.reason == reason
    assert full.machine.view().other.state is State.EMPTY
    assert full.names() == ["hypernet_2.0.0.efi"]
    assert content(disk, "a") == before


@pytest.mark.parametrize(
    "fault",
    [
        Fault("disk.img", "write"),
        Fault("disk.img", "write", after=4),
        Fault("disk.img", "write", "lose"),
        Fault("disk.img", "flush"),
        Fault("disk.img", "write", number=errno.ENODEV),
    ],
    ids=lambda fault: f"{fault.op} {fault.effect} {fault.number} {fault.after}",
)
def test_a_partition_table_that_cannot_be_written_leaves_the_target_empty(
    full: Lab, disk: FaultyDisk, images: dict[str, BuiltImage], fault: Fault
) -> None:
    before = content(disk, "a")
    disk.fail(fault)

    sentence = _fail(full, images[NEW])

    assert "disk.img" in sentence
    _assert_only_the_target_was_lost(full, disk, before, images[NEW], reason=sentence)


@pytest.mark.parametrize("path", [DATA, TREE, UKI], ids=["data", "tree", "UKI"])
def test_a_disk_that_vanishes_takes_nothing_else_with_it(
    full: Lab, disk: FaultyDisk, images: dict[str, BuiltImage], path: str
) -> None:
    before = content(disk, "a")
    disk.fail(Fault(path, "write", "gone", errno.ENODEV, after=1))

    _fail(full, images[NEW])

    assert content(disk, "a") == before
    assert disk.content("efi/EFI/Linux/hypernet_2.0.0.efi") == images["2.0.0"].uki
