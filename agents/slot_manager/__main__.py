# SPDX-License-Identifier: Apache-2.0
"""Start: `slot-manager` serves the bus, `slot-manager bless` records that this boot is good."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from agents.slot_manager import lifecycle, machine, service
from common import errors, journal

PROGRAM = "slot-manager"
BLESS_WAIT_SEC = 900.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description="Owns the A/B slots of this machine.")
    parser.add_argument("command", nargs="?", choices=("serve", "bless"), default="serve")
    arguments = parser.parse_args(argv)
    journal.setup(f"hypernet-{PROGRAM}")
    try:
        if arguments.command == "bless":
            return _bless()
        return asyncio.run(service.serve(machine.this_machine))
    except Exception as error:
        return errors.report(error, program=PROGRAM)


def _bless() -> int:
    found = machine.this_machine()
    with found.lock(wait_sec=BLESS_WAIT_SEC):
        lifecycle.bless(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
