# SPDX-License-Identifier: Apache-2.0
"""What a static delta has to hold: which blocks are copied, which are new, and which old blocks help to
compress the new ones.

New blocks are compressed file by file, with the old version of the same file as dictionary: the file of the
same path, or else of the same path but for its numbers (a kernel's modules move with each release), or else
the one of the same name whose size is nearest. A file without an old version has others of its folder. What
belongs to no file, as metadata, has the old blocks about the same place.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from common.image.staticdelta import MAX_DICTIONARY_BLOCKS, MAX_FRAME_BLOCKS, NEW_DATA, ZEROS
from common.image.verity import BLOCK_BYTES
from hypernet_release.listing import Run

ZERO_HASH: Final = sha256(bytes(BLOCK_BYTES)).digest()

FRAME_BLOCKS: Final = 512
"""New data of small files is put together up to this: files that are compressed together share what their
head would cost each of them.
"""

ABSORBED_BLOCKS: Final = 2
"""So few unchanged blocks within a file are compressed with what is around them; a step costs more."""

RELATIVE_BLOCKS: Final = 512
RELATIVE_TIMES: Final = 8
"""Old files in the same folder that are the dictionary of a file that is new: at most so many blocks, and so
many times its own.
"""

NEAR_GAPS: Final = 3
NEAR_BLOCKS: Final = 256
"""On each side: what belongs to no file has so many old pieces of its kind as dictionary, or if these are
large, so many blocks.
"""

_NUMBER = re.compile(r"[0-9]+")


@dataclass(slots=True)
class Frame:
    """Runs of new blocks, in order, and the runs of old blocks that are their dictionary."""

    new: list[Run] = field(default_factory=list)
    dictionary: list[Run] = field(default_factory=list)

    @property
    def blocks(self) -> int:
        return sum(run.count for run in self.new)


def sources(old: Sequence[bytes], new: Sequence[bytes], files: Sequence[Run]) -> list[int]:
    """For each block of the new system: the old block that it is, ZEROS or NEW_DATA.

    old, new: hashes of the blocks. files: of the new system, ascending.
    """
    places: dict[bytes, int] = {}
    for number, digest in enumerate(old):
        places.setdefault(digest, number)
    found = []
    last = -2
    for digest in new:
        if digest == ZERO_HASH:
            source = ZEROS
        elif 0 < last + 1 < len(old) and old[last + 1] == digest:
            source = last + 1  # goes on where the block before was
        else:
            source = places.get(digest, NEW_DATA)
        last = source if source < NEW_DATA else -2
        found.append(source)
    for file in files:
        _absorb(found, file)
    return found


def _absorb(found: list[int], file: Run) -> None:
    """Make unchanged blocks of a file new if they are few, and changed ones are on both sides."""
    last = -1
    for block in range(file.first, file.end):
        if found[block] == NEW_DATA:
            if 0 <= last < block - 1 and block - last - 1 <= ABSORBED_BLOCKS:
                found[last + 1 : block] = [NEW_DATA] * (block - last - 1)
            last = block


def steps(found: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(count, source) as a delta has them."""
    begin = 0
    for at in range(1, len(found) + 1):
        source = found[begin]
        follows = source if source >= NEW_DATA else source + at - begin
        if at == len(found) or found[at] != follows or (found[at] >= NEW_DATA) != (source >= NEW_DATA):
            yield at - begin, source
            begin = at


def frames(found: Sequence[int], old: Sequence[Run], new: Sequence[Run], old_blocks: int) -> list[Frame]:
    """All new data in order, with its dictionaries.

    found: as `sources` gives it. old, new: the files of both systems, ascending and apart, or none.
    """
    matcher = _Matcher(old, old_blocks)
    done = [Frame()]
    for piece in _pieces(found, new, matcher):
        last = done[-1]
        dictionary = _union([*last.dictionary, *piece.dictionary])
        if last.new and (
            last.blocks + piece.blocks > FRAME_BLOCKS
            or sum(run.count for run in dictionary) > MAX_DICTIONARY_BLOCKS
        ):
            done.append(piece)
        else:
            last.new += piece.new
            last.dictionary = dictionary
    return [frame for frame in done if frame.new]


def _pieces(found: Sequence[int], new: Sequence[Run], matcher: _Matcher) -> Iterator[Frame]:
    """The new data of each file, and of each gap between files."""
    regions = sorted([*new, *_gaps(new, len(found))], key=lambda run: run.first)
    copied = -1  # the last block that was copied
    for number, region in enumerate(regions):
        runs = []
        block = region.first
        for count, source in steps(found[region.first : region.end]):
            if source == NEW_DATA:
                runs.append(Run(block, count))
            block += count
            if source < NEW_DATA:
                copied = source + count - 1
        if not runs:
            continue
        similar = matcher.similar(region) if region.path else []
        most = MAX_FRAME_BLOCKS if similar else FRAME_BLOCKS
        for part in _parts(runs, most):
            middle = (part[0].first + part[-1].end) // 2 - region.first
            if similar:
                window = _window(similar, middle / region.count)
            elif region.path:
                window = []
            else:
                after = regions[number + 1] if number + 1 < len(regions) else None
                window = matcher.around(after, copied + 1 if copied >= 0 else region.first + middle)
            yield Frame(part, _union(window))


def _parts(runs: Iterable[Run], most: int) -> Iterator[list[Run]]:
    """The runs, cut into about equal parts of at most so many blocks."""
    total = sum(run.count for run in runs)
    size = -(-total // -(-total // most))
    part: list[Run] = []
    room = size
    for run in runs:
        while run.count:
            some = min(room, run.count)
            part.append(Run(run.first, some))
            run = Run(run.first + some, run.count - some)
            room -= some
            if not room:
                yield part
                part, room = [], size
    if part:
        yield part


def _window(similar: Sequence[Run], place: float) -> list[Run]:
    """As much of the old files as a dictionary may have, around the place (0 to 1) in the first one."""
    first, room = similar[0], MAX_DICTIONARY_BLOCKS
    if first.count > room:
        begin = first.first + int(first.count * place) - room // 2
        return [Run(min(max(begin, first.first), first.end - room), room)]
    return list(similar)


class _Matcher:
    """Finds the old blocks that resemble new ones."""

    def __init__(self, files: Sequence[Run], old_blocks: int) -> None:
        self._blocks = old_blocks
        self._gaps = _gaps(files, old_blocks)
        self._begins = [gap.first for gap in self._gaps]
        self._by_path = {run.path: run for run in files}
        self._by_shape = {_shape(run.path): run for run in files}
        self._by_name: dict[str, list[Run]] = defaultdict(list)
        self._by_kind: dict[tuple[str, str], list[Run]] = defaultdict(list)
        for run in files:
            self._by_name[_name(run.path)].append(run)
            self._by_kind[_kind(run.path)].append(run)

    def similar(self, file: Run) -> list[Run]:
        """The old version of a file, or if there is none, some like it; the first is the best."""
        version = self.version(file)
        if version is not None:
            return [version]
        found = []
        room = min(RELATIVE_BLOCKS, RELATIVE_TIMES * file.count)
        for run in sorted(self._by_kind[_kind(file.path)], key=lambda run: _distance(run, file)):
            if run.count <= room:
                found.append(run)
                room -= run.count
        return found

    def version(self, file: Run) -> Run | None:
        found = self._by_path.get(file.path) or self._by_shape.get(_shape(file.path))
        if found is None:
            named = self._by_name.get(_name(file.path), [])
            found = min(named, key=lambda run: _distance(run, file), default=None)
        return found

    def around(self, after: Run | None, place: int) -> list[Run]:
        """Old blocks that belong to no file, near the old version of the file that comes `after` or else
        near an old block.
        """
        version = self.version(after) if after is not None else None
        if version is not None:
            place = version.first
        at = bisect_right(self._begins, place)
        near = self._gaps[max(0, at - NEAR_GAPS) : at + NEAR_GAPS]
        low, high = max(0, place - NEAR_BLOCKS), place + NEAR_BLOCKS
        clipped = [(max(gap.first, low), min(gap.end, high)) for gap in near if gap.count > NEAR_BLOCKS]
        whole = [gap for gap in near if gap.count <= NEAR_BLOCKS]
        return whole + [Run(begin, end - begin) for begin, end in clipped if begin < end]


def _shape(path: str) -> str:
    return _NUMBER.sub("0", path)


def _name(path: str) -> str:
    return _shape(path.rstrip("/").rpartition("/")[2])


def _kind(path: str) -> tuple[str, str]:
    """Folder, and the last part of the name that begins with a letter."""
    folder, _, name = path.rpartition("/")
    endings = [part for part in name.split(".")[1:] if part[:1].isalpha()]
    return folder, endings[-1] if endings else ""


def _distance(run: Run, file: Run) -> tuple[int, int]:
    return abs(run.count - file.count), run.first


def _gaps(files: Sequence[Run], blocks: int) -> list[Run]:
    """What lies between the files."""
    found = []
    end = 0
    for file in (*files, Run(blocks, 0)):
        if file.first > end:
            found.append(Run(end, file.first - end))
        end = file.end
    return found


def _union(runs: Iterable[Run]) -> list[Run]:
    """The same blocks as ascending runs without overlaps."""
    merged: list[Run] = []
    for run in sorted(runs, key=lambda run: run.first):
        if merged and run.first <= merged[-1].end:
            merged[-1] = Run(merged[-1].first, max(merged[-1].end, run.end) - merged[-1].first)
        else:
            merged.append(Run(run.first, run.count))
    return merged
