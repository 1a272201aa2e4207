# SPDX-License-Identifier: Apache-2.0
"""What bash and zsh offer on the command line of hypernet-admin, asked of the shells themselves."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from agents.admin import cli
from tests.unit.admin.lab import VERBS

FOLDER = Path(__file__).parents[3] / "packaging/completions"

BASH = """
source /usr/share/bash-completion/bash_completion
source "$1"; shift
COMP_WORDS=(hypernet-admin "$@") COMP_CWORD=$#
COMP_LINE="${COMP_WORDS[*]}" COMP_POINT=${#COMP_LINE}
_hypernet_admin
printf '%s\\n' "${COMPREPLY[@]}"
"""

# The completion is sourced with stand-ins for zsh's helpers, which print what it hands them.
ZSH = """
file=$1 verb=$2
_describe() { print -rl -- ${(P)4} }
_arguments() {
    if [[ $1 == -C ]]; then
        state=${verb:+argument}; state=${state:-verb}; words=($verb)
    else
        print -rl -- "$@"
    fi
}
complete() { source $file }
complete
"""


def need(program: str) -> None:
    """Skip without the shell, but not on a build server, where that would look like success."""
    there = shutil.which(program) and Path("/usr/share/bash-completion/bash_completion").exists()
    if not there and os.environ.get("CI"):
        pytest.fail(f"{program} or bash-completion is not installed")
    if not there:
        pytest.skip(f"{program} or bash-completion is not installed")


def bash(folder: Path, *words: str, said: str = "") -> set[str]:
    """Return what bash offers for the last of `words`; files are those of `folder`.

    said: what hypernet-admin prints.
    """
    need("bash")
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    command = programs / "hypernet-admin"
    command.write_text(f"#!/bin/sh\ncat <<'END'\n{said}END\n")
    command.chmod(0o755)
    result = subprocess.run(
        ["bash", "--norc", "-c", BASH, "bash", str(FOLDER / "hypernet-admin.bash"), *words],
        cwd=folder,
        env={"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    return set(result.stdout.split())


def zsh(verb: str = "") -> str:
    """Return what the completion tells zsh about the verbs, or about the arguments of one."""
    need("zsh")
    result = subprocess.run(
        ["zsh", "-f", "-c", ZSH, "zsh", str(FOLDER / "_hypernet-admin"), verb],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def options_of(verb: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    """Return the options that the command itself documents for a verb."""
    with pytest.raises(SystemExit):
        cli.parse([*verb.split(), "--help"])
    options = set(re.findall(r"^ +(?:-h, )?(--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))
    return options


def test_bash_offers_every_verb_and_nothing_else(tmp_path: Path) -> None:
    assert bash(tmp_path, "") == set(VERBS)


def test_zsh_offers_every_verb_and_nothing_else() -> None:
    assert {line.partition(":")[0] for line in zsh().splitlines()} == set(VERBS)


@pytest.mark.parametrize("verb", [*VERBS, "denied clear"])
def test_bash_offers_every_option_of_a_verb_and_no_other(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    offered = {word.partition("=")[0] for word in bash(tmp_path, *verb.split(), "--")}

    assert offered == options_of(verb, capsys)


@pytest.mark.parametrize("verb", VERBS)
def test_zsh_offers_every_option_of_a_verb_and_no_other(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    known = options_of(verb, capsys)
    if verb == "denied":
        known |= options_of("denied clear", capsys)

    assert set(re.findall(r"^(?:\([^)]*\))?(--[a-z-]+)", zsh(verb), re.MULTILINE)) == known


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("sta", "status"),
        ("--json sl", "slots"),
        ("--json=s", "--json=short"),
        ("update --slot ", "a b"),
        ("mark ", "good bad"),
        ("mark bad ", "a b booted other"),
        ("mark bad a ", ""),
        ("rollback --reason ", ""),
        ("rollback --reason mark --re", "--reason --reboot"),
        ("denied ", "clear"),
        ("approve ", ""),
    ],
    ids=str,
)
def test_bash_offers_what_may_follow(words: str, offered: str, tmp_path: Path) -> None:
    assert bash(tmp_path, *words.split(" ")) == set(offered.split())


def test_bash_offers_the_versions_that_are_denied(tmp_path: Path) -> None:
    denied = "VERSION  SINCE  REASON\n0.2.0    -      no network\n0.3.0    -      panic\n"

    assert bash(tmp_path, "denied", "clear", "", said=denied) == {"0.2.0", "0.3.0"}


def test_bash_offers_the_names_of_the_checks(tmp_path: Path) -> None:
    said = (
        "Health: degraded: Check failed: net (no answer).\n\nCHECK   KIND      RESULT  TIME   ATTEMPTS\n"
        "mounts  required  passed  0.1 s  1\nnet     wanted    failed  9.0 s  3\n"
        "\nLast output of net:\n  no\n"
    )

    assert bash(tmp_path, "health", "--run", "", said=said) == {"mounts", "net"}


@pytest.mark.parametrize("words", [["update", "--image"], ["verify"], ["info"]], ids=" ".join)
def test_bash_offers_image_files(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "new.img").touch()
    (tmp_path / "new.txt").touch()

    assert "new.img" in bash(tmp_path, *words, "new")
    assert "new.txt" not in bash(tmp_path, *words, "new")
