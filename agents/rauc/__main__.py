# SPDX-License-Identifier: Apache-2.0
"""Start: serve de.pengutronix.rauc on the system bus. hypernet-rauc.service(8)."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from agents.rauc import service
from common import errors, journal

PROGRAM = "rauc"


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until stopped; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Offers RAUC's D-Bus interface for the A/B slots. See hypernet-rauc.service(8).",
    )
    parser.parse_args(argv)
    journal.setup(f"hypernet-{PROGRAM}")
    try:
        return asyncio.run(service.serve())
    except (Exception, KeyboardInterrupt) as error:
        return errors.report(error, program=f"hypernet-{PROGRAM}")


if __name__ == "__main__":
    sys.exit(main())
