# SPDX-License-Identifier: Apache-2.0
"""How the partitions of a release get into the target slot, and how each way proves them.

Which way is taken:

- A plain image on this machine is written as one stream, and the SHA-256 that the manifest states proves it:
  to read a block of the image costs what it costs to read one of a slot, so nothing is gained by looking for
  it there. If the target may hold parts of this very system (an install of it was begun, or it is in the
  slot already), every block there is read and proven by the hash tree first, and only what is missing is
  written.
- What has to be fetched or decompressed is planned block by block against both slots: by the block index of
  the compressed form, or else by the hash tree of the image. From the index alone the tree is made here, and
  its root hash is the proof. A static delta from the running system is taken if the source has one that is
  smaller than the whole compressed image, and the target holds nothing of the system yet; should it not lead
  to the root hash, the index mends what is wrong.
- An image without a hash tree is always one stream.
"""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from pathlib import Path

from agents.slot_manager import blockio
from agents.slot_manager.assembly import Statistics, assemble, stream
from agents.slot_manager.candidate import Candidate
from agents.slot_manager.devices import Device
from agents.slot_manager.progress import Meter
from agents.slot_manager.sources import Supply
from agents.slot_manager.topology import SlotDevices
from agents.slot_manager.wire import read_index, spool_index
from common import journal
from common.image import content
from common.image.errors import ChecksumMismatch, DownloadFailed, NotAnImage
from common.image.hashtree import Hashes, HashTree, RawTree, TreeBuilder, Unknown, open_raw
from common.image.origin import LocalOrigin, Origin, Region
from common.image.staticdelta import DeltaInvalid, StaticDelta
from common.image.verity import BLOCK_BYTES, HEAD_BYTES
from common.manifest import Part


class Writer:
    """One transfer of a release into the target slot.

    devices: of the target, for system and hash tree. running, running_root_hash: the slot that is booted.
    in_place: the target may hold parts of this system.
    """

    def __init__(
        self,
        candidate: Candidate,
        supply: Supply,
        devices: tuple[Device, Device],
        running: SlotDevices,
        running_root_hash: str,
        work: Path,
        *,
        in_place: bool,
        cancel: threading.Event,
        meter: Meter,
    ) -> None:
        self._candidate, self._supply, self._wire = candidate, supply, candidate.wire
        self._data, self._tree = devices
        self._running, self._running_root_hash = running, running_root_hash
        self._work, self._in_place = work, in_place
        self._cancel, self._meter = cancel, meter
        self._stack = ExitStack()

    def write(self) -> Statistics:
        """Write everything and prove it; returns where the blocks of the root partition came from.

        Raises ChecksumMismatch, NotAnImage, ReadBackMismatch, NoSpace, SlotBooted, DownloadFailed,
        Cancelled, AgentError. The target then holds a part of the system.
        """
        tree = self._candidate.tree
        with self._stack:
            if tree is None:
                return self._stream(self._candidate.root, self._data, self._origin(self._candidate.root))
            statistics, origin = self._system(tree)
            if not (self._in_place and self._is_there(tree)):
                self._stream(tree, self._tree, origin)
            else:
                self._meter.advance(tree.size_bytes)
            return statistics

    def _system(self, tree: Part) -> tuple[Statistics, Origin]:
        """Write the root partition; returns its statistics, and the hash tree that goes with it."""
        root, plain = self._candidate.root, self._candidate.plain
        if plain is not None and not self._in_place:
            return self._stream(root, self._data, self._origin(root)), self._origin(tree)
        if plain is not None:
            expected = self._proven_tree(plain.fd, tree.offset_bytes)
            return self._assemble(expected), self._origin(tree)
        delta = None if self._in_place else self._delta(root)
        if delta is not None:
            made = self._by_delta(delta, tree)
            if made is not None:
                return made
            self._in_place = True
            self._meter.expect_more(root.size_bytes)
        if self._wire.packed is not None:
            return self._by_index(root, tree)
        file = self._fetched_tree(tree)
        return self._assemble(self._proven_tree(file.fd, 0)), file

    def _by_delta(self, delta: StaticDelta, tree: Part) -> tuple[Statistics, Origin] | None:
        try:
            made = self._made(delta.superblock, Unknown(delta.blocks), tree, "tree-of-delta", delta)
        except (DeltaInvalid, NotAnImage) as error:
            reason = str(error)
        else:
            if made is not None:
                return made
            reason = "what it makes has another root hash than the one that was signed."
        journal.send(
            f"The static delta for {self._candidate.name} is given up, what is wrong is fetched: {reason}",
            priority=journal.WARNING,
        )
        return None

    def _by_index(self, root: Part, tree: Part) -> tuple[Statistics, Origin]:
        path = self._work / "index"
        size = spool_index(self._wire, path, cancel=self._cancel)
        index = read_index(self._open(path), size, root, name=self._candidate.name)
        made = self._made(index.superblock, index, tree, "tree")
        if made is None:
            raise ChecksumMismatch(
                f"{self._candidate.name} does not have the root hash that was signed; get it again, and if "
                "that does not help, tell the vendor."
            )
        return made

    def _made(
        self,
        superblock: bytes,
        expected: Hashes,
        tree: Part,
        file_name: str,
        recipe: StaticDelta | None = None,
    ) -> tuple[Statistics, Origin] | None:
        """Write the system, and make its hash tree on the way; None if it has another root hash."""
        path = self._work / file_name
        builder = TreeBuilder(path, expected.blocks, superblock)
        self._stack.callback(builder.close)
        statistics = self._assemble(expected, builder=builder, recipe=recipe)
        if builder.finish() != self._candidate.release.root_hash:
            return None
        return statistics, self._file(path, tree)

    def _assemble(
        self, expected: Hashes, *, builder: TreeBuilder | None = None, recipe: StaticDelta | None = None
    ) -> Statistics:
        root = self._candidate.root
        with ExitStack() as stack:
            running_tree = _raw_tree(self._running.tree, stack)
            target_tree = _raw_tree(self._tree.path, stack)
            target = stack.enter_context(self._data.lent())
            return assemble(
                target,
                root.size_bytes,
                expected,
                origin=self._origin(root),
                running=self._running.data,
                running_tree=running_tree,
                target_tree=target_tree,
                in_place=self._in_place,
                leaf=builder.put if builder else None,
                recipe=recipe,
                cancel=self._cancel,
                advance=self._meter.advance,
            )

    def _stream(self, part: Part, device: Device, origin: Origin) -> Statistics:
        with device.lent() as target:
            return stream(
                target,
                part.size_bytes,
                origin,
                sha256=part.sha256,
                cancel=self._cancel,
                advance=self._meter.advance,
            )

    def _is_there(self, tree: Part) -> bool:
        """Whether the target's hash tree is right already."""
        found = blockio.digest_from_medium(self._tree.path, tree.size_bytes, cancel=self._cancel)
        return found == tree.sha256

    def _delta(self, root: Part) -> StaticDelta | None:
        """The static delta from the running system to this one, if there is one that pays."""
        release = self._candidate.release
        name = f"hypernet-{release.version}.from-{self._running_root_hash[:16]}.delta"
        try:
            origin = self._supply.beside(name)
            if origin is None or origin.size_bytes >= self._wire.whole_cost_bytes:
                return None
            delta = StaticDelta(origin, name=name)
        except (DeltaInvalid, DownloadFailed) as error:
            journal.send(f"{name} is not used: {error}", priority=journal.WARNING)
            return None
        is_ours = (delta.old_root_hash, delta.new_root_hash) == (self._running_root_hash, release.root_hash)
        fits = bool(delta.superblock) and delta.blocks * BLOCK_BYTES <= root.size_bytes
        return delta if is_ours and fits else None

    def _fetched_tree(self, tree: Part) -> LocalOrigin:
        """The hash tree of an image that is not here, as a file; its padding is not fetched."""
        origin, name = self._origin(tree), self._candidate.name
        head, path = self._work / "tree-head", self._work / "tree"
        content.spool(Region(origin, 0, HEAD_BYTES, name), head, cancel=self._cancel)
        size = self._proven_tree(self._open(head), 0).size_bytes
        content.spool(Region(origin, 0, size, name), path, cancel=self._cancel)
        return self._file(path, tree)

    def _proven_tree(self, fd: int, offset: int) -> HashTree:
        return HashTree(fd, offset, root_hash=self._candidate.release.root_hash, name=self._candidate.name)

    def _origin(self, part: Part) -> Origin:
        return self._wire.part(part)

    def _file(self, path: Path, tree: Part) -> LocalOrigin:
        """A file with a hash tree, padded with zeros to the size of its partition."""
        os.truncate(path, tree.size_bytes)
        return LocalOrigin(self._open(path), tree.size_bytes, self._candidate.name, path)

    def _open(self, path: Path) -> int:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._stack.callback(os.close, fd)
        return fd


def _raw_tree(path: Path, stack: ExitStack) -> RawTree | None:
    tree = open_raw(path)
    if tree is not None:
        stack.callback(tree.close)
    return tree
