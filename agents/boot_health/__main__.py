# SPDX-License-Identifier: Apache-2.0
"""boot-health: hypernet-boot-health.service(8)."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path
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
    single = verbs.add_parser("run", help="run one health check again and keep its result")
    single.add_argument("name", metavar="NAME", help="the name of the check")
    verbs.add_parser("decide", help="decide about a boot that did not complete")
    verbs.add_parser("serve", help="show the report on the system bus")
    probe = verbs.add_parser("probe-http", help="ask a web server; exit status 1 for another answer")
    probe.add_argument("--ca-file", metavar="FILE", type=Path, help="authorities, instead of the system's")
    probe.add_argument("url", metavar="URL")
    probe.add_argument("status", metavar="STATUS", type=int, help="the status that it has to answer")
    options = parser.parse_args(argv)
    journal.setup(PROGRAM)
    try:
        return _run(options)
    except (Exception, KeyboardInterrupt) as error:
        return report(error, program=PROGRAM)


def _run(options: argparse.Namespace) -> int:
    # Each verb imports only what it needs: these are short-lived processes in the path of the boot.
    match options.verb:
        case "check":
            from agents.boot_health import check

            return check.run(Places())
        case "run":
            from agents.boot_health import single

            return single.run(Places(), options.name)
        case "decide":
            from agents.boot_health import decide

            return decide.run(Places())
        case "serve":
            from agents.boot_health import service

            return asyncio.run(service.serve(Places()))
        case _:
            from agents.boot_health.builtins import probe_http

            return probe_http.run(options.url, options.status, options.ca_file)
