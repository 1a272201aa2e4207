# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from agents.boot_health import boot

from .conftest import BOOT_ID, Tree

HASH = "0a" * 32


@pytest.mark.parametrize(
    ("selected", "exhausted"),
    [
        ("hypernet_2.0.0+3.efi", False),
        ("hypernet_2.0.0+2-1.efi", False),
        ("hypernet_2.0.0+1-2.efi", False),
        ("hypernet_2.0.0+0-3.efi", True),
        ("hypernet_2.0.0+0.efi", True),
        ("HYPERNET_2.0.0+0-12.EFI", True),
        ("hypernet_2.0.0.efi", False),
        ("hypernet_2.0.0+10.efi", False),
        ("hypernet_2.0.0+0a+3.efi", False),
    ],
)
def test_an_entry_without_tries_is_recognised_by_the_name_before_the_boot(
    tree: Tree, selected: str, exhausted: bool
) -> None:
    tree.efi("LoaderEntrySelected", selected)
    assert boot.exhausted(tree.places.efivars) is exhausted


def test_a_machine_without_these_variables_is_neither_counted_nor_exhausted(tree: Tree) -> None:
    assert not boot.counted(tree.places.efivars)
    assert not boot.exhausted(tree.places.efivars)


def test_a_counted_boot_has_the_path_of_its_entry(tree: Tree) -> None:
    tree.efi("LoaderBootCountPath", "\\EFI\\Linux\\hypernet_2.0.0+2-1.efi")
    assert boot.counted(tree.places.efivars)


def test_the_boot_id_has_no_hyphens(tree: Tree) -> None:
    assert boot.boot_id(tree.places.proc) == BOOT_ID


def test_time_counts_from_the_start_of_pid_1(tree: Tree) -> None:
    assert 0 <= boot.elapsed_sec(tree.places.proc) < 3600


def test_time_counts_from_the_start_of_the_kernel_when_pid_1_is_hidden(tree: Tree) -> None:
    (tree.places.proc / "1/stat").unlink()
    assert boot.elapsed_sec(tree.places.proc) > 0


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (f"quiet roothash={HASH} panic=10\n", HASH),
        (f"root=PARTUUID=1 hypernet.rootsha256={HASH}", HASH),
        (f"x.roothash={HASH}", ""),
        ("roothash=12", ""),
        ("quiet", ""),
    ],
)
def test_the_kernel_command_line_tells_which_system_runs(tree: Tree, arguments: str, found: str) -> None:
    (tree.places.proc / "cmdline").write_text(arguments, encoding="ascii")
    assert boot.root_hash(tree.places.proc) == found


def test_without_a_kernel_command_line_the_system_is_not_known(tree: Tree) -> None:
    assert boot.root_hash(tree.places.proc) == ""
