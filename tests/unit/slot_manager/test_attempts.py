# SPDX-License-Identifier: Apache-2.0
"""Our own count of a trial's boots, for loaders that do not count."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from agents.slot_manager import attempts, install, lifecycle, record
from agents.slot_manager.state import State
from tests.fakes.slot_images import BuiltImage
from tests.fakes.slot_lab import Lab

UNIT = Path(__file__).parents[3] / "units/hypernet-slot-manager-attempt.service"


def looked_at(lab: Lab, root_hash: str) -> bool:
    """Whether the unit starts anything in a boot of this system."""
    command_line = lab.folder / "cmdline"
    command_line.write_text(f"quiet roothash={root_hash} rw\n")
    (line,) = (line for line in UNIT.read_text().splitlines() if line.startswith("ExecCondition="))
    _, _, script = line.partition("=/bin/sh -c ")
    script = script.strip("'").replace("/var/lib/hypernet/slot-manager", str(lab.machine.store.folder))
    script = script.replace("/proc/cmdline", str(command_line))
    return subprocess.run(["/bin/sh", "-c", script], check=False).returncode == 0


def boots(lab: Lab, *ids: str) -> list[bool]:
    return [attempts.count_attempt(lab.machine, boot_id) for boot_id in ids]


@pytest.fixture
def uncounted(armed: Lab) -> Lab:
    """2.0.0 runs on trial, started by a loader that takes no tries."""
    armed.boot("b", selected="hypernet_2.0.0+3.efi")
    return armed


def test_a_boot_is_counted_once(trying: Lab, images: dict[str, BuiltImage]) -> None:
    assert boots(trying, "one", "one", "one") == [False] * 3

    record = trying.machine.store.load()
    assert record.attempts == {images["2.0.0"].root_hash: 1}
    assert record.attempt_boot_id == "one"
    assert trying.machine.view().slots["b"].attempts == 1


def test_a_trial_that_the_loader_does_not_count_ends_after_its_budget(uncounted: Lab) -> None:
    assert boots(uncounted, "one", "two", "three") == [False] * 3
    assert uncounted.machine.view().booted.state is State.TRYING

    assert boots(uncounted, "four") == [True]

    slots = uncounted.machine.view().slots
    assert (slots["a"].default, slots["b"].state) == (True, State.BAD)
    assert slots["b"].reason.startswith("was started 4 times without a good verdict, 3 are allowed")
    record = uncounted.machine.store.load()
    assert record.last_rollback is not None
    assert (record.last_rollback.from_version, record.last_rollback.to_version) == ("2.0.0", "1.0.0")
    assert [item.version for item in record.denied.values()] == ["2.0.0"]


def test_an_exhausted_trial_that_the_loader_starts_over_and_over_ends_too(armed: Lab) -> None:
    (armed.linux / "hypernet_2.0.0+3.efi").rename(armed.linux / "hypernet_2.0.0+0-3.efi")
    armed.boot("b", selected="hypernet_2.0.0+0-3.efi")

    assert boots(armed, "one", "two", "three", "four") == [False, False, False, True]
    assert armed.machine.view().slots["a"].default


def test_a_slot_that_is_bad_already_is_not_rolled_back_again(uncounted: Lab) -> None:
    boots(uncounted, "one", "two", "three", "four")
    uncounted.boot("b", selected="hypernet_2.0.0+0-1.efi")
    before = uncounted.snapshot()

    assert boots(uncounted, "five", "six") == [False, False]
    assert uncounted.snapshot() == before


def test_a_trial_without_a_good_slot_to_go_back_to_goes_on(uncounted: Lab) -> None:
    (uncounted.linux / "hypernet_1.0.0.efi").rename(uncounted.linux / "hypernet_1.0.0+0-5.efi")

    assert boots(uncounted, "one", "two", "three", "four", "five") == [False] * 5
    assert uncounted.machine.view().booted.state is State.TRYING


def test_a_good_slot_is_not_counted(both_good: Lab) -> None:
    before = both_good.snapshot()
    for number in range(6):
        both_good.boot("b", selected="hypernet_2.0.0+5.efi", counted=f"hypernet_2.0.0+{5 - number}.efi")
        assert boots(both_good, str(number)) == [False]
    assert {k: v for k, v in both_good.snapshot().items() if "efivars" not in k} == {
        k: v for k, v in before.items() if "efivars" not in k
    }


def test_a_good_verdict_ends_the_count(uncounted: Lab) -> None:
    boots(uncounted, "one", "two")

    lifecycle.bless(uncounted.machine)

    assert uncounted.machine.store.load().attempts == {}


def test_a_new_trial_has_a_new_budget(uncounted: Lab) -> None:
    boots(uncounted, "one", "two", "three", "four")
    uncounted.boot("a", selected="hypernet_1.0.0.efi")
    lifecycle.bless(uncounted.machine)
    lifecycle.mark_good(uncounted.machine, "b")
    uncounted.boot("b", selected="hypernet_2.0.0+3.efi")

    assert boots(uncounted, "five", "six", "seven") == [False] * 3


def test_a_trial_is_counted_without_what_the_record_knew(uncounted: Lab) -> None:
    for path in uncounted.machine.store.folder.glob("record-*"):
        path.unlink()

    assert boots(uncounted, "one", "two", "three", "four") == [False, False, False, True]


def test_the_name_of_a_boot_is_read_without_dashes(tmp_path: Path) -> None:
    (tmp_path / "boot_id").write_text("01234567-89ab-cdef-0123-456789abcdef\n")
    assert attempts.boot_id(tmp_path / "boot_id") == "0123456789abcdef0123456789abcdef"
    assert len(attempts.boot_id()) == 32


def test_ordinary_boots_of_a_good_system_start_nothing(
    both_good: Lab, images: dict[str, BuiltImage]
) -> None:
    assert not looked_at(both_good, images["2.0.0"].root_hash)
    assert looked_at(both_good, images["1.0.0"].root_hash)


def test_a_new_trial_is_looked_at_and_so_is_the_way_back_from_it(
    lab: Lab, images: dict[str, BuiltImage]
) -> None:
    lifecycle.bless(lab.machine)
    assert not looked_at(lab, images["1.0.0"].root_hash)

    install.install(lab.machine, str(images["2.0.0"].path))

    assert all(looked_at(lab, images[version].root_hash) for version in ("1.0.0", "2.0.0"))


def test_a_trial_that_came_to_its_end_is_not_looked_at_again(
    uncounted: Lab, images: dict[str, BuiltImage]
) -> None:
    boots(uncounted, "one", "two", "three", "four")
    uncounted.boot("a", selected="hypernet_1.0.0.efi")
    assert looked_at(uncounted, images["1.0.0"].root_hash)

    lifecycle.bless(uncounted.machine)

    assert not looked_at(uncounted, images["1.0.0"].root_hash)


@pytest.mark.parametrize("content", [None, b"", b"roothash="], ids=["no file", "an empty one", "a torn one"])
def test_without_a_whole_name_every_boot_is_looked_at(
    lab: Lab, images: dict[str, BuiltImage], content: bytes | None
) -> None:
    lab.machine.store.folder.mkdir(parents=True, exist_ok=True)
    if content is not None:
        (lab.machine.store.folder / record.SETTLED).write_bytes(content)

    assert looked_at(lab, images["1.0.0"].root_hash)
