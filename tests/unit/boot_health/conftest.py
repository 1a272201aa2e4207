# SPDX-License-Identifier: Apache-2.0
"""A file tree for boot-health, and a journal that keeps what is sent."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agents.boot_health.places import Places
from common import journal

VENDOR = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
BOOT_ID = "0123456789abcdef0123456789abcdef"


@dataclass
class Tree:
    """The places, with short ways to fill them."""

    places: Places

    def efi(self, name: str, value: str) -> None:
        """Write an EFI variable as efivarfs shows it."""
        data = b"\x06\0\0\0" + value.encode("utf-16-le") + b"\0\0"
        (self.places.efivars / f"{name}-{VENDOR}").write_bytes(data)

    def cmdline(self, root_hash: str) -> None:
        """Boot the system with this root hash."""
        (self.places.proc / "cmdline").write_text(f"quiet roothash={root_hash}\n", encoding="ascii")

    def image(self, text: str, name: str = "10-system.yaml") -> None:
        """Write a file with checks of the image."""
        (self.places.image_config / name).write_text(text, encoding="utf-8")

    def admin(self, text: str) -> None:
        """Write the administrator's health.yaml."""
        self.places.admin_config.write_text(text, encoding="utf-8")


@dataclass
class Journal:
    """Sent messages: (MESSAGE_ID or empty, text)."""

    messages: list[tuple[str, str]] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        """The MESSAGE_IDs in order, without messages that have none."""
        return [message_id for message_id, _ in self.messages if message_id]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    for name in ("config", "image", "run", "state", "motd.d", "efivars", "proc/1", "proc/sys/kernel/random"):
        (tmp_path / name).mkdir(parents=True)
    dashed = f"{BOOT_ID[:8]}-{BOOT_ID[8:12]}-{BOOT_ID[12:16]}-{BOOT_ID[16:20]}-{BOOT_ID[20:]}"
    (tmp_path / "proc/sys/kernel/random/boot_id").write_text(dashed + "\n", encoding="ascii")
    # A PID 1 that started just now (proc_pid_stat(5), field 22), however old the process of the tests is.
    fields = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    fields[19] = str(int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")))
    (tmp_path / "proc/1/stat").write_text(f"1 (system) d) {' '.join(fields)}", encoding="ascii")
    return Tree(
        Places(
            admin_config=tmp_path / "config/health.yaml",
            image_config=tmp_path / "image",
            report=tmp_path / "run/health.json",
            history=tmp_path / "state/history.json",
            motd=tmp_path / "motd.d/hypernet",
            efivars=tmp_path / "efivars",
            proc=tmp_path / "proc",
        )
    )


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Journal:
    kept = Journal()

    def send(message: str, *, message_id: str | None = None, **fields: object) -> None:
        kept.messages.append((message_id or "", message))

    monkeypatch.setattr(journal, "send", send)
    return kept
