# SPDX-License-Identifier: Apache-2.0
"""Start: `slot-manager` serves the bus; `slot-manager attempt` counts this boot if it is one of a trial;
`slot-manager refund` takes that back at a shutdown; `slot-manager bless` records that this boot is good.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from agents.slot_manager import machine
from common import errors, journal

PROGRAM = "slot-manager"
LOCK_WAIT_SEC = 900.0
ATTEMPT_WAIT_SEC = 20.0
REFUND_WAIT_SEC = 5.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description="Owns the A/B slots of this machine.")
    parser.add_argument(
        "command", nargs="?", choices=("serve", "attempt", "refund", "bless"), default="serve"
    )
    command = parser.parse_args(argv).command
    journal.setup(f"hypernet-{PROGRAM}")
    try:
        return {"serve": _serve, "attempt": _attempt, "refund": _refund, "bless": _bless}[command]()
    except Exception as error:
        return errors.report(error, program=PROGRAM)


# Each command imports what it needs: the bus takes longer to import than a oneshot to run.
def _serve() -> int:
    import asyncio

    from agents.slot_manager import service

    return asyncio.run(service.serve(machine.this_machine))


def _attempt() -> int:
    from agents.slot_manager import attempts
    from common import process

    found = machine.this_machine()
    with found.lock(wait_sec=ATTEMPT_WAIT_SEC):
        over = attempts.count_attempt(found, attempts.boot_id())
    if over:
        # Not over the system bus, which is not up this early: systemctl speaks to systemd directly.
        process.run(
            ["systemctl", "--no-block", "--job-mode=replace-irreversibly", "start", "reboot.target"],
            timeout_sec=30,
        )
    return 0


def _refund() -> int:
    from agents.slot_manager import attempts, refund

    if refund.is_shutting_down() and refund.is_undecided():
        found = machine.this_machine()
        with found.lock(wait_sec=REFUND_WAIT_SEC):
            refund.refund(found, attempts.boot_id())
    return 0


def _bless() -> int:
    from agents.slot_manager import lifecycle, tell

    found = machine.this_machine()
    try:
        with found.lock(wait_sec=LOCK_WAIT_SEC):
            lifecycle.bless(found)
    except Exception as error:
        tell.not_blessed(error)
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
