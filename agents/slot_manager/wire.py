# SPDX-License-Identifier: Apache-2.0
"""The form in which the bytes of a release come: its image, the compressed form of it, or both, whichever
takes fewer bytes.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agents.slot_manager.sources import Supply
from common.image import content
from common.image.blockindex import BlockIndex
from common.image.errors import ChecksumMismatch, NoSuchFile, misbuilt
from common.image.frames import FrameOrigin, parse_table
from common.image.origin import Fetcher, Origin, Region
from common.image.verity import BLOCK_BYTES
from common.manifest import Extent, Manifest, Part, Transport


@dataclass(frozen=True, slots=True)
class Wire:
    """origin: the image's bytes. packed: the file with its compressed form, and where its block index is."""

    origin: Origin
    packed: tuple[Origin, Extent] | None = None

    def part(self, part: Part) -> Region:
        """One partition of the image."""
        return Region(self.origin, part.offset_bytes, part.size_bytes, self.origin.name)

    @property
    def whole_cost_bytes(self) -> int:
        """What all of the image takes over the network."""
        return self.origin.cost([(0, self.origin.size_bytes)])


def choose(supply: Supply, manifest: Manifest) -> Wire:
    """What the source has of the release.

    Raises ChecksumMismatch, NotAnImage, DownloadFailed, AgentError.
    """
    forms = ((supply.compressed(manifest), manifest.transport), (supply.archive(manifest), manifest.archive))
    found = [(packed, form) for packed, form in forms if packed is not None and form is not None]
    origins: list[Origin] = [_frames(packed, form, manifest) for packed, form in found]
    raw = supply.raw(manifest)
    if raw is not None:
        origins.append(raw)
    if not origins:
        raise NoSuchFile(
            f"There is neither {manifest.image_name} nor a compressed form of it beside its manifest; "
            "publish one of them."
        )
    origin = origins[0] if len(origins) == 1 else _Cheapest(origins)
    return Wire(origin, (found[0][0], found[0][1].index) if found else None)


def _frames(packed: Origin, form: Transport, manifest: Manifest) -> FrameOrigin:
    table = packed.read(form.frames.offset_bytes, form.frames.size_bytes)
    if hashlib.sha256(table).hexdigest() != form.frames.sha256:
        raise _unlike(packed, "frame table")
    parsed = parse_table(table, image_bytes=manifest.image_bytes, transport=form, name=packed.name)
    return FrameOrigin(packed, parsed, packed.name)


def spool_index(wire: Wire, file: Path, *, cancel: threading.Event) -> int:
    """Copy the block index into the new file. Returns its size; raises ChecksumMismatch, AgentError."""
    assert wire.packed is not None
    packed, extent = wire.packed
    region = Region(packed, extent.offset_bytes, extent.size_bytes, packed.name)
    if content.spool(region, file, cancel=cancel) != extent.sha256:
        raise _unlike(packed, "block index")
    return extent.size_bytes


def read_index(fd: int, size_bytes: int, root: Part, *, name: str) -> BlockIndex:
    """The block index that is all of a file. Raises NotAnImage if it is not one of this root partition."""
    index = BlockIndex(fd, size_bytes, name=name)
    if index.blocks * BLOCK_BYTES > root.size_bytes:
        raise misbuilt(name, "its block index covers more than its root partition")
    return index


class _Cheapest:
    """Forms of one image: for each set of ranges the one that takes the fewest bytes."""

    def __init__(self, origins: Sequence[Origin]) -> None:
        self._origins = origins
        self.name, self.size_bytes = origins[0].name, origins[0].size_bytes

    @property
    def fetched_bytes(self) -> int:
        return sum(origin.fetched_bytes for origin in self._origins)

    def read(self, offset: int, length: int) -> bytes:
        return self._for([(offset, length)]).read(offset, length)

    def fetcher(self, ranges: Iterable[tuple[int, int]]) -> Fetcher:
        ranges = list(ranges)
        return self._for(ranges).fetcher(ranges)

    def cost(self, ranges: Iterable[tuple[int, int]]) -> int:
        ranges = list(ranges)
        return min(origin.cost(ranges) for origin in self._origins)

    def finish(self) -> None:
        for origin in self._origins:
            origin.finish()

    def _for(self, ranges: list[tuple[int, int]]) -> Origin:
        return min(self._origins, key=lambda origin: origin.cost(ranges))


def _unlike(packed: Origin, what: str) -> ChecksumMismatch:
    return ChecksumMismatch(
        f"{packed.name} has another {what} than its manifest says; copy or publish both again."
    )
