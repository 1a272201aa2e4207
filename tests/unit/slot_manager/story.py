# SPDX-License-Identifier: Apache-2.0
"""What a story about a machine needs beside slot-manager: systemd-boot, power that fails at any write, and
one life of a machine with both.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from agents.slot_manager import attempts, blockio, candidate, efivars
from agents.slot_manager.candidate import Candidate
from agents.slot_manager.loader import TRIAL_TRIES
from agents.slot_manager.machine import Machine, View
from agents.slot_manager.medium import Medium
from agents.slot_manager.record import Store
from agents.slot_manager.sources import Supply
from agents.slot_manager.state import State
from agents.slot_manager.wire import Wire
from common import files, process
from common.errors import AgentError
from common.image import stream
from common.image.origin import LocalOrigin
from common.trust import TrustStore
from tests.fakes.slot_images import BuiltImage
from tests.fakes.slot_lab import Lab

_ENTRY = re.compile(r"hypernet_(?P<major>\d+)\.0\.0(\+(?P<left>\d+)(-(?P<done>\d+))?)?\.efi")


class PowerCut(BaseException):
    """Nothing may catch this but the story."""


@dataclass(frozen=True)
class Outage:
    """When the power fails: once `steps` durable steps are done (None: it does not), before or `after` the
    next one.
    """

    steps: int | None = None
    after: bool = False


class Power:
    """Fails at a durable step: once `remaining` of them are done, before or `after` that one, and at every
    later one until it is back.
    """

    def __init__(self) -> None:
        self.remaining: int | None = None
        self.after = False
        self.off = False

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Guard everything that is durable."""
        for owner, name in (
            (files, "write_atomic"),
            (files, "rename_durable"),
            (files, "remove_durable"),
            (stream, "write_all"),
            (blockio, "flush"),
            (Medium, "flush"),
            (efivars, "remove"),
        ):
            patch.setattr(owner, name, self._guarded(getattr(owner, name)))
        run = process.run
        changes = self._guarded(run)
        patch.setattr(
            process,
            "run",
            lambda argv, **options: (changes if argv[0] == "sfdisk" else run)(argv, **options),
        )

    def _guarded(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if self.off:
                raise PowerCut
            if self.remaining is None:
                return step(*args, **kwargs)
            self.remaining -= 1
            if self.remaining >= 0:
                return step(*args, **kwargs)
            self.off = True
            if self.after:
                step(*args, **kwargs)
            raise PowerCut

        return guarded

    @contextmanager
    def failing(self, outage: Outage) -> Iterator[None]:
        self.remaining, self.after = outage.steps, outage.after
        try:
            yield
        finally:
            self.remaining, self.off = None, False


@dataclass(frozen=True)
class Listed:
    """An entry as the loader reads it from a file name."""

    name: str
    major: int
    left: int
    done: int


class Loader:
    """systemd-boot's order and counting (src/boot/efi/boot.c), on file names alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def listed(self) -> list[Listed]:
        found = []
        for path in self.folder.iterdir():
            match = _ENTRY.fullmatch(path.name)
            if match:
                left = -1 if match["left"] is None else int(match["left"])
                found.append(Listed(path.name, int(match["major"]), left, int(match["done"] or 0)))
        # Without tries last, then the newer version, then the name, then more tries left, then fewer done.
        found.sort(key=lambda one: (one.left, -one.done), reverse=True)
        found.sort(key=lambda one: (one.left != 0, one.major), reverse=True)
        return found

    def choose(self, *, counting: bool = True) -> tuple[str, str]:
        """The entry that is started, as it was named before and after its try was taken."""
        first = self.listed()[0]
        if first.left < 0 or not counting:
            return first.name, first.name
        if first.left == 0:
            return first.name, first.name
        new = f"hypernet_{first.major}.0.0+{first.left - 1}-{first.done + 1}.efi"
        (self.folder / first.name).rename(self.folder / new)
        return first.name, new

    def exhaust(self) -> list[str]:
        """Every version that would be started, in order, if no boot ever came up; the last one stays."""
        tries = {one.major: one for one in reversed(self.listed())}
        visited: list[str] = []
        while True:
            ready = [one for one in tries.values() if one.left != 0] or list(tries.values())
            first = max(ready, key=lambda one: one.major)
            visited.append(f"{first.major}.0.0")
            if first.left <= 0:
                return visited
            tries[first.major] = replace(first, left=first.left - 1, done=first.done + 1)


class Verifications:
    """The real examination of each image once, and its result from then on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[Path, Candidate] = {}

    def install(self, patch: pytest.MonkeyPatch) -> None:
        examine_really = candidate.examine

        def examine(
            machine: Machine, view: View, supply: Supply, work: Path, store: TrustStore, **options: Any
        ) -> Candidate:
            image = supply.plain
            assert image is not None
            known = self._known.get(image.path)
            if known is None:
                known = examine_really(machine, view, supply, work, store, **options)
                kept = self._folder / f"{image.path.name}.efi"
                shutil.copy(known.content.uki, kept)
                known = replace(known, content=replace(known.content, uki=kept))
                self._known[image.path] = known
            options["judge"](known.release)
            stream.check(options["cancel"])
            options["meter"].advance(image.size_bytes)
            stream.check(options["cancel"])
            origin = LocalOrigin(image.fd, image.size_bytes, supply.name)
            return replace(known, plain=image, wire=Wire(origin))

        patch.setattr(candidate, "examine", examine)


class Life:
    """A machine that begins as a copy of `fresh` and lives until `end`."""

    def __init__(self, fresh: Lab, images: dict[str, BuiltImage], verifications: Verifications) -> None:
        self.images = images
        self._now_usec = time.time_ns() // 1000
        self._boots = 0
        self.trial_boots = 0
        """How often the trial that runs came up without a verdict since the record was damaged last."""
        self._patch = pytest.MonkeyPatch()
        self._power = Power()
        self._power.install(self._patch)
        verifications.install(self._patch)
        shutil.copytree(fresh.folder.with_name("fresh"), fresh.folder)
        store = Store(fresh.machine.store.folder, self._clock)
        self.lab = Lab(fresh.folder, replace(fresh.machine, store=store))
        self.loader = Loader(self.lab.linux)
        self.boot()

    def end(self) -> None:
        self._patch.undo()
        shutil.rmtree(self.lab.folder)

    @property
    def machine(self) -> Machine:
        return self.lab.machine

    def view(self) -> View:
        return self.machine.view()

    def _clock(self) -> int:
        self._now_usec += 1_000_000
        return self._now_usec

    def do(
        self,
        step: Callable[[], object],
        outage: Outage = Outage(),
        *,
        refused: tuple[type[AgentError], ...] = (),
    ) -> None:
        """Run a step that may be refused with these errors only; if the power fails, boot again."""
        try:
            with self._power.failing(outage), suppress(*refused):
                step()
        except PowerCut:
            self.boot()

    def boot(self, crashes: int = 0, *, counting: bool = True, early: Outage = Outage()) -> None:
        """Reboots of which the first `crashes` end before, in or after our count, then one that comes up."""
        for number in range(crashes + 2 * TRIAL_TRIES + 2):
            selected, counted = self.loader.choose(counting=counting)
            self._boots += 1
            slot = self.holder(selected.removeprefix("hypernet_")[:5])
            if not slot:  # the initrd waits for partitions that are not there, and reboots
                continue
            self.lab.boot(slot, selected=selected, counted=counted if counted != selected else "")
            self.written = self.written_at(slot)
            if number < crashes and (number + crashes) % 2:
                continue
            over = self._count(early if number < crashes else Outage())
            if number >= crashes and not over:
                return
        raise AssertionError(f"the machine does not come up any more: {self.lab.names()}")

    def _count(self, outage: Outage) -> bool:
        """hypernet-slot-manager-attempt.service; a power cut there is one more crash."""
        try:
            with self._power.failing(outage):
                over = attempts.count_attempt(self.machine, str(self._boots))
        except PowerCut:
            return False
        self.trial_boots = self.trial_boots + 1 if self.view().booted.state is State.TRYING else 0
        return over

    def holder(self, version: str) -> str:
        """The slot in which a boot of `version` finds all that it needs; empty if it would hang."""
        image = self.images[version]
        for slot in "ab":
            if self.lab.root_hash(slot) == image.root_hash:
                whole = self.lab.data(slot).startswith(image.root)
                return slot if whole and self.lab.tree(slot).startswith(image.tree) else ""
        return ""

    def written_at(self, slot: str) -> list[int]:
        """When the partitions of a slot were written last."""
        devices = self.lab.topology.slots[slot]
        return [os.stat(path).st_mtime_ns for path in (devices.data, devices.tree)]

    def copies(self) -> list[Path]:
        """Both copies of the record."""
        return [self.machine.store.folder / f"record-{number}.json" for number in (0, 1)]
