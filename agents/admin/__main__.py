# SPDX-License-Identifier: Apache-2.0
"""Start of hypernet-admin: parse, run one verb, report an error as one sentence and an exit status."""

import os
import sys
from collections.abc import Sequence

from agents.admin import cli, verbs
from common import errors


def main(argv: Sequence[str] | None = None) -> int:
    """Run hypernet-admin with `argv` (without the program's name) and return its exit status."""
    try:
        options = cli.parse(sys.argv[1:] if argv is None else argv)
        status = verbs.run(options, sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (head, less) has gone; the interpreter's flush at exit must not fail on it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, KeyboardInterrupt) as error:
        return errors.report(error, program=cli.PROGRAM)

    return status


if __name__ == "__main__":
    sys.exit(main())
