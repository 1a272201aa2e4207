# SPDX-License-Identifier: Apache-2.0
"""File descriptors in calls: they arrive, and none stays open, wanted or not."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from common import bus
from common.errors import InvalidArgument
from tests.fakes.private_bus import private_bus, private_bus_daemon, serving  # noqa: F401

NAME = "io.hypernet.Test1"
PATH = "/io/hypernet/Test1"


class Reader(bus.Interface):
    INTERFACE = NAME

    @bus.method("Read", "shh", "s")
    def read(self, word: str, first: int, second: int) -> str:
        return word + "".join(os.pread(fd, 100, 0).decode() for fd in (first, second))

    @bus.method("Refuse", "h", "")
    def refuse(self, fd: int) -> None:
        raise InvalidArgument("No.")

    @bus.method("Plain", "s", "")
    def plain(self, text: str) -> None:
        pass


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.usefixtures("private_bus")
def test_descriptors_arrive_in_order_and_are_closed_after_the_call(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("one", "two")]
    for path in paths:
        path.write_text(path.name)

    async def story() -> None:
        async with (
            serving(NAME, lambda service: service.export(PATH, Reader()), descriptors=True),
            bus.connect(descriptors=True) as client,
        ):
            with open(paths[0]) as one, open(paths[1]) as two:
                before = _open_files()
                for _ in range(5):
                    args = ("<", two.fileno(), one.fileno())
                    assert await client.call(NAME, PATH, NAME, "Read", "shh", *args) == ("<twoone",)
                assert _open_files() == before

    asyncio.run(asyncio.wait_for(story(), 20))


@pytest.mark.usefixtures("private_bus")
@pytest.mark.parametrize(
    ("member", "signature", "path"),
    [("Refuse", "h", PATH), ("Nothing", "h", PATH), ("Plain", "h", PATH), ("Read", "h", "/nowhere")],
)
def test_descriptors_that_nobody_wants_are_closed(
    tmp_path: Path, member: str, signature: str, path: str
) -> None:
    async def call(client: bus.Client, fd: int) -> Any:
        return await client.call(NAME, path, NAME, member, signature, fd)

    async def story() -> None:
        async with (
            serving(NAME, lambda service: service.export(PATH, Reader()), descriptors=True),
            bus.connect(descriptors=True) as client,
        ):
            with open(tmp_path / "file", "w") as file:
                before = _open_files()
                for _ in range(5):
                    with pytest.raises(bus.RemoteError):
                        await call(client, file.fileno())
                assert _open_files() == before

    asyncio.run(asyncio.wait_for(story(), 20))
