# SPDX-License-Identifier: Apache-2.0
"""What the slot manager's service takes: memory while it installs, nothing when idle, time to answer.

    python3 -m tests.bench.idle [--size-mib 1024] [--rounds 50]

The real service process on a bus of its own, beside RAUC's in the same run; needs root and
packaging/install-tools --bench.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from agents.slot_manager.properties import NAME
from agents.slot_manager.service import JOB_IDLE_EXIT_SEC, PATH
from common import bus
from tests.bench.contestants import Rauc
from tests.bench.peers import machine_text
from tests.bench.scene import Place, Release, make_release, place
from tests.bench.write_path import FOLDERS, TOP
from tests.fakes import systemd
from tests.fakes.private_bus import start_private_bus
from tests.fakes.slot_service import finished

PEAK_MIB = 64
ROUND_TRIP = 1.5
START_SEC = 30.0
RAUC = ("de.pengutronix.rauc", "/", "de.pengutronix.rauc.Installer")
_SERVICE = """
import asyncio, sys
from pathlib import Path
from agents.slot_manager import service
from tests.bench.scene import Place
sys.exit(asyncio.run(service.serve(Place(Path(sys.argv[1]), *sys.argv[2:4]).machine)))
"""


class Service:
    """The service as a process. Raises AssertionError if it does not start."""

    def __init__(self, machine: Place) -> None:
        argv = [sys.executable, "-c", _SERVICE, str(machine.folder), machine.data, machine.tree]
        env = {**os.environ, "PYTHONPATH": f"{TOP}{os.pathsep}{TOP / 'packaging'}"}
        self.process = subprocess.Popen(argv, cwd=TOP, env=env, stderr=subprocess.DEVNULL)

    def memory_mib(self, key: str) -> float:
        """VmHWM (peak) or VmRSS of the process."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith(f"{key}:"))) / 1024


@contextmanager
def running(machine: Place) -> Iterator[Service]:
    service = Service(machine)
    try:
        yield service
    finally:
        service.process.kill()
        service.process.wait()


async def owned(client: bus.Client) -> None:
    """Wait until the service has its name."""
    deadline = time.monotonic() + START_SEC
    while True:
        (there,) = await client.call(
            "org.freedesktop.DBus", "/", "org.freedesktop.DBus", "NameHasOwner", "s", NAME
        )
        if there:
            return
        assert time.monotonic() < deadline, "the slot manager did not start"
        await asyncio.sleep(0.02)


async def observe(machine: Place, release: Release, rauc: Rauc, rounds: int) -> None:
    own, theirs, commands = [], [], []
    with running(machine) as service:
        async with systemd.systemd(systemd.Manager()), bus.connect() as client:
            await owned(client)
            calm = service.memory_mib("VmRSS")
            async with rauc_client(rauc) as other:
                for _ in range(rounds):
                    own.append(await timed(client.get_all(NAME, PATH, NAME)))
                    theirs.append(await timed(other.call(*RAUC, "GetSlotStatus")))
                    commands.append(rauc.status())
            begin = time.perf_counter()
            _, result = await finished(client, release.image)
            took = time.perf_counter() - begin
            assert result[0] == "done", result
            peak = service.memory_mib("VmHWM")
        begin = time.perf_counter()
        status = await asyncio.to_thread(service.process.wait, JOB_IDLE_EXIT_SEC + START_SEC)
        assert status == 0, f"the service ended with status {status}"
        gone = time.perf_counter() - begin
    answer, their_answer, command = map(statistics.median, (own, theirs, commands))
    print("\n| the service | found | wanted | |\n|---|---|---|---|")
    row("peak memory of an install", f"{peak:.1f} MiB in {took:.2f} s", f"< {PEAK_MIB} MiB", peak < PEAK_MIB)
    row("memory after its start", f"{calm:.1f} MiB", "", None)
    row("memory when idle", f"0: exits after {gone:.0f} s", f"{JOB_IDLE_EXIT_SEC:.0f} s", True)
    text = f"{answer * 1000:.2f} ms, {answer / command:.2f} of 'rauc status' ({command * 1000:.1f} ms)"
    row("D-Bus GetAll", text, f"< {ROUND_TRIP}", answer < ROUND_TRIP * command)
    row("RAUC's GetSlotStatus, same client", f"{their_answer * 1000:.2f} ms", "", None)


async def timed(question: Awaitable[object]) -> float:
    begin = time.perf_counter()
    await question
    return time.perf_counter() - begin


@asynccontextmanager
async def rauc_client(rauc: Rauc) -> AsyncIterator[bus.Client]:
    """A client on RAUC's bus."""
    ours = os.environ["DBUS_SYSTEM_BUS_ADDRESS"]
    os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = rauc.address
    try:
        async with bus.connect() as client:
            os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = ours
            yield client
    finally:
        os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = ours


def row(what: str, found: str, wanted: str, met: bool | None) -> None:
    print(f"| {what} | {found} | {wanted} | {'' if met is None else 'met' if met else 'missed'} |")


def main() -> int:
    parser = argparse.ArgumentParser(description="Memory and answers of the slot manager's service.")
    parser.add_argument("--size-mib", type=int, default=1024, help="of the root partition, a multiple of 32")
    parser.add_argument("--rounds", type=int, default=50, help="of questions to each service")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=FOLDERS["tmpfs"])))
        release = make_release(folder, options.size_mib)
        machine = stack.enter_context(place("tmpfs", release))
        (folder / "rauc").mkdir()
        rauc = stack.enter_context(Rauc(folder / "rauc", release, machine))
        daemon = stack.enter_context(start_private_bus())
        os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = daemon.address
        print(f"{options.size_mib} MiB; {machine_text()}.")
        asyncio.run(observe(machine, release, rauc, options.rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
