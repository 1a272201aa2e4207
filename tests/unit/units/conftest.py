# SPDX-License-Identifier: Apache-2.0
"""The files below units/, and a tree in which systemd-analyze can judge them without our package."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
UNITS = ROOT / "units"
VENDOR = "/usr/lib/hypernet/"
SYSTEM_UNITS = Path("/lib/systemd/system")
SUFFIXES = (".service", ".target", ".timer", ".socket", ".mount", ".path", ".slice")


def unit_files() -> list[Path]:
    """Our units, without drop-ins."""
    return sorted(path for path in UNITS.iterdir() if path.suffix in SUFFIXES)


def services() -> list[Path]:
    """Our services."""
    return [path for path in unit_files() if path.suffix == ".service"]


def drop_ins() -> list[Path]:
    """Our drop-ins for units that are not ours."""
    return sorted(path for path in UNITS.glob("*.d/*.conf") if Path(path.parent.stem).suffix in SUFFIXES)


def settings(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (section, key, value) of a unit file, in order; lines are not continued in our files."""
    section = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text.startswith("["):
            section = text.strip("[]")
        elif text and text[0] not in "#;":
            key, _, value = text.partition("=")
            yield section, key.strip(), value.strip()


def values(path: Path, key: str) -> list[str]:
    """All values of a key."""
    return [value for _, name, value in settings(path) if name == key]


@pytest.fixture(scope="session")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of all units, with empty programs in the place of ours: systemd-analyze wants them to exist."""
    root = tmp_path_factory.mktemp("units")
    programs = root / "programs"
    programs.mkdir()
    tree = root / "system"
    tree.mkdir()
    for path in [*unit_files(), *drop_ins()]:
        target = tree / path.relative_to(UNITS)
        target.parent.mkdir(exist_ok=True)
        text = path.read_text(encoding="utf-8")
        for key, command in (item[1:] for item in settings(path)):
            program = command.lstrip("-@:+!").partition(" ")[0]
            if key.startswith("Exec") and program.startswith(VENDOR):
                stand_in = programs / Path(program).name
                stand_in.write_text("#!/bin/sh\n", encoding="utf-8")
                stand_in.chmod(0o755)
                text = text.replace(program, str(stand_in))
        target.write_text(text, encoding="utf-8")
    for path in drop_ins():
        stock = SYSTEM_UNITS / path.parent.stem
        if stock.stem.endswith("-"):  # for every unit whose name begins like that, see systemd.unit(5)
            (tree / stock.name).write_text("[Service]\nExecStart=/bin/true\n", encoding="utf-8")
        elif not (tree / stock.name).exists():
            shutil.copy(stock, tree / stock.name)
    return tree
