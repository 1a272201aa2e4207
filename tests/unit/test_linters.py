# SPDX-License-Identifier: Apache-2.0
"""Rules that all files keep: formatting, types, size, licence, who may import what, manual pages."""

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PYTHON = ("agents", "common", "packaging/hypernet_release", "tests")
SOURCES = (*PYTHON, "units", "packaging", ".ci")
MAX_LINES = 500

OWNERS = {
    "dbus_next": "common/bus/",
    "pystemd": "common/units.py",
    "sdnotify": "common/notify.py",
}
"""The one place that may import a library."""

FORMATS_WITHOUT_COMMENTS = {".md"}


def python_files() -> list[Path]:
    return sorted(path for folder in PYTHON for path in (TOP / folder).rglob("*.py"))


def source_files() -> list[Path]:
    found = {
        path
        for folder in SOURCES
        for path in (TOP / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    return sorted(found)


def relative(path: Path) -> str:
    return str(path.relative_to(TOP))


def imports(path: Path) -> Iterator[str]:
    """Give the full names of the modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def run(*argv: str) -> None:
    """Run a linter and fail with what it says, if it says something."""
    need(argv[0], installed=shutil.which(argv[0]) is not None)
    result = subprocess.run(argv, cwd=TOP, capture_output=True, text=True, timeout=300, check=False)
    if result.returncode:
        pytest.fail(f"{' '.join(argv)}\n{result.stdout}{result.stderr}", pytrace=False)


def run_module(*argv: str) -> None:
    need(argv[0], installed=importlib.util.find_spec(argv[0]) is not None)
    run(sys.executable, "-m", *argv)


def need(tool: str, *, installed: bool) -> None:
    """Skip without the tool, but not on a build server, where that would look like success."""
    if not installed and os.environ.get("CI"):
        pytest.fail(f"{tool} is not installed")
    if not installed:
        pytest.skip(f"{tool} is not installed")


def test_ruff_finds_nothing() -> None:
    run_module("ruff", "check", *PYTHON)


def test_ruff_would_format_nothing() -> None:
    run_module("ruff", "format", "--check", *PYTHON)


def test_mypy_in_strict_mode_finds_nothing() -> None:
    run_module("mypy")


def test_shellcheck_finds_nothing() -> None:
    scripts = [relative(path) for path in source_files() if is_shell(path)]

    # SC2154: dracut gives its modules variables that shellcheck does not know.
    run("shellcheck", "--severity=warning", "--exclude=SC2154", *scripts)


def is_shell(path: Path) -> bool:
    with path.open("rb") as file:
        return file.readline() in (b"#!/bin/sh\n", b"#!/bin/bash\n", b"#!/usr/bin/env bash\n")


def test_no_source_file_is_longer_than_500_lines() -> None:
    long = [relative(path) for path in python_files() if len(path.read_bytes().splitlines()) > MAX_LINES]

    assert long == []


def test_every_source_file_names_its_licence_in_its_first_lines() -> None:
    def licensed(path: Path) -> bool:
        # An interpreter line, "#compdef", or XML's declaration and type have to come first.
        head = path.read_bytes()[:600].splitlines()[:5]
        return any(b"SPDX-License-Identifier: Apache-2.0" in line for line in head)

    missing = [relative(path) for path in source_files() if needs_licence(path) and not licensed(path)]

    assert missing == []


def needs_licence(path: Path) -> bool:
    # Debian's own files have packaging/debian/copyright; files of the root tree are mostly one bare value,
    # and those of the corpus are damaged on purpose.
    if relative(path).startswith(("packaging/debian/", "packaging/image/rootfs/", "tests/fuzz/corpus/")):
        return False

    return path.stat().st_size > 0 and path.suffix not in FORMATS_WITHOUT_COMMENTS


def test_agents_import_nothing_of_ours_but_themselves_and_common() -> None:
    wrong = []
    for path in (TOP / "agents").glob("*/**/*.py"):
        own = f"agents.{path.relative_to(TOP / 'agents').parts[0]}"
        for name in imports(path):
            foreign_agent = (
                name.startswith("agents") and name != "agents" and not f"{name}.".startswith(f"{own}.")
            )
            if foreign_agent or name.startswith((".", "tests", "hypernet_release")):
                wrong.append(f"{relative(path)}: {name}")

    assert wrong == []


def test_common_imports_no_agent() -> None:
    wrong = [
        f"{relative(path)}: {name}"
        for path in (TOP / "common").rglob("*.py")
        for name in imports(path)
        if name.partition(".")[0] in ("agents", "tests", "hypernet_release")
    ]

    assert wrong == []


@pytest.mark.parametrize("library", OWNERS)
def test_library_is_imported_in_one_place_only(library: str) -> None:
    wrong = [
        relative(path)
        for folder in ("agents", "common", "packaging/hypernet_release")
        for path in (TOP / folder).rglob("*.py")
        if not relative(path).startswith(OWNERS[library])
        and any(name.partition(".")[0] == library for name in imports(path))
    ]

    assert wrong == []


def test_only_common_process_starts_programs() -> None:
    wrong = [
        relative(path)
        for folder in ("agents", "common")
        for path in (TOP / folder).rglob("*.py")
        if relative(path) != "common/process.py" and "subprocess" in set(imports(path))
    ]

    assert wrong == []


@pytest.mark.parametrize(
    "page", sorted((TOP / "packaging/man").glob("*.[1578]")), ids=lambda page: page.name
)
def test_manual_page_renders_without_a_warning(page: Path) -> None:
    need("man", installed=shutil.which("man") is not None)
    result = subprocess.run(
        ["man", "--warnings", "--encoding=UTF-8", "--local-file", str(page)],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANROFFSEQ": "", "MANWIDTH": "80"},
        timeout=60,
        check=False,
    )

    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    "page", sorted((TOP / "packaging/man").glob("*.[1578]")), ids=lambda page: page.name
)
def test_mandoc_accepts_the_manual_page(page: Path) -> None:
    run("mandoc", "-T", "lint", "-W", "error", str(page))


def test_every_manual_page_that_a_unit_names_exists() -> None:
    pages = {path.name for path in (TOP / "packaging/man").iterdir()}
    missing = []
    for unit in (TOP / "units").rglob("*"):
        if not unit.is_file():
            continue
        for line in unit.read_text().splitlines():
            name, _, section = line.removeprefix("Documentation=man:").rstrip(")").partition("(")
            if line.startswith("Documentation=man:hypernet") and f"{name}.{section}" not in pages:
                missing.append(f"{relative(unit)}: {name}({section})")

    assert missing == []
