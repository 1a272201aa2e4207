# SPDX-License-Identifier: Apache-2.0
"""A file tree for the alerter, and a journal that keeps what is sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agents.alerter.places import Places
from common import alerts, files, journal

SECRET = "a secret of twenty-eight bytes"
NOW_USEC = 1_800_000_000_000_000


@dataclass
class Journal:
    """Sent messages with their fields."""

    entries: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All of it, fields included."""
        return "\n".join(f"{text} {fields}" for text, fields in self.entries)

    @property
    def ids(self) -> list[object]:
        """The MESSAGE_IDs in order, without messages that have none."""
        return [fields["message_id"] for _, fields in self.entries if fields.get("message_id")]


@dataclass
class Disk:
    """full: nothing can be written. read_only: neither can anything be removed."""

    folder: Path
    full: bool = False
    read_only: bool = False

    def check(self, path: Path) -> None:
        if (self.full or self.read_only) and path.is_relative_to(self.folder):
            raise files.FileSystemFull("Cannot write: No space left on device.")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    inbox = tmp_path / "run/alerts"
    monkeypatch.setattr(alerts, "DIRECTORY", inbox)
    (tmp_path / "state").mkdir()
    return Places(tmp_path / "alerts.yaml", inbox, tmp_path / "state", tmp_path / "run/alerter")


@pytest.fixture
def full_disk(places: Places, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """A disk that takes nothing as long as it is full."""
    disk = Disk(places.state)
    write, remove = files.write_atomic, files.remove_durable

    def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
        disk.check(path)
        write(path, data, mode=mode)

    def remove_durable(path: Path) -> None:
        if disk.read_only:
            disk.check(path)
        remove(path)

    monkeypatch.setattr(files, "write_atomic", write_atomic)
    monkeypatch.setattr(files, "remove_durable", remove_durable)
    return disk


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Journal:
    kept = Journal()
    monkeypatch.setattr(journal, "send", lambda text, **fields: kept.entries.append((text, fields)))
    return kept


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(SECRET + "\n", encoding="ascii")
    path.chmod(0o600)
    return path
