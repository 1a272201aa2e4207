# SPDX-License-Identifier: Apache-2.0
"""Every machine that a power cut could leave, from the recording of what was done to its disk.

What was flushed is on the disk. Of what came later, each write may be there, or be lost, or be torn between
two sectors, whatever the others are. The ESP is a FAT file system: its names are safe once the folder was
flushed, its files once they were; a renamed file may be found under either name or under both (the ESP is
mounted with dirsync, which writes the new name before it takes the old one away); what is not safe yet from
being written over is a file whose removal is not safe yet.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from agents.slot_manager.machine import Machine, View
from tests.fakes.faulty_disk import Event

DISK, ESP = "disk.img", "efi"
SECTOR = 512

Range = tuple[int, int]
_Write = tuple[int, bytes]


@dataclass(frozen=True)
class Recording:
    """What was done to a machine. regions: the bytes of the disk by what they are for; mounting: what was
    done before, and is safe; parts: what of the machine lies not on the disk; view: how it was before.
    """

    events: Sequence[Event]
    mounting: Sequence[Event]
    before: Mapping[str, bytes]
    view: View
    regions: Mapping[str, tuple[Range, ...]]
    parts: Machine

    def cuts(self, seed: int, variants: int) -> Iterator[Cut]:
        """The cut after each event: once with everything there, once with all that was not flushed lost,
        and `variants` times with some of it; `seed` makes that the same in each run. Each is valid until the
        next is taken.
        """
        replay = _Replay(self)
        for number, event in enumerate(self.events, 1):
            replay.take(event)
            for variant in range(variants + 2):
                name = f"{seed}/{number}/{variant}"
                yield replay.cut(number, name, _fate(variant, random.Random(name)))

    def strays(self, *allowed: str) -> list[Event]:
        """Changes of the disk outside the regions of these names."""
        places = [place for region in allowed for place in self.regions[region]]
        changes = [event for event in self.events if event.path == DISK and event.kind != "flush"]
        return [
            event
            for event in changes
            if not any(a <= event.offset and event.offset + len(event.data) <= b for a, b in places)
        ]


@dataclass(frozen=True)
class Cut:
    """One machine that a power cut left. after: number of events that had been sent to the disk; files: the
    ESP's by name (EFI/Linux/...).
    """

    after: int
    name: str
    files: Mapping[str, bytes]
    _disk: bytearray
    _late: Sequence[_Write]
    _stamps: Mapping[str, int]
    _regions: Mapping[str, tuple[Range, ...]]

    def read(self, region: str) -> list[bytes]:
        """The bytes of each range of a region."""
        return [self._range(*place) for place in self._regions[region]]

    def version(self, region: str) -> int:
        """Differs where the region's bytes differ, so that each content has to be examined only once."""
        late = tuple(write for write in self._late if _meets(write, self._regions[region]))
        return hash((region, self._stamps[region], late))

    def _range(self, start: int, end: int) -> bytes:
        data = self._disk[start:end]
        for offset, written in self._late:
            low, high = max(offset, start), min(offset + len(written), end)
            if low < high:
                data[low - start : high - start] = written[low - offset : high - offset]
        return bytes(data)


class _Fate:
    """What becomes of that which was not flushed: all is there."""

    def pieces(self, offset: int, data: bytes) -> list[_Write]:
        """What is left of a write."""
        return [(offset, data)]

    def name(self, choices: int) -> int:
        """Which of the outcomes of a change of names: the last is that it was done, the first that not."""
        return choices - 1


class _Lost(_Fate):
    def pieces(self, offset: int, data: bytes) -> list[_Write]:
        return []

    def name(self, choices: int) -> int:
        return 0


class _Chance(_Fate):
    def __init__(self, dice: random.Random) -> None:
        self._dice = dice

    def pieces(self, offset: int, data: bytes) -> list[_Write]:
        fate = self._dice.randrange(4)
        if fate == 0:
            return []
        if fate == 1:
            return [(offset, data)]
        sectors = range(0, len(data), SECTOR)
        if fate == 2:  # torn at one place
            end = self._dice.choice(sectors)
            return [(offset, data[:end])] if self._dice.random() < 0.5 else [(offset + end, data[end:])]
        kept = [begin for begin in sectors if self._dice.random() < 0.5]
        return [(offset + begin, data[begin : begin + SECTOR]) for begin in kept]

    def name(self, choices: int) -> int:
        return self._dice.randrange(choices)


def _fate(variant: int, dice: random.Random) -> _Fate:
    return (_Fate(), _Lost())[variant] if variant < 2 else _Chance(dice)


class _Replay:
    def __init__(self, recording: Recording) -> None:
        self._regions = recording.regions
        self._disk = bytearray(recording.before[DISK])
        self._stamps = dict.fromkeys(recording.regions, 0)
        self._late: list[_Write] = []
        self._esp = _Fat({path: data for path, data in recording.before.items() if path != DISK})
        for event in (*recording.mounting, Event("flush", DISK, 0)):
            self.take(event)

    def take(self, event: Event) -> None:
        if event.path != DISK:
            self._esp.take(event)
        elif event.kind == "flush":
            for offset, data in self._late:
                self._disk[offset : offset + len(data)] = data
            for region, places in self._regions.items():
                self._stamps[region] += any(_meets(write, places) for write in self._late)
            self._late = []
        else:
            self._late.append((event.offset, event.data))

    def cut(self, after: int, name: str, fate: _Fate) -> Cut:
        late = [piece for write in self._late for piece in fate.pieces(*write)]
        files = self._esp.files(fate)
        return Cut(after, name, files, self._disk, late, dict(self._stamps), self._regions)


class _Fat:
    """Names and files of the ESP: what is safe, and what came after that."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        # The disk numbers files from 1 on, so these numbers are free.
        self._names = {path: -number for number, path in enumerate(files)}
        self._content = {self._names[path]: bytearray(data) for path, data in files.items()}
        self._late: list[Event] = []

    def take(self, event: Event) -> None:
        if event.kind != "flush":
            self._late.append(event)
            if event.kind == "write":
                self._reuse()
            return
        safe = [late for late in self._late if _is_saved(late, event)]
        self._late = [late for late in self._late if not _is_saved(late, event)]
        _apply(safe, self._names, self._content, _Fate())

    def files(self, fate: _Fate) -> dict[str, bytes]:
        names = dict(self._names)
        content = {node: bytearray(data) for node, data in self._content.items()}
        _apply(self._late, names, content, fate)
        return {path.removeprefix(ESP + "/"): bytes(content.get(node, b"")) for path, node in names.items()}

    def _reuse(self) -> None:
        for late in self._late:
            if late.kind == "remove" and late.path in self._names:
                data = self._content[self._names[late.path]]
                data[:] = bytes(len(data))


def _apply(
    events: Iterable[Event], names: dict[str, int], content: dict[int, bytearray], fate: _Fate
) -> None:
    for event in events:
        if event.kind == "create" and fate.name(2):
            names[event.path] = event.node
        elif event.kind == "remove" and fate.name(2):
            names.pop(event.path, None)
        elif event.kind == "rename" and event.path in names:
            outcome = fate.name(3)
            if outcome:
                names[event.new] = names[event.path]
            if outcome == 2:
                del names[event.path]
        elif event.kind == "resize":
            data = content.setdefault(event.node, bytearray())
            del data[event.offset :]
        elif event.kind == "write":
            data = content.setdefault(event.node, bytearray())
            for offset, piece in fate.pieces(event.offset, event.data):
                data.extend(bytes(max(0, offset + len(piece) - len(data))))
                data[offset : offset + len(piece)] = piece


def _is_saved(event: Event, flush: Event) -> bool:
    if event.kind in ("write", "resize"):
        return event.node == flush.node
    return event.path.rpartition("/")[0] == flush.path


def _meets(write: _Write, places: Iterable[Range]) -> bool:
    offset, data = write
    return any(offset < end and offset + len(data) > start for start, end in places)
