# SPDX-License-Identifier: Apache-2.0
"""The command line of hypernet-admin: verbs and options in, one frozen `Options` out."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NoReturn

from agents.admin import VERSION
from common.errors import InvalidArgument

PROGRAM = "hypernet-admin"

_EPILOG = "Exit statuses, JSON output and examples: man hypernet-admin."


class Json(StrEnum):
    """How to print results: for programs on several lines, for programs on one line, or for people."""

    PRETTY = "pretty"
    SHORT = "short"
    OFF = "off"

    @property
    def enabled(self) -> bool:
        """True unless people are to read the output."""
        return self is not Json.OFF


@dataclass(frozen=True, slots=True)
class Options:
    """A checked command line. Fields that the verb does not use keep their defaults."""

    verb: str
    json: Json = Json.OFF
    image: Path = Path()
    """Absolute path of the image file to install (`update`)."""
    reason: str = ""
    """Why the administrator does it (`rollback`, `mark bad`); empty if not said."""
    reboot: bool = False
    """Reboot as soon as the rollback is recorded (`rollback`)."""
    mark: str = ""
    """"good" or "bad" (`mark`)."""
    slot: str = ""
    """"a", "b", "booted" or "other" (`mark`)."""


class _Parser(argparse.ArgumentParser):
    """An argument parser that reports a usage error as every other error: one sentence, our exit status."""

    def error(self, message: str) -> NoReturn:
        raise InvalidArgument(f"{message[:1].upper()}{message[1:]}; see '{self.prog} --help'.")


def parse(argv: Sequence[str]) -> Options:
    """Check a command line (without the program's name).

    Raises InvalidArgument with one sentence for a usage error. `--help` and `--version` print and leave by
    SystemExit(0), as argparse does.
    """
    values = vars(_parser().parse_args([_spelled_out(argument) for argument in argv]))
    options = Options(
        verb=values["verb"],
        json=Json(values.get("json", Json.OFF)),
        image=Path(values.get("image", "")).absolute(),
        reason=values.get("reason") or "",
        reboot=values.get("reboot", False),
        mark=values.get("mark", ""),
        slot=values.get("slot", ""),
    )
    if options.mark == "good" and options.reason:
        raise InvalidArgument("'mark good' takes no --reason; only a slot that is marked bad has one.")

    return options


def _spelled_out(argument: str) -> str:
    """Spell out the bare `--json`, which otherwise would take the verb behind it as its value."""
    return f"--json={Json.PRETTY}" if argument == "--json" else argument


def _parser() -> _Parser:
    # The common options are accepted before and after the verb. SUPPRESS keeps the parser of the verb from
    # overwriting with its default what stood before the verb.
    common = _Parser(add_help=False, allow_abbrev=False)
    common.add_argument(
        "--json",
        nargs="?",
        metavar="pretty|short|off",
        choices=[mode.value for mode in Json],
        default=argparse.SUPPRESS,
        help="print JSON: on several lines (--json alone), on one line, or not at all (the default)",
    )
    parser = _Parser(
        prog=PROGRAM,
        description="Show and change the A/B slots of this machine: update, roll back, judge.",
        epilog=_EPILOG,
        parents=[common],
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {VERSION}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, help_: str) -> argparse.ArgumentParser:
        return verbs.add_parser(
            name,
            help=help_,
            description=f"{help_[:1].upper()}{help_[1:]}.",
            parents=[common],
            allow_abbrev=False,
        )

    verb("status", "show both slots, which one runs, which one starts next, and the last rollback")

    update = verb("update", "install a signed image into the slot that is not running")
    update.add_argument(
        "--image", metavar="FILE", required=True, help="the image; FILE.asc and FILE.sha256 beside it"
    )

    rollback = verb("rollback", "make the other slot the default and mark the running one bad")
    rollback.add_argument(
        "--reason", metavar="TEXT", type=_reason, help="why; shown by status and kept in the record"
    )
    rollback.add_argument("--reboot", action="store_true", help="reboot at once")

    mark = verb("mark", "say that a slot is good or bad")
    mark.add_argument(
        "mark", choices=["good", "bad"], help="the verdict; a bad slot marked good gets a new trial"
    )
    mark.add_argument(
        "slot", metavar="SLOT", choices=["a", "b", "booted", "other"], help="a, b, booted or other"
    )
    mark.add_argument("--reason", metavar="TEXT", type=_reason, help="why it is bad")

    verb("health", "show the verdict on this boot and the checks behind it")
    return parser


def _reason(text: str) -> str:
    """Check the TEXT of --reason: printable, on one line, not empty, at most 200 characters."""
    if not text.strip() or not text.isprintable() or len(text) > 200:
        raise argparse.ArgumentTypeError("the reason must be one line of 1 to 200 printable characters")

    return text.strip()
