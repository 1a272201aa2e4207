# SPDX-License-Identifier: Apache-2.0
"""boot-health: hypernet-boot-health.service(8)."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from typing import Final

from agents.boot_health.places import Places
from common import journal
from common.errors import report

PROGRAM: Final = "hypernet-boot-health"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="boot-health",
        description="Decides whether this boot is good. See hypernet-boot-health.service(8).",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("check", help="run the health checks and report the verdict")
    verbs.add_parser("decide", help="decide about a boot that did not complete")
    verbs.add_parser("serve", help="show the report on the system bus")
    verbs.add_parser("failed-units", help="print failed units; exit status 1 if there are any")
    verb = parser.parse_args(argv).verb
    journal.setup(PROGRAM)
    try:
        return _run(verb)
    except (Exception, KeyboardInterrupt) as error:
        return report(error, program=PROGRAM)


def _run(verb: str) -> int:
    # Each verb imports only what it needs: these are short-lived processes in the path of the boot.
    match verb:
        case "check":
            from agents.boot_health import check

            return check.run(Places())
        case "decide":
            from agents.boot_health import decide

            return decide.run(Places())
        case "serve":
            from agents.boot_health import service

            return asyncio.run(service.serve(Places()))
        case _:
            from agents.boot_health import failed_units

            return failed_units.run()
