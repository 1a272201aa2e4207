# SPDX-License-Identifier: Apache-2.0
"""Which form of a release is fetched."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable

import pytest

from agents.slot_manager import wire
from agents.slot_manager.sources import Supply
from common import manifest
from common.image.errors import NoSuchFile
from common.image.origin import LocalOrigin, Origin
from common.manifest import Manifest, Transport
from tests.fakes import compressed, manifest_sample
from tests.fakes.compressed import Compressed

BLOCK = 4096
CONTENT = random.Random(1).randbytes(64 << 10) * 8
FINE = compressed.compress(CONTENT, [BLOCK] * (len(CONTENT) // BLOCK))
ARCHIVE = compressed.compress(CONTENT, [len(CONTENT)])
MANIFEST = dataclasses.replace(
    manifest.parse(manifest_sample.text(manifest_sample.GOOD), name=manifest_sample.NAME),
    image_bytes=len(CONTENT),
    transport=FINE.transport,
    archive=ARCHIVE.transport,
)


class Priced(LocalOrigin):
    """A file that costs what is read of it."""

    def cost(self, ranges: Iterable[tuple[int, int]]) -> int:
        return sum(length for _, length in ranges)


class Files(Supply):
    """What a server has."""

    name, statement = "x", None

    def __init__(self, *, fine: bool = True, archive: bool = True, raw: bool = True) -> None:
        self._has = {"fine": fine, "archive": archive, "raw": raw}

    def compressed(self, manifest: Manifest) -> Origin | None:
        return _origin("fine", FINE.raw) if self._has["fine"] else None

    def archive(self, manifest: Manifest) -> Origin | None:
        return _origin("archive", ARCHIVE.raw) if self._has["archive"] else None

    def raw(self, manifest: Manifest) -> Origin | None:
        return _origin("raw", CONTENT) if self._has["raw"] else None


def _origin(name: str, data: bytes) -> Origin:
    return Priced(compressed.memory_file(data), len(data), name)


def _frames_bytes(form: Compressed) -> int:
    transport: Transport = form.transport
    return transport.index.offset_bytes - 8


def test_of_little_the_small_frames_are_fetched() -> None:
    chosen = wire.choose(Files(raw=False), MANIFEST)

    assert chosen.origin.cost([(0, BLOCK)]) < 2 * BLOCK
    assert chosen.origin.read(BLOCK, BLOCK) == CONTENT[BLOCK : 2 * BLOCK]


def test_of_all_the_archive_is_fetched() -> None:
    chosen = wire.choose(Files(), MANIFEST)

    assert chosen.whole_cost_bytes == _frames_bytes(ARCHIVE) < _frames_bytes(FINE)
    assert chosen.origin.read(0, len(CONTENT)) == CONTENT


def test_the_index_comes_from_the_archive_if_there_is_nothing_else() -> None:
    chosen = wire.choose(Files(fine=False, raw=False), MANIFEST)

    assert chosen.packed is not None
    assert chosen.packed[1] == ARCHIVE.transport.index


def test_a_server_that_has_nothing_is_an_error() -> None:
    with pytest.raises(NoSuchFile, match="nor a compressed form of it"):
        wire.choose(Files(fine=False, archive=False, raw=False), MANIFEST)
