# SPDX-License-Identifier: Apache-2.0
"""The UKI reader, on systemd's real stub and on damaged copies of it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common import process, uki

STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
ROOT_HASH = "0123456789abcdef" * 4

pytestmark = pytest.mark.skipif(not STUB.exists(), reason="systemd-boot's stub is not installed")


def make(
    folder: Path, *, cmdline: str | None = f"roothash={ROOT_HASH} quiet", osrel: str | None = None
) -> Path:
    path = folder / "test.efi"
    argv = ["objcopy"]
    texts = {".cmdline": cmdline, ".osrel": osrel or "ID=debian\nIMAGE_ID=hypernet\nIMAGE_VERSION='1.2.3'\n"}
    for number, (section, text) in enumerate(texts.items()):
        if text is None:
            continue
        (folder / section).write_text(text)
        address = f"{section}={0x20000 + number * 0x20000:#x}"
        argv += ["--add-section", f"{section}={folder / section}", "--change-section-vma", address]
    process.run([*argv, str(STUB), str(path)], timeout_sec=30)
    return path


def test_the_text_sections_are_read(tmp_path: Path) -> None:
    facts = uki.read(make(tmp_path))
    assert facts.root_hash == ROOT_HASH
    assert (facts.image_id, facts.image_version) == ("hypernet", "1.2.3")
    assert ".text" in facts.sections


@pytest.mark.parametrize("verity", [True, False])
def test_the_root_is_read_from_the_arguments_that_name_it(tmp_path: Path, verity: bool) -> None:
    facts = uki.read(make(tmp_path, cmdline=" ".join(uki.root_arguments(ROOT_HASH, verity=verity))))

    assert (facts.root_hash, facts.verity) == (ROOT_HASH, verity)


def test_without_a_hash_tree_the_root_is_named_by_its_partition_too() -> None:
    assert uki.root_arguments(ROOT_HASH, verity=False) == (
        "root=PARTUUID=01234567-89ab-cdef-0123-456789abcdef",
        f"hypernet.rootsha256={ROOT_HASH}",
    )


@pytest.mark.parametrize(
    "cmdline",
    [
        "quiet",
        f"roothash={ROOT_HASH} roothash={'f' * 64}",
        f"roothash={ROOT_HASH} hypernet.rootsha256={ROOT_HASH}",
        "roothash=abc",
        "hypernet.rootsha256=abc",
        f"roothash={ROOT_HASH.upper()}",
    ],
)
def test_anything_but_one_whole_root_hash_counts_as_none(tmp_path: Path, cmdline: str) -> None:
    assert uki.read(make(tmp_path, cmdline=cmdline)).root_hash == ""


def test_an_efi_program_without_a_command_line_is_no_uki(tmp_path: Path) -> None:
    with pytest.raises(uki.NotAUki, match=r"\.cmdline"):
        uki.read(make(tmp_path, cmdline=None))


def test_a_uki_cut_short_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path)
    os.truncate(path, 600)
    with pytest.raises(uki.NotAUki):
        uki.read(path)


def test_an_overlong_section_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(uki.NotAUki, match="are allowed"):
        uki.read(make(tmp_path, cmdline="x" * (uki.MAX_TEXT_BYTES + 1)))


@pytest.mark.parametrize("content", [b"", b"MZ", b"MZ" + b"\xff" * 100, b"\x7fELF" * 100])
def test_other_files_are_no_uki(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(uki.NotAUki):
        uki.read(path)


def test_a_folder_a_link_and_a_missing_file_are_no_uki(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(make(tmp_path))
    for path in (tmp_path, tmp_path / "link", tmp_path / "missing"):
        with pytest.raises(uki.NotAUki):
            uki.read(path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, 1200), st.binary(min_size=1, max_size=8)), max_size=4),
    cut=st.integers(0, 200_000),
)
def test_no_damage_makes_the_reader_fail_otherwise_than_with_its_own_error(
    tmp_path: Path, changes: list[tuple[int, bytes]], cut: int
) -> None:
    path = tmp_path / "test.efi" if (tmp_path / "test.efi").exists() else make(tmp_path)
    raw = bytearray(path.read_bytes())
    for offset, data in changes:
        raw[offset : offset + len(data)] = data
    damaged = tmp_path / "damaged.efi"
    damaged.write_bytes(raw[:cut])
    with contextlib.suppress(uki.NotAUki):
        uki.read(damaged)
