# SPDX-License-Identifier: Apache-2.0
"""The install engine on real images: what a finished, a broken and a cancelled install leave behind."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from agents.slot_manager import install, partuuid
from agents.slot_manager.errors import LoaderError, OtherSlotNotGood, ReadBackMismatch, WrongState
from agents.slot_manager.install import Stage
from agents.slot_manager.medium import Medium
from agents.slot_manager.record import Record
from agents.slot_manager.state import State
from common.errors import AgentError, Busy, Cancelled
from tests.fakes.slot_images import BuiltImage
from tests.fakes.slot_lab import Lab


def test_an_installed_image_is_armed_in_the_other_slot_and_is_the_default(
    lab: Lab, images: dict[str, BuiltImage]
) -> None:
    image = images["2.0.0"]

    installed = install.install(lab.machine, str(image.path))

    view = lab.machine.view()
    assert (installed.slot, installed.version) == ("b", "2.0.0")
    assert view.slots["b"].state is State.ARMED
    assert view.slots["b"].default
    assert view.slots["b"].tries_left == 3
    assert view.slots["a"].state is State.GOOD
    assert lab.names() == ["hypernet_1.0.0.efi", "hypernet_2.0.0+3.efi"]
    assert (lab.linux / "hypernet_2.0.0+3.efi").read_bytes() == image.uki
    assert lab.data("b").startswith(image.root)
    assert lab.tree("b").startswith(image.tree)
    assert lab.root_hash("b") == image.root_hash
    assert view.record.pending is not None
    assert view.record.pending.root_hash == image.root_hash
    assert view.record.installing is None
    assert list(lab.machine.cache.iterdir()) == []


def test_an_install_never_touches_the_running_slot(lab: Lab, images: dict[str, BuiltImage]) -> None:
    before = (
        lab.data("a"),
        lab.tree("a"),
        lab.root_hash("a"),
        (lab.linux / "hypernet_1.0.0.efi").read_bytes(),
    )

    install.install(lab.machine, str(images["2.0.0"].path))

    assert (lab.data("a"), lab.tree("a"), lab.root_hash("a")) == before[:3]
    assert (lab.linux / "hypernet_1.0.0.efi").read_bytes() == before[3]


def test_an_image_that_is_only_staged_is_not_the_default(lab: Lab, images: dict[str, BuiltImage]) -> None:
    install.install(lab.machine, str(images["2.0.0"].path), arm=False)

    view = lab.machine.view()
    assert view.slots["b"].state is State.STAGED
    assert view.slots["a"].default
    assert lab.names() == [".hypernet_2.0.0.efi.part", "hypernet_1.0.0.efi"]


def test_a_second_install_replaces_the_first(lab: Lab, images: dict[str, BuiltImage]) -> None:
    install.install(lab.machine, str(images["2.0.0"].path))
    install.install(lab.machine, str(images["3.0.0"].path))

    assert lab.names() == ["hypernet_1.0.0.efi", "hypernet_3.0.0+3.efi"]
    assert lab.root_hash("b") == images["3.0.0"].root_hash


def test_an_image_that_failed_here_can_be_installed_again(lab: Lab, images: dict[str, BuiltImage]) -> None:
    install.install(lab.machine, str(images["2.0.0"].path))
    (lab.linux / "hypernet_2.0.0+3.efi").rename(lab.linux / "hypernet_2.0.0+0-3.efi")

    install.install(lab.machine, str(images["2.0.0"].path))

    assert lab.names() == ["hypernet_1.0.0.efi", "hypernet_2.0.0+3.efi"]
    assert lab.machine.view().slots["b"].state is State.ARMED


def test_leftovers_of_an_interrupted_install_are_removed(lab: Lab, images: dict[str, BuiltImage]) -> None:
    (lab.linux / ".hypernet_1.5.0.efi.part").write_bytes(b"torn")
    (lab.linux / "hypernet_2.0.0.efi").write_bytes(images["3.0.0"].uki)

    install.install(lab.machine, str(images["2.0.0"].path))

    assert lab.names() == ["hypernet_1.0.0.efi", "hypernet_2.0.0+3.efi"]


def test_progress_counts_every_byte_once_and_ends_complete(lab: Lab, images: dict[str, BuiltImage]) -> None:
    seen: list[tuple[Stage, int, int]] = []

    install.install(lab.machine, str(images["2.0.0"].path), progress=lambda *step: seen.append(step))

    assert list(dict.fromkeys(stage for stage, _, _ in seen)) == list(Stage)
    done = [count for _, count, _ in seen]
    assert done == sorted(done)
    assert seen[-1][1] == seen[-1][2]


def _assert_slot_b_is_empty(lab: Lab, image: BuiltImage) -> None:
    view = lab.machine.view()
    assert view.slots["b"].state is State.EMPTY
    assert lab.root_hash("b") != image.root_hash
    assert lab.names() == ["hypernet_1.0.0.efi"]
    assert view.slots["a"].state is State.GOOD
    assert view.slots["a"].default
    assert view.record.pending is None
    assert view.record.installing is None


@pytest.mark.parametrize("least_done", [0, 0.9])
def test_a_cancelled_install_leaves_the_slot_empty(
    lab: Lab, images: dict[str, BuiltImage], least_done: float
) -> None:
    cancel = threading.Event()

    def progress(now: Stage, done: int, total: int) -> None:
        if now is Stage.WRITE and done >= least_done * total:
            cancel.set()

    with pytest.raises(Cancelled):
        install.install(lab.machine, str(images["2.0.0"].path), cancel=cancel, progress=progress)

    _assert_slot_b_is_empty(lab, images["2.0.0"])


def test_an_install_that_is_cancelled_while_verifying_changes_nothing(
    lab: Lab, images: dict[str, BuiltImage]
) -> None:
    before = lab.snapshot()
    cancel = threading.Event()

    def progress(now: Stage, done: int, total: int) -> None:
        if now is Stage.VERIFY:
            cancel.set()

    with pytest.raises(Cancelled):
        install.install(lab.machine, str(images["2.0.0"].path), cancel=cancel, progress=progress)

    assert lab.snapshot() == before


def test_a_failing_write_leaves_the_slot_empty(
    lab: Lab, images: dict[str, BuiltImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(medium: Medium, view: memoryview, offset: int) -> None:
        raise AgentError("The disk is broken.")

    monkeypatch.setattr(Medium, "write", fail)

    with pytest.raises(AgentError, match="The disk is broken"):
        install.install(lab.machine, str(images["2.0.0"].path))

    _assert_slot_b_is_empty(lab, images["2.0.0"])


def test_a_bit_that_flips_on_the_disk_is_found_and_the_slot_left_empty(
    lab: Lab, images: dict[str, BuiltImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Medium.write

    def flip(medium: Medium, view: memoryview, offset: int) -> None:
        write(medium, view, offset)
        with open(medium.path, "r+b") as device:
            device.seek(offset + 70)
            byte = device.read(1)
            device.seek(offset + 70)
            device.write(bytes([byte[0] ^ 1]))

    monkeypatch.setattr(Medium, "write", flip)

    with pytest.raises(ReadBackMismatch):
        install.install(lab.machine, str(images["2.0.0"].path))

    _assert_slot_b_is_empty(lab, images["2.0.0"])


@pytest.mark.parametrize("step", ["stage", "arm"])
def test_a_failing_boot_entry_leaves_the_slot_empty(
    lab: Lab, images: dict[str, BuiltImage], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*arguments: object) -> None:
        raise LoaderError("The ESP is broken.")

    monkeypatch.setattr(type(lab.machine.loader), step, fail)

    with pytest.raises(LoaderError, match="The ESP is broken"):
        install.install(lab.machine, str(images["2.0.0"].path))

    _assert_slot_b_is_empty(lab, images["2.0.0"])


def test_partition_identities_that_do_not_stick_leave_the_slot_empty(
    lab: Lab, images: dict[str, BuiltImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise ReadBackMismatch("The partition table is broken.")

    monkeypatch.setattr(partuuid, "set_root_hash", fail)

    with pytest.raises(ReadBackMismatch):
        install.install(lab.machine, str(images["2.0.0"].path))

    _assert_slot_b_is_empty(lab, images["2.0.0"])


def test_only_one_change_runs_at_a_time(lab: Lab, images: dict[str, BuiltImage]) -> None:
    with lab.machine.lock(), pytest.raises(Busy):
        install.install(lab.machine, str(images["2.0.0"].path))


def test_a_slot_on_trial_does_not_overwrite_its_way_back(lab: Lab, images: dict[str, BuiltImage]) -> None:
    install.install(lab.machine, str(images["2.0.0"].path))
    lab.try_once("hypernet_2.0.0+3.efi", "b")
    before = lab.snapshot()

    with pytest.raises(OtherSlotNotGood):
        install.install(lab.machine, str(images["3.0.0"].path))

    assert lab.snapshot() == before


def test_a_slot_on_trial_without_a_way_back_waits_for_its_verdict(
    lab: Lab, images: dict[str, BuiltImage]
) -> None:
    (lab.linux / "hypernet_1.0.0.efi").rename(lab.linux / "hypernet_1.0.0+3.efi")
    lab.try_once("hypernet_1.0.0+3.efi", "a")
    assert lab.machine.view().booted.state is State.TRYING
    before = lab.snapshot()

    with pytest.raises(WrongState, match="wait for the verdict"):
        install.install(lab.machine, str(images["2.0.0"].path))

    assert lab.snapshot() == before


def test_a_good_slot_that_loses_its_neighbour_is_counted_no_longer(
    both_good: Lab, images: dict[str, BuiltImage]
) -> None:
    both_good.try_once("hypernet_2.0.0+5.efi", "b")

    install.install(both_good.machine, str(images["3.0.0"].path))

    assert both_good.names() == ["hypernet_2.0.0.efi", "hypernet_3.0.0+3.efi"]


def test_the_running_slot_comes_before_a_newer_one_whose_trial_has_failed(
    lab: Lab, images: dict[str, BuiltImage]
) -> None:
    (lab.linux / "hypernet_1.0.0.efi").rename(lab.linux / "hypernet_1.0.0+0-3.efi")
    lab.boot("a", selected="hypernet_1.0.0+0-2.efi", counted="hypernet_1.0.0+0-3.efi")
    install.install(lab.machine, str(images["2.0.0"].path))

    name = "hypernet_2.0.0+3.efi"
    for _ in range(3):
        name = lab.try_once(name, "b")

    assert lab.machine.view().slots["a"].default


def test_what_a_power_cut_left_unpacked_is_removed(lab: Lab, images: dict[str, BuiltImage]) -> None:
    stale = lab.machine.cache / "install-x1y2z3"
    stale.mkdir(parents=True)
    (stale / "esp.img").write_bytes(b"old")

    install.install(lab.machine, str(images["2.0.0"].path))

    assert list(lab.machine.cache.iterdir()) == []


def test_a_machine_whose_running_slot_cannot_be_booted_again_refuses_updates(
    lab: Lab, images: dict[str, BuiltImage]
) -> None:
    (lab.linux / "hypernet_1.0.0.efi").unlink()

    with pytest.raises(LoaderError, match="no boot entry"):
        install.install(lab.machine, str(images["2.0.0"].path))


def test_the_state_folder_holds_no_trace_of_a_refused_install(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(AgentError):
        install.install(lab.machine, str(tmp_path / "missing.img"))

    assert [path.name for path in lab.machine.store.folder.iterdir()] == ["lock"]


def test_an_install_survives_that_systemd_blesses_the_running_slot_meanwhile(
    lab: Lab, images: dict[str, BuiltImage]
) -> None:
    counted, plain = lab.linux / "hypernet_1.0.0+4-1.efi", lab.linux / "hypernet_1.0.0.efi"
    plain.rename(counted)
    lab.machine.store.save(Record(proven={lab.root_hash("a"): 1}))

    def bless() -> None:
        counted.rename(plain)

    install.install(lab.machine, str(images["2.0.0"].path), before_write=bless)

    assert lab.names() == ["hypernet_1.0.0.efi", "hypernet_2.0.0+3.efi"]
