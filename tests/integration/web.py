# SPDX-License-Identifier: Apache-2.0
"""A web server of this computer in the network of the test machine, which has nothing but its loopback."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fakes import web_server
from tests.integration.machine import Machine

TOP = Path(__file__).parents[2]
STALL = "stall"
"""While a file of this name is in the folder, no range comes that begins behind the byte whose number is in
it.
"""


@contextmanager
def serving(machine: Machine, folder: Path) -> Iterator[str]:
    """Serve the files of a folder by their names; yields the host with its port."""
    argv = ["nsenter", f"--target={machine.leader}", "--net", sys.executable, "-m", __name__, str(folder)]
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, text=True, cwd=TOP, env={**os.environ, "PYTHONPATH": str(TOP)}
    )
    with process:
        try:
            assert process.stdout is not None
            yield f"127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.terminate()


def _stall(handler: web_server.Handler, first: int, last: int) -> bool:
    folder = handler.web.folder
    assert folder is not None
    while (folder / STALL).exists() and first >= int((folder / STALL).read_text()):
        time.sleep(0.1)
    return False


def main() -> None:
    web = web_server.WebServer(folder=Path(sys.argv[1]), misbehave=_stall)
    stop = web_server.start(web)
    print(web.port, flush=True)
    try:
        time.sleep(3600)
    finally:
        stop()


if __name__ == "__main__":
    main()
