# SPDX-License-Identifier: Apache-2.0
"""Real devices and file systems for the tests of the write path, and contents for them."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common import process

MIB = 1 << 20
GIB = 1 << 30
LOOP_CONTROL = Path("/dev/loop-control")


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@contextmanager
def loop_device(backing: Path, *options: str) -> Iterator[Path]:
    if os.geteuid() or not LOOP_CONTROL.exists():
        pytest.skip("loop devices need root")
    done = process.run(["losetup", "--find", "--show", *options, str(backing)], timeout_sec=30, success=None)
    if done.returncode:
        pytest.skip(f"no loop device: {done.stderr.strip()}")
    device = done.stdout.decode().strip()
    try:
        yield Path(device)
    finally:
        process.run(["losetup", "--detach", device], timeout_sec=30)


@contextmanager
def mounted(kind: str, folder: Path, *options: str) -> Iterator[Path]:
    if os.geteuid():
        pytest.skip("mounting needs root")
    folder.mkdir()
    process.run(["mount", "-t", kind, *options, "none", str(folder)], timeout_sec=30)
    try:
        yield folder
    finally:
        process.run(["umount", str(folder)], timeout_sec=30)
