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

ALL_RELEASES = "all"
"""Stands for every release in `Options.release`, as it does on the bus."""

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
    check: bool = False
    """Only judge, by the exit status and one line (`status`)."""
    image: Path = Path()
    """Absolute path of an image file (`verify`, `info`)."""
    source: str = ""
    """Absolute path or URL of an image (`update`)."""
    allow_downgrade: bool = False
    dry_run: bool = False
    """Check everything, write nothing (`update`)."""
    stage_only: bool = False
    """Do not offer the new system to the boot loader yet (`update`)."""
    keys: Path | None = None
    """Folder of trusted keys instead of the machine's (`verify`)."""
    reason: str = ""
    """Why the administrator does it (`rollback`, `mark bad`); empty if not said."""
    reboot: bool = False
    """Reboot as soon as it is done (`update`, `arm`, `rollback`)."""
    mark: str = ""
    """"good" or "bad" (`mark`)."""
    slot: str = ""
    """"a", "b", "booted" or "other" (`mark`); "a", "b" or empty (`update`)."""
    watch: bool = False
    """Show every change, too (`health`)."""
    run: str = ""
    """Name of a check to be run again (`health`); empty for none."""
    release: str = ""
    """Version that may be installed again, or ALL_RELEASES; empty to list them (`denied`)."""


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
        check=values.get("check", False),
        image=values.get("image", Path()),
        source=values.get("source", ""),
        allow_downgrade=values.get("allow_downgrade", False),
        dry_run=values.get("dry_run", False),
        stage_only=values.get("stage_only", False),
        keys=values.get("keys"),
        reason=values.get("reason") or "",
        reboot=values.get("reboot", False),
        mark=values.get("mark", ""),
        slot=values.get("slot") or "",
        watch=values.get("watch", False),
        run=values.get("run") or "",
        release=ALL_RELEASES if values.get("all") else values.get("release") or "",
    )
    if options.mark == "good" and options.reason:
        raise InvalidArgument("'mark good' takes no --reason; only a slot that is marked bad has one.")
    if options.reboot and (options.dry_run or options.stage_only):
        other = "--dry-run" if options.dry_run else "--stage-only"
        raise InvalidArgument(f"--reboot makes no sense with {other}; leave one of them out.")
    if values.get("action") == "clear" and bool(values["release"]) == values["all"]:
        raise InvalidArgument("'denied clear' needs either a version or --all; see 'hypernet-admin denied'.")

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

    status = verb("status", "explain slots, releases, the next boot, the last rollback and the health")
    status.add_argument(
        "--check",
        action="store_true",
        help="one line, and exit status 20 (not healthy), 23 (reboot needed) or 24 (rolled back) if so",
    )
    verb("slots", "show one line for each slot")
    verb("log", "show the last changes of the slots and their reasons")
    health = verb("health", "show the verdict on this boot and the checks behind it")
    one = health.add_mutually_exclusive_group()
    one.add_argument("--watch", action="store_true", help="show every change, too, until Ctrl-C")
    one.add_argument("--run", metavar="NAME", type=_check, help="run this check again and show its result")
    _add_update(verb("update", "install a signed image into the slot that is not running"))
    verb("approve", "approve the staged release; it still has to be armed")
    arm = verb("arm", "let the next boot try the staged release")
    arm.add_argument("--reboot", action="store_true", help="reboot into it at once")
    verb("disarm", "keep the next boot from trying the armed release")

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

    denied = verb("denied", "list the releases that failed on this machine, or let them be installed again")
    clear = denied.add_subparsers(dest="action", metavar="clear").add_parser(
        "clear",
        description="Let a release be installed again.",
        parents=[common],
        allow_abbrev=False,
    )
    clear.add_argument("release", metavar="VERSION", nargs="?", type=_version, help="the release")
    clear.add_argument("--all", action="store_true", help="every release")

    verify = verb("verify", "check an image file with the trusted keys; needs no root and no agent")
    verify.add_argument("image", metavar="IMG", type=_image, help="the image")
    verify.add_argument(
        "--keys", metavar="DIR", type=_folder, help="folder of trusted keys instead of this machine's"
    )
    info = verb("info", "show what an image file says about itself, without checking who signed it")
    info.add_argument("image", metavar="IMG", type=_image, help="the image")
    return parser


def _add_update(update: argparse.ArgumentParser) -> None:
    update.add_argument(
        "--image",
        metavar="FILE|URL",
        dest="source",
        type=_source,
        required=True,
        help="the image; its manifest and signature (or FILE.asc and FILE.sha256) beside it",
    )
    update.add_argument("--dry-run", action="store_true", help="check everything and write nothing")
    update.add_argument(
        "--allow-downgrade", action="store_true", help="accept a version that is older than the running one"
    )
    update.add_argument("--stage-only", action="store_true", help="install, but let no boot try it yet")
    update.add_argument("--reboot", action="store_true", help="reboot as soon as it is installed")
    update.add_argument(
        "--slot", metavar="a|b", choices=["a", "b"], help="fail unless this is the slot to be written"
    )


def _source(text: str) -> str:
    """Check where an image comes from: a URL stays as it is, a path becomes absolute."""
    if text.lower().startswith(("http://", "https://")):
        return text
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"'{text}' is no address that can be used; give one of http or https"
        )
    return str(_image(text))


def _image(text: str) -> Path:
    """Check the path of an image and make it absolute: the agent has another working directory."""
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"'{text}' is a URL, but only a file can be used here: download the image with the files beside "
            "it first, then give its path"
        )
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError("the path of the image is empty")
    return Path(text).absolute()


def _folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("the path of the folder is empty")
    return Path(text).absolute()


def _version(text: str) -> str:
    """Check a VERSION; the words that the bus knows are no versions."""
    if not text.strip() or not text.isprintable() or text == ALL_RELEASES:
        raise argparse.ArgumentTypeError(f"'{text}' is not a version; for every release say --all")

    return text.strip()


def _check(text: str) -> str:
    """Check the NAME of a health check; the agent knows which there are."""
    if not text.strip() or not text.isprintable():
        raise argparse.ArgumentTypeError("the name of the check is empty or not printable")

    return text.strip()


def _reason(text: str) -> str:
    """Check the TEXT of --reason: printable, on one line, not empty, at most 200 characters."""
    if not text.strip() or not text.isprintable() or len(text) > 200:
        raise argparse.ArgumentTypeError("the reason must be one line of 1 to 200 printable characters")

    return text.strip()
