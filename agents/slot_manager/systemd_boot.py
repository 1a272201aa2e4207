# SPDX-License-Identifier: Apache-2.0
"""systemd-boot: entries are UKIs in EFI/Linux of the ESP, their counters are in the file names.

`hypernet_X.Y.Z.efi` is good, `hypernet_X.Y.Z+LEFT[-DONE].efi` is counted, LEFT 0 is bad (systemd-boot(7),
"Boot Counting"). The loader skips names that begin with a dot, so a staged UKI is
`.hypernet_X.Y.Z.efi.part`. Nothing here sets a default: order and counters alone decide.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Collection, Iterator
from pathlib import Path

from agents.slot_manager import blockio, efivars
from agents.slot_manager.errors import LoaderError, NoSpace
from agents.slot_manager.loader import UNCOUNTED, Entry, Facts
from common import files, uki
from common.errors import AgentError
from common.image import stream

IMAGE_ID = "hypernet"
MARGIN_BYTES = 256 << 10  # FAT clusters of the folder and of rounding up

_PLAIN = re.compile(r"(?P<stem>.+)\.efi", re.IGNORECASE)
_COUNTED = re.compile(r"(?P<stem>.+)\+(?P<left>\d{1,9})(-(?P<done>\d{1,9}))?\.efi", re.IGNORECASE | re.ASCII)
_STAGED = re.compile(r"\.(?P<stem>.+)\.efi\.part", re.IGNORECASE)
_OVERRIDES = ("LoaderEntryOneShot", "LoaderEntryDefault", "LoaderEntryPreferred")


def parse_name(name: str) -> tuple[str, int, int, bool] | None:
    """(stem, tries left or -1, tries done, staged) of a file name; None for what is no entry."""
    staged = _STAGED.fullmatch(name)
    if staged:
        return staged["stem"], UNCOUNTED, 0, True
    if name.startswith(".") or name.lower().startswith("auto-"):
        return None
    counted = _COUNTED.fullmatch(name)
    if counted:
        return counted["stem"], int(counted["left"]), int(counted["done"] or 0), False
    plain = _PLAIN.fullmatch(name)
    return (plain["stem"], UNCOUNTED, 0, False) if plain else None


def format_name(stem: str, left: int, done: int) -> str:
    """File name of a visible entry."""
    if left == UNCOUNTED:
        return f"{stem}.efi"
    return f"{stem}+{left}-{done}.efi" if done else f"{stem}+{left}.efi"


class SystemdBoot:
    """BootLoader for systemd-boot; `esp` is the mounted ESP, `variables` the efivarfs folder."""

    name = "systemd-boot"

    def __init__(self, esp: Path, variables: Path) -> None:
        self._esp = esp
        self._folder = esp / "EFI" / "Linux"
        self._variables = variables

    def entries(self) -> tuple[Entry, ...]:
        found = []
        for path, parsed in self._files():
            try:
                facts = uki.read(path)
            except uki.NotAUki:
                continue  # the loader skips what it cannot read, too
            if facts.image_id != IMAGE_ID:
                continue
            stem, left, done, staged = parsed
            found.append(
                Entry(
                    path.name, stem, left, done, staged, facts.root_hash, facts.image_version, facts.image_id
                )
            )
        return tuple(found)

    def facts(self) -> Facts:
        counted = efivars.read_text(self._variables, "LoaderBootCountPath")
        return Facts(
            efivars.read_text(self._variables, "LoaderInfo"),
            efivars.read_text(self._variables, "LoaderEntrySelected"),
            counted.replace("/", "\\").rpartition("\\")[2],
        )

    def room_bytes(self, keep: Collection[str]) -> int:
        try:
            free = os.statvfs(self._folder)
            gone = sum(path.stat().st_size for path in self._doomed(keep))
        except OSError as error:
            raise LoaderError(
                f"{self._folder} cannot be read: {error.strerror}; is the ESP mounted?"
            ) from error
        return max(0, free.f_bavail * free.f_frsize + gone - MARGIN_BYTES)

    def clear(self, keep: Collection[str]) -> None:
        for path in self._doomed(keep):
            files.remove_durable(path)
        self._sync()
        left = self._doomed(keep)
        if left:
            raise LoaderError(f"{left[0]} was removed but is still there; check the file system of the ESP.")

    def stage(self, uki_path: Path, version: str, sha256: str) -> None:
        part = self._part(version)
        files.remove_durable(part)
        never = threading.Event()
        try:
            source = os.open(uki_path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise LoaderError(f"{uki_path} cannot be opened: {error.strerror}.") from error
        try:
            size = os.fstat(source).st_size
            fd = self._create(part)
            try:
                for chunk in stream.chunks(source, 0, size, name=str(uki_path), cancel=never):
                    stream.write_all(fd, chunk, name=str(part))
                blockio.flush(fd, name=str(part))
            finally:
                os.close(fd)
        finally:
            os.close(source)
        self._sync()
        if blockio.digest_from_medium(part, size, cancel=never) != sha256:
            raise LoaderError(f"{part} does not read back as written; check the ESP and its disk.")

    def arm(self, version: str, tries: int) -> None:
        part = self._part(version)
        stem = f"{IMAGE_ID}_{version}"
        self._remove_twins(stem, but=part.name)
        self._rename(part.name, format_name(stem, tries, 0))

    def disarm(self, entry: Entry) -> None:
        part = self._part(entry.version)
        files.remove_durable(part)
        self._remove_twins(entry.stem, but=entry.name)
        self._rename(entry.name, part.name)

    def set_tries(self, entry: Entry, left: int, done: int = 0) -> None:
        new = format_name(entry.stem, left, done)
        self._remove_twins(entry.stem, but=entry.name)
        if new != entry.name:
            self._rename(entry.name, new)

    def clear_overrides(self) -> None:
        for variable in _OVERRIDES:
            efivars.remove(self._variables, variable)

    def _part(self, version: str) -> Path:
        return self._folder / f".{IMAGE_ID}_{version}.efi.part"

    def _create(self, path: Path) -> int:
        try:
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            kind = NoSpace if error.errno == 28 else LoaderError
            raise kind(
                f"{path} cannot be created: {error.strerror}; is the ESP mounted and writable?"
            ) from error

    def _files(self) -> Iterator[tuple[Path, tuple[str, int, int, bool]]]:
        try:
            names = sorted(os.listdir(self._folder))
        except FileNotFoundError as error:
            raise LoaderError(
                f"{self._folder} does not exist; is the ESP mounted at {self._esp}?"
            ) from error
        except OSError as error:
            raise LoaderError(f"{self._folder} cannot be read: {error.strerror}.") from error
        for name in names:
            parsed = parse_name(name)
            if parsed is not None:
                yield self._folder / name, parsed

    def _doomed(self, keep: Collection[str]) -> list[Path]:
        """Files of ours that belong to none of the root hashes in `keep`; torn ones of our name are among
        them.
        """
        doomed = []
        for path, parsed in self._files():
            try:
                facts = uki.read(path)
            except uki.NotAUki:
                if parsed[0].startswith(f"{IMAGE_ID}_"):
                    doomed.append(path)
                continue
            if facts.image_id == IMAGE_ID and facts.root_hash not in keep:
                doomed.append(path)
        return doomed

    def _remove_twins(self, stem: str, *, but: str) -> None:
        """Remove the other files of one name: systemd-bless-boot blesses nothing where a plain and a counted
        one stand side by side.

        It renames without our lock, so `but` may be gone, and what looks like its twin is all that is left.
        """
        for path, parsed in list(self._files()):
            if parsed[0].lower() == stem.lower() and path.name != but:
                if not os.path.lexists(self._folder / but):
                    raise LoaderError(f"{self._folder / but} was renamed by something else; try again.")
                files.remove_durable(path)

    def _rename(self, old: str, new: str) -> None:
        files.rename_durable(self._folder / old, self._folder / new)
        self._sync()
        names = {path.name for path, _ in self._files()}
        if new not in names or old in names:
            raise LoaderError(
                f"{self._folder / old} was renamed to {new}, but does not read back so; check the ESP."
            )
        try:
            uki.read(self._folder / new)
        except AgentError as error:
            raise LoaderError(f"The boot entry {new} is damaged after its renaming: {error}") from error

    def _sync(self) -> None:
        files.sync_directory(self._folder)
        files.sync_filesystem(self._folder)
