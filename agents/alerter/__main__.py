# SPDX-License-Identifier: Apache-2.0
"""alerter: hypernet-alerter.service(8)."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Final

from common import journal
from common.errors import report

PROGRAM: Final = "hypernet-alerter"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="alerter", description="Tells people what went wrong. See hypernet-alerter.service(8)."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("deliver", help="send the alerts that were raised, and those that wait for another try")
    failed = verbs.add_parser("unit-failed", help="raise the alert for a failed unit")
    failed.add_argument("unit", help="its full name; 'test' raises a test alert")
    verbs.add_parser("test", help="raise a test alert")
    arguments = parser.parse_args(argv)
    journal.setup(PROGRAM)
    try:
        return _run(arguments)
    except (Exception, KeyboardInterrupt) as error:
        return report(error, program=PROGRAM)


def _run(arguments: argparse.Namespace) -> int:
    # Each verb imports only what it needs: a failed unit costs one short process.
    if arguments.verb == "deliver":
        from agents.alerter import deliver
        from agents.alerter.places import Places

        return deliver.run(Places())
    from agents.alerter import unit_failed

    if arguments.verb == "test":
        return unit_failed.run_test()
    return unit_failed.run(arguments.unit, os.environ)
