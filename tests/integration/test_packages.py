# SPDX-License-Identifier: Apache-2.0
"""The Debian packages."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration import root_tree


@pytest.mark.parametrize("name", ["hypernet-agents", "hypernet-release"])
def test_lintian_finds_no_error_in_the_package(packages: Path, name: str) -> None:
    (package,) = packages.glob(f"{name}_*.deb")

    result = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error", str(package)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert result.returncode == 0, result.stdout


def test_same_sources_give_the_same_packages_in_another_place_and_at_another_time(tmp_path: Path) -> None:
    ours, copy = tmp_path / "ours", tmp_path / "copy"
    root_tree.build_packages(ours)
    for folder in ("agents", "common", "packaging", "units"):
        shutil.copytree(root_tree.TOP / folder, copy / folder, copy_function=copy_with_other_mode_and_time)

    root_tree.build_packages(copy / "out", top=copy)

    assert digests(copy / "out") == digests(ours)


def copy_with_other_mode_and_time(source: str, target: str) -> None:
    shutil.copyfile(source, target)
    Path(target).chmod(Path(source).stat().st_mode & 0o700)
    os.utime(target, (1_500_000_000, 1_500_000_000))


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.deb")}


def test_package_holds_every_unit_and_every_manual_page(packages: Path) -> None:
    (package,) = packages.glob("hypernet-agents_*.deb")
    listing = subprocess.run(
        ["dpkg-deb", "--contents", str(package)], capture_output=True, text=True, check=True, timeout=60
    )
    packaged = {Path(line.split()[5]).name for line in listing.stdout.splitlines()}

    units = {path.name for path in (root_tree.TOP / "units").rglob("*") if path.is_file()}
    pages = {f"{path.name}.gz" for path in (root_tree.TOP / "packaging/man").glob("*.[578]")}
    assert (units | pages) - packaged == set()
