# SPDX-License-Identifier: Apache-2.0
"""Boot entries as files: staging, arming, counters, twins, clearing, and the loader's own variables."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.slot_manager import efivars, systemd_boot
from agents.slot_manager.errors import LoaderError
from agents.slot_manager.loader import Entry, in_loader_order
from agents.slot_manager.systemd_boot import SystemdBoot, format_name, parse_name
from common.errors import AgentError
from tests.fakes.slot_images import BuiltImage, make_uki


@pytest.fixture
def boot(tmp_path: Path) -> SystemdBoot:
    (tmp_path / "efi" / "EFI" / "Linux").mkdir(parents=True)
    (tmp_path / "efivars").mkdir()
    return SystemdBoot(tmp_path / "efi", tmp_path / "efivars")


@pytest.fixture
def linux(boot: SystemdBoot, tmp_path: Path) -> Path:
    return tmp_path / "efi" / "EFI" / "Linux"


@pytest.fixture
def uki(tmp_path: Path, images: dict[str, BuiltImage]) -> Path:
    path = tmp_path / "uki.efi"
    path.write_bytes(images["2.0.0"].uki)
    return path


def names(linux: Path) -> list[str]:
    return sorted(path.name for path in linux.iterdir())


def stage(boot: SystemdBoot, uki: Path) -> None:
    boot.stage(uki, "2.0.0", hashlib.sha256(uki.read_bytes()).hexdigest())


def only(boot: SystemdBoot) -> Entry:
    (entry,) = boot.entries()
    return entry


def test_a_staged_entry_is_complete_but_hidden_from_the_loader(
    boot: SystemdBoot, linux: Path, uki: Path
) -> None:
    stage(boot, uki)
    assert names(linux) == [".hypernet_2.0.0.efi.part"]
    assert (linux / ".hypernet_2.0.0.efi.part").read_bytes() == uki.read_bytes()
    assert only(boot).staged
    assert in_loader_order(boot.entries()) == []


def test_an_entry_that_does_not_read_back_as_it_should_be_is_an_error(boot: SystemdBoot, uki: Path) -> None:
    with pytest.raises(LoaderError, match="does not read back"):
        boot.stage(uki, "2.0.0", "ab" * 32)


def test_staging_again_replaces_what_was_left_behind(boot: SystemdBoot, linux: Path, uki: Path) -> None:
    (linux / ".hypernet_2.0.0.efi.part").write_bytes(b"torn")
    stage(boot, uki)
    assert (linux / ".hypernet_2.0.0.efi.part").read_bytes() == uki.read_bytes()


def test_arming_removes_every_twin_of_the_name(boot: SystemdBoot, linux: Path, uki: Path) -> None:
    for twin in ("hypernet_2.0.0.efi", "hypernet_2.0.0+0-3.efi", "HYPERNET_2.0.0+1.EFI"):
        (linux / twin).write_bytes(b"old")
    stage(boot, uki)
    boot.arm("2.0.0", 3)
    assert names(linux) == ["hypernet_2.0.0+3.efi"]


@pytest.mark.parametrize(
    ("left", "done", "expected"),
    [(-1, 0, "x.efi"), (5, 0, "x+5.efi"), (2, 1, "x+2-1.efi"), (0, 1, "x+0-1.efi"), (0, 0, "x+0.efi")],
)
def test_counters_are_written_as_the_loader_reads_them(left: int, done: int, expected: str) -> None:
    assert format_name("x", left, done) == expected
    assert parse_name(expected) == ("x", left, done, False)


def test_a_counter_can_be_set_and_taken_away(boot: SystemdBoot, linux: Path, uki: Path) -> None:
    stage(boot, uki)
    boot.arm("2.0.0", 3)
    for left, done, expected in ((0, 1, "hypernet_2.0.0+0-1.efi"), (-1, 0, "hypernet_2.0.0.efi")):
        boot.set_tries(only(boot), left, done)
        assert names(linux) == [expected]
        boot.set_tries(only(boot), left, done)
        assert names(linux) == [expected]


def test_only_what_is_kept_and_what_is_not_ours_survives_a_clearing(
    boot: SystemdBoot, linux: Path, images: dict[str, BuiltImage], tmp_path: Path
) -> None:
    (linux / "hypernet_1.0.0.efi").write_bytes(images["1.0.0"].uki)
    (linux / "hypernet_2.0.0+3.efi").write_bytes(images["2.0.0"].uki)
    (linux / ".hypernet_3.0.0.efi.part").write_bytes(images["3.0.0"].uki)
    (linux / "hypernet_4.0.0.efi").write_bytes(b"torn")
    (linux / "debian.efi").write_bytes(b"not ours, not readable")
    make_uki(linux / "alien_1.efi", version="1", root_hash="ab" * 32, image_id="alien")
    boot.clear({images["1.0.0"].root_hash})
    assert names(linux) == ["alien_1.efi", "debian.efi", "hypernet_1.0.0.efi"]


def test_room_counts_what_a_clearing_would_free(
    boot: SystemdBoot, linux: Path, images: dict[str, BuiltImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    (linux / "hypernet_2.0.0.efi").write_bytes(images["2.0.0"].uki)
    kept = boot.room_bytes({images["2.0.0"].root_hash})
    freed = boot.room_bytes({"nothing"})
    assert freed - kept >= len(images["2.0.0"].uki) - (64 << 10)


def test_a_full_esp_has_no_room(boot: SystemdBoot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd_boot, "MARGIN_BYTES", 1 << 60)
    assert boot.room_bytes(set()) == 0


def test_an_esp_that_is_not_mounted_is_told(tmp_path: Path) -> None:
    with pytest.raises(LoaderError, match="is the ESP mounted"):
        SystemdBoot(tmp_path / "efi", tmp_path).entries()


def test_entries_that_cannot_be_read_are_skipped_as_the_loader_does(boot: SystemdBoot, linux: Path) -> None:
    (linux / "hypernet_2.0.0.efi").write_bytes(b"MZ torn")
    (linux / "readme.txt").write_bytes(b"")
    assert boot.entries() == ()


def test_arming_what_was_not_staged_fails(boot: SystemdBoot) -> None:
    with pytest.raises(AgentError):
        boot.arm("2.0.0", 3)


@pytest.mark.parametrize("name", ["hypernet_2.0.0+3.efi", "Hypernet_2.0.0+3-0.EFI", "next+3.efi"])
def test_a_disarmed_entry_can_be_armed_again_whatever_its_name_was(
    boot: SystemdBoot, linux: Path, images: dict[str, BuiltImage], name: str
) -> None:
    (linux / name).write_bytes(images["2.0.0"].uki)
    (linux / ".hypernet_2.0.0.efi.part").write_bytes(b"a torn one of an earlier time")
    (armed,) = boot.entries()

    boot.disarm(armed)

    (staged,) = boot.entries()
    assert (staged.name, staged.staged, staged.version) == (".hypernet_2.0.0.efi.part", True, "2.0.0")
    boot.arm("2.0.0", 3)
    assert [path.name for path in linux.iterdir()] == ["hypernet_2.0.0+3.efi"]


def test_disarming_leaves_no_twin_that_the_loader_would_take(
    boot: SystemdBoot, linux: Path, images: dict[str, BuiltImage]
) -> None:
    for name in ("hypernet_2.0.0+3.efi", "hypernet_2.0.0.efi", "hypernet_2.0.0+0-1.efi"):
        (linux / name).write_bytes(images["2.0.0"].uki)
    armed = next(entry for entry in boot.entries() if entry.tries_left == 3)

    boot.disarm(armed)

    assert [path.name for path in linux.iterdir()] == [".hypernet_2.0.0.efi.part"]


@pytest.mark.parametrize(
    "change",
    [
        lambda boot, entry: boot.set_tries(entry, -1),
        lambda boot, entry: boot.set_tries(entry, entry.tries_left, entry.tries_done),
        lambda boot, entry: boot.disarm(entry),
    ],
    ids=["good", "same", "disarm"],
)
def test_an_entry_that_was_renamed_meanwhile_is_not_removed_as_its_own_twin(
    boot: SystemdBoot,
    linux: Path,
    images: dict[str, BuiltImage],
    change: Callable[[SystemdBoot, Entry], None],
) -> None:
    (linux / "hypernet_2.0.0+4-1.efi").write_bytes(images["2.0.0"].uki)
    before = only(boot)
    (linux / before.name).rename(linux / "hypernet_2.0.0.efi")  # what systemd-bless-boot does

    with pytest.raises(LoaderError, match="renamed by something else"):
        change(boot, before)

    assert names(linux) == ["hypernet_2.0.0.efi"]


def variable(tmp_path: Path, name: str, value: bytes) -> None:
    (tmp_path / "efivars" / f"{name}-{efivars.VENDOR}").write_bytes(value)


def test_the_loaders_variables_are_read(boot: SystemdBoot, tmp_path: Path) -> None:
    text = "\\EFI\\Linux\\hypernet_2.0.0+2-1.efi\0".encode("utf-16-le")
    variable(tmp_path, "LoaderBootCountPath", b"\x06\0\0\0" + text)
    variable(tmp_path, "LoaderEntrySelected", b"\x06\0\0\0" + "hypernet_2.0.0+3.efi\0".encode("utf-16-le"))
    facts = boot.facts()
    assert facts.counted == "hypernet_2.0.0+2-1.efi"
    assert facts.selected == "hypernet_2.0.0+3.efi"
    assert facts.loader == ""


@given(raw=st.binary(max_size=80))
def test_no_bytes_in_a_variable_make_its_reader_fail(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes
) -> None:
    folder = tmp_path_factory.mktemp("vars")
    (folder / f"LoaderInfo-{efivars.VENDOR}").write_bytes(raw)
    assert isinstance(efivars.read_text(folder, "LoaderInfo"), str)


@given(st.text(max_size=40), st.sampled_from(["", ".efi", "+1.efi", "+1-2.efi", "+x.efi", ".efi.part"]))
def test_any_file_name_is_read_or_ignored(text: str, ending: str) -> None:
    parsed = parse_name(text + ending)
    if parsed is not None and not parsed[3] and parsed[1:3] != (0, 0):
        stem, left, done, _ = parsed
        assert parse_name(format_name(stem, left, done)) in (parsed, (stem, left, done, False))
