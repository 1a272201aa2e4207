# SPDX-License-Identifier: Apache-2.0
"""Whole installs of images that were damaged, most of them signed again by a trusted key as if the vendor's
builder had gone mad: whatever comes of it, nothing but the target slot is touched.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from agents.slot_manager import install
from agents.slot_manager.state import State
from common import gpt, manifest
from common.errors import AgentError
from tests.fakes import slot_images, slot_lab
from tests.fakes.slot_images import ESP_MIB, MIB, ROOT_MIB, TREE_MIB, BuiltImage, Key, copy_image
from tests.fakes.slot_lab import Lab
from tests.fuzz.hostile import explore, survives
from tests.fuzz.packed import pack

ESP, ROOT = MIB, (1 + ESP_MIB) * MIB
TREE = ROOT + ROOT_MIB * MIB
WHOLE_BYTES = TREE + (TREE_MIB + 1) * MIB
TABLES_BYTES = 34 * 512

# Where an image tells a machine what to do: tables, boot partition, superblocks of root and tree, hashes.
PLACES = (
    (512, 92),
    (1024, 384),
    (1024, 384),
    (ESP, 96),
    (ESP + 2048, 512),
    (ROOT, 4096),
    (TREE, 512),
    (TREE + 4096, 8192),
)
MODES = ("sealed", "vouched", "vouched", "packed", "as it was")
MEMBERS = (
    "image.size",
    "image.name",
    "root_hash",
    "uki.size",
    "uki.sha256",
    "version",
    "key_epoch",
    "channel",
)
VALUES = st.sampled_from(
    [0, 1, 4096, (1 << 53) - 1, "", "x", "../x", "0" * 64, "2.0.1", "1.0.0", "dev", None]
)


@st.composite
def recipes(draw: st.DrawFn) -> bytes:
    """How to damage an image, as JSON; see `Recipe`."""
    patches = []
    for _ in range(draw(st.integers(0, 4))):
        begin, size = draw(st.sampled_from(PLACES))
        data = draw(st.binary(min_size=1, max_size=8))
        patches.append([begin + draw(st.integers(0, size - 1)), data.hex()])
    members = {}
    for _ in range(draw(st.integers(0, 2))):
        part, member = draw(st.integers(0, 2)), draw(st.sampled_from(("offset", "size", "sha256", "role")))
        members[draw(st.sampled_from((*MEMBERS, f"partitions.{part}.{member}")))] = draw(VALUES)
    cut = draw(st.sampled_from([0] * 12 + [1, 4096, 5 * MIB]))
    mode = draw(st.sampled_from(MODES))
    return json.dumps({"mode": mode, "patches": patches, "members": members, "cut": cut}).encode()


@dataclass(frozen=True)
class Recipe:
    """patches: (offset, bytes in hex) over the image. cut: bytes missing at its end. mode: signed anew as a
    whole ("sealed") or by a manifest with `members` changed ("vouched"), or with what was beside the good
    one; "packed": the compressed form of the good image, damaged after it was signed.
    """

    mode: str
    patches: list[tuple[int, str]]
    members: dict[str, Any]
    cut: int

    def apply(self, image: BuiltImage, key: Key) -> Path:
        """Damage the image and sign it; returns the file to install."""
        path = image.path
        if self.mode == "packed":
            packed, transport = pack(image)
            slot_images.vouch(image, key, transport=transport)
            path.unlink()
            path = path.with_name(transport.name)
            path.write_bytes(self._damaged(packed))
            return path
        raw = self._damaged(image.path.read_bytes())
        _mend(raw)
        path.write_bytes(raw)
        if self.mode == "sealed":
            slot_images.seal(image, key)
        elif self.mode == "vouched":
            self._vouch(image, key)
        return path

    def _damaged(self, good: bytes) -> bytearray:
        raw = bytearray(good)
        for offset, text in self.patches:
            data = bytes.fromhex(text)
            offset %= len(raw)
            raw[offset : offset + len(data)] = data
        del raw[len(raw) - self.cut :]
        return raw

    def _vouch(self, image: BuiltImage, key: Key) -> None:
        path = image.beside(".manifest.json")
        fields = json.loads(manifest.render(slot_images.describe(image)))
        for member, value in self.members.items():
            place: Any = fields
            *parents, last = member.split(".")
            for step in parents:
                place = place[int(step)] if isinstance(place, list) else place[step]
            place[last] = value
        path.write_text(json.dumps(fields))
        key.sign(path)


def _mend(raw: bytearray) -> None:
    """Make the checksums of the partition table right, as far as it is where it was."""
    for header, entries in ((512, 1024), (WHOLE_BYTES - 512, WHOLE_BYTES - 33 * 512)):
        if header + 92 > len(raw):
            continue
        struct.pack_into("<I", raw, header + 88, binascii.crc32(raw[entries : entries + 128 * 128]))
        raw[header + 16 : header + 20] = bytes(4)
        struct.pack_into("<I", raw, header + 16, binascii.crc32(raw[header : header + 92]))


class Guard:
    """A machine, what it was like, and that it still is."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._files = {path: path.read_bytes() for path in lab.folder.rglob("*") if path.is_file()}

    def restore(self) -> None:
        for path in self.lab.folder.rglob("*"):
            if path.is_file() and path not in self._files:
                path.unlink()
        for path, content in self._files.items():
            if not path.exists() or path.read_bytes() != content:
                path.write_bytes(content)

    def check(self, refusal: AgentError | None) -> None:
        """Everything but the other slot, its identity, its boot entry and the record is as it was."""
        lab = self.lab
        target = lab.topology.slots["b"]
        owned = {target.data, target.tree, lab.topology.disk}
        spared = (lab.machine.store.folder, lab.machine.cache, lab.topology.efivars)
        for path, content in self._files.items():
            if path not in owned and not any(folder in path.parents for folder in spared):
                assert path.read_bytes() == content, f"{path} was changed"
        new = {path for path in lab.folder.rglob("*") if path.is_file()} - set(self._files)
        left = [path for path in new if not any(folder in path.parents for folder in spared)]
        assert all(path.parent == lab.linux and path.name.startswith("hypernet_2.0.0") for path in left), (
            left
        )
        assert not any(lab.machine.cache in path.parents for path in new), new
        self._check_disk()
        view = lab.machine.view()
        assert view.booted.state is State.GOOD
        if refusal is not None:
            assert view.slots["b"].state is State.EMPTY
            assert view.booted.default
            assert not left
        else:
            assert view.slots["b"].state is State.ARMED
            assert view.slots["b"].root_hash == lab.root_hash("b")

    def _check_disk(self) -> None:
        """The table differs in the two identities of slot b, and the disk nowhere else."""
        before, after = self._files[self.lab.topology.disk], self.lab.topology.disk.read_bytes()
        assert before[TABLES_BYTES:-TABLES_BYTES] == after[TABLES_BYTES:-TABLES_BYTES]
        tables = []
        for content in (before, after):
            with (self.lab.folder / "table").open("wb+") as file:
                file.write(content)
                file.flush()
                tables.append(gpt.read(file.fileno(), name="disk"))
            (self.lab.folder / "table").unlink()
        for old, new in zip(tables[0].partitions, tables[1].partitions, strict=True):
            if not old.label.startswith("system_b"):
                assert old == new
            assert (old.offset_bytes, old.size_bytes, old.label) == (
                new.offset_bytes,
                new.size_bytes,
                new.label,
            )


def test_a_damaged_image_touches_nothing_but_the_target_slot(
    images: dict[str, BuiltImage], key: Key, tmp_path: Path
) -> None:
    lab = slot_lab.make_lab(tmp_path / "lab", images["1.0.0"], key)
    lab.machine.view()
    guard = Guard(lab)
    seen: set[bool] = set()

    def judge(case: bytes) -> None:
        folder = tmp_path / "image"
        image = copy_image(images["2.0.0"], folder)
        path = Recipe(**json.loads(case)).apply(image, key)
        beside = {path: hashlib.sha256(path.read_bytes()).digest() for path in folder.iterdir()}
        try:
            refusal = survives(lambda: install.install(lab.machine, str(path)))
            guard.check(refusal)
            seen.add(refusal is None)
            assert {path: hashlib.sha256(path.read_bytes()).digest() for path in folder.iterdir()} == beside
        finally:
            guard.restore()
            for path in folder.iterdir():
                path.unlink()

    explore("install", recipes(), judge)
    assert seen == {False, True}
