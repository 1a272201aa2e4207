# SPDX-License-Identifier: Apache-2.0
"""Installing on a running system from a path, from a server and from open files, and after a kill."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common import manifest
from tests.integration import web
from tests.integration.machine import Machine
from tests.integration.server import NAME, PATH, Server
from tests.integration.slots import Release, ReleaseMaker, SlotDisk

UNIT = "hypernet-slot-manager.service"
# Runs on the machine; prints the path of the job.
_INSTALL_FILES = """
import asyncio, sys
sys.path.insert(0, "/usr/lib/hypernet")
from common import bus

async def main(name, path, *files):
    descriptors = [open(file, "rb") for file in files]
    async with bus.connect(descriptors=True) as client:
        numbers = [file.fileno() for file in descriptors]
        (job,) = await client.call(name, path, name, "InstallFile", "hhha{sv}", *numbers, {})
    print(job)

asyncio.run(main(*sys.argv[1:]))
"""
MANIFEST_ONLY = (".img", ".manifest.json", ".manifest.json.asc")


@pytest.fixture(scope="module")
def server(machine: Machine, slot_disk: SlotDisk, releases: ReleaseMaker) -> Server:
    server = Server(machine, slot_disk, releases)
    assert server.switch_on() == "a"
    return server


@pytest.fixture
def folder(server: Server, releases: ReleaseMaker, tmp_path: Path) -> Path:
    """What the web server has: version 0.2.0."""
    releases.get("0.2.0").offer(tmp_path, MANIFEST_ONLY)
    return tmp_path


@pytest.fixture
def address(server: Server, folder: Path) -> Iterator[str]:
    """URL of 0.2.0, on a server that the machine may ask."""
    with web.serving(server.machine, folder) as host:
        (server.machine.config / "hypernet/updates.yaml").write_text(f'hosts: ["{host}"]\n')
        yield f"http://{host}/hypernet-0.2.0.img"


def assert_installed(server: Server, release: Release) -> None:
    slot = server.slot("b")
    assert (slot["state"], slot["version"], slot["root_hash"]) == (
        "armed",
        release.version,
        release.root_hash,
    )
    root = (server.machine.config / "b.data").read_bytes()
    assert root in release.image.read_bytes()


def statistics(server: Server, job: str) -> dict[str, int]:
    names = ("BytesCopied", "BytesSkipped", "BytesZero", "BytesFetched")
    return {name: int(server.property(name, job, f"{NAME}.Job")) for name in names}


def entry(server: Server, message_id: str) -> dict[str, Any]:
    """The last journal entry with this id."""
    said = server.machine.output("journalctl", f"MESSAGE_ID={message_id}", "--output=json", "--lines=1")
    found: dict[str, Any] = json.loads(said)
    return found


def test_an_image_is_installed_from_a_path(server: Server, releases: ReleaseMaker) -> None:
    release = releases.get("0.2.0")
    path = server.offer(release)

    said = server.machine.output("busctl", "call", NAME, PATH, NAME, "Install", "sa{sv}", path, "0")

    job = said.split('"')[1]
    server.wait_for(job, "done")
    assert_installed(server, release)
    assert statistics(server, job)["BytesFetched"] > 0


def test_an_image_in_a_home_that_only_its_user_can_enter_is_installed(
    server: Server, releases: ReleaseMaker
) -> None:
    home = server.machine.root / "root/images"
    home.mkdir(mode=0o700, exist_ok=True)
    releases.get("0.3.0").offer(home, MANIFEST_ONLY)

    server.admin("update", "--image=/root/images/hypernet-0.3.0.img")

    assert_installed(server, releases.get("0.3.0"))


def test_open_files_are_installed_without_a_path(server: Server, releases: ReleaseMaker) -> None:
    release = releases.get("0.2.0")
    release.offer(server.machine.config, MANIFEST_ONLY)
    stem = "/config/hypernet-0.2.0"
    files = [f"{stem}{suffix}" for suffix in MANIFEST_ONLY]

    job = server.machine.output("/usr/bin/python3", "-Ic", _INSTALL_FILES, NAME, PATH, *files)

    server.wait_for(job, "done")
    assert_installed(server, release)
    assert server.property("Source", job, f"{NAME}.Job") == f"{stem}.img"


def test_a_release_is_installed_from_a_server(server: Server, address: str, releases: ReleaseMaker) -> None:
    server.update("0.3.0")

    values = server.admin("update", f"--image={address}")

    assert_installed(server, releases.get("0.2.0"))
    assert 0 < values["bytes_fetched"] < values["bytes_total"]
    told = entry(server, "e30345ad16224652993bb12eff7d3a3d")
    assert told["BYTES_FETCHED"] == str(values["bytes_fetched"])
    parts = [int(told[f"BYTES_{name}"]) for name in ("TOTAL", "COPIED", "SKIPPED", "ZERO")]
    assert 0 < parts[0] - sum(parts[1:]) < parts[0]


def test_a_server_that_nobody_listed_is_not_asked(server: Server, address: str) -> None:
    (server.machine.config / "hypernet/updates.yaml").write_text("channel: stable\n")

    result = server.machine.run("hypernet-admin", "update", f"--image={address}")

    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "/config/hypernet/updates.yaml" in result.stderr


def test_an_install_that_was_killed_goes_on_with_the_next_call(
    server: Server, address: str, folder: Path, releases: ReleaseMaker
) -> None:
    server.update("0.3.0")
    stated = manifest.parse((folder / "hypernet-0.2.0.manifest.json").read_bytes(), name="0.2.0")
    (folder / web.STALL).write_text(str(stated.part("root").offset_bytes))
    said = server.machine.output("busctl", "call", NAME, PATH, NAME, "Install", "sa{sv}", address, "0")
    job = said.split('"')[1]
    deadline = time.monotonic() + 60
    while server.property("Stage", job, f"{NAME}.Job") != "write":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    server.machine.output("systemctl", "kill", "--signal=KILL", UNIT)
    (folder / web.STALL).unlink()
    assert server.slot("b")["state"] == "empty"
    assert "interrupted" in server.slot("b")["reason"]

    values = server.admin("update", f"--image={address}")

    assert_installed(server, releases.get("0.2.0"))
    assert values["bytes_skipped"] > 0


def test_the_service_stays_small_while_it_installs(server: Server, address: str) -> None:
    server.update("0.3.0")
    server.admin("update", f"--image={address}")
    process = server.machine.output("systemctl", "show", "--value", "--property=MainPID", UNIT)
    status = server.machine.output("cat", f"/proc/{process}/status")
    (peak_kib,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    assert peak_kib < 64 << 10
