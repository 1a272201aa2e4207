# SPDX-License-Identifier: Apache-2.0
"""The form in which the bytes of a release come: its image, the compressed form of it, or both, whichever
takes fewer bytes.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from agents.slot_manager.sources import Supply
from common.image import content
from common.image.blockindex import BlockIndex
from common.image.errors import ChecksumMismatch, NoSuchFile, misbuilt
from common.image.frames import FrameOrigin, parse_table
from common.image.origin import Fetcher, Origin, Region
from common.image.verity import BLOCK_BYTES
from common.manifest import Extent, Manifest, Part


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
    packed, transport = supply.compressed(manifest), manifest.transport
    raw = supply.raw(manifest)
    if packed is None or transport is None:
        if raw is None:
            raise NoSuchFile(
                f"There is neither {manifest.image_name} nor a compressed form of it beside its manifest; "
                "publish one of them."
            )
        return Wire(raw)
    table = packed.read(transport.frames.offset_bytes, transport.frames.size_bytes)
    if hashlib.sha256(table).hexdigest() != transport.frames.sha256:
        raise _unlike(packed, "frame table")
    frames = FrameOrigin(
        packed,
        parse_table(table, image_bytes=manifest.image_bytes, transport=transport, name=packed.name),
        packed.name,
    )
    return Wire(frames if raw is None else _Cheapest(frames, raw), (packed, transport.index))


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
    """Two forms of one image: for each set of ranges the one that takes fewer bytes."""

    def __init__(self, first: Origin, second: Origin) -> None:
        self._origins = (first, second)
        self.name, self.size_bytes = first.name, first.size_bytes

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
