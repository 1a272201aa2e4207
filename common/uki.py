# SPDX-License-Identifier: Apache-2.0
"""Bounded reader of unified kernel images: which root hash and which version does a UKI start?

A UKI is a PE binary whose sections carry kernel, initrd, command line and os-release (UAPI.5). Only the
small text sections are read, and nothing in them is trusted beyond its length.
"""

from __future__ import annotations

import os
import re
import struct
import uuid
from dataclasses import dataclass
from pathlib import Path

from common.errors import AgentError

MAX_SECTIONS = 96
MAX_TEXT_BYTES = 64 << 10

ROOT_NAMES = ("root", "roothash", "hypernet.rootsha256")
"""Kernel arguments by which the root file system is found."""

_ROOT_HASH = re.compile(r"[0-9a-f]{64}")
_VERITY, _PLAIN = "roothash=", "hypernet.rootsha256="


class NotAUki(AgentError):
    """The file is not a unified kernel image, or not one that can be read."""


@dataclass(frozen=True, slots=True)
class Uki:
    """What the text sections of a UKI say; missing facts are empty strings.

    `root_hash` is 64 hex digits, from exactly one `roothash=` or `hypernet.rootsha256=` on the command line,
    else empty. `verity`: whether it came from the former.
    """

    sections: tuple[str, ...]
    cmdline: str
    root_hash: str
    image_id: str
    image_version: str
    verity: bool


def root_arguments(root_hash: str, *, verity: bool) -> tuple[str, ...]:
    """The kernel arguments for a root file system with a hash tree, or with `verity` false for one without.

    root_hash: 64 hex digits, of the tree or else the SHA-256 of the partition. Without a tree the kernel has
    to be told the partition, whose UUID is the first half of that.
    """
    if verity:
        return (f"{_VERITY}{root_hash}",)
    return f"root=PARTUUID={uuid.UUID(root_hash[:32])}", f"{_PLAIN}{root_hash}"


def read(path: Path) -> Uki:
    """Facts of the UKI at `path` (not followed if it is a symbolic link). Raises NotAUki."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise NotAUki(f"{path} cannot be opened: {error}.") from error
    try:
        return read_fd(fd, name=str(path))
    finally:
        os.close(fd)


def read_fd(fd: int, *, name: str) -> Uki:
    """Facts of the UKI behind `fd`; `name` is used in errors. Raises NotAUki."""
    sections = _sections(fd, name)
    texts: dict[str, str] = {}
    for wanted in (".cmdline", ".osrel"):
        matches = [place for section, place in sections if section == wanted]
        if len(matches) != 1:
            raise NotAUki(
                f"{name} is not a UKI: it has {len(matches)} sections {wanted} where one is needed."
            )
        offset, size = matches[0]
        if size > MAX_TEXT_BYTES:
            raise NotAUki(
                f"{name}: section {wanted} has {size} bytes, at most {MAX_TEXT_BYTES} are allowed."
            )
        raw = _pread(fd, size, offset, name)
        texts[wanted] = raw.split(b"\0", 1)[0].decode("utf-8", errors="replace")
    cmdline = texts[".cmdline"].strip()
    named = [word for word in cmdline.split() if word.startswith((_VERITY, _PLAIN))]
    _, _, root_hash = named[0].partition("=") if len(named) == 1 else ("", "", "")
    release = _os_release(texts[".osrel"])
    return Uki(
        tuple(section for section, _ in sections),
        cmdline,
        root_hash if _ROOT_HASH.fullmatch(root_hash) else "",
        release.get("IMAGE_ID", ""),
        release.get("IMAGE_VERSION", ""),
        any(word.startswith(_VERITY) for word in named),
    )


def _sections(fd: int, name: str) -> list[tuple[str, tuple[int, int]]]:
    """(name, (file offset, bytes)) for each section. Layout: Microsoft PE format, "Section Table"."""
    dos = _pread(fd, 64, 0, name)
    if dos[:2] != b"MZ":
        raise NotAUki(f"{name} is not a UKI: it does not begin as a PE program.")
    (pe_offset,) = struct.unpack_from("<I", dos, 60)
    pe = _pread(fd, 24, pe_offset, name)
    if pe[:4] != b"PE\0\0":
        raise NotAUki(f"{name} is not a UKI: its PE header is missing.")
    count, optional_size = struct.unpack_from("<H12xH", pe, 6)
    if not 0 < count <= MAX_SECTIONS:
        raise NotAUki(
            f"{name} is not a UKI: it claims {count} sections, at most {MAX_SECTIONS} are allowed."
        )
    table = _pread(fd, 40 * count, pe_offset + 24 + optional_size, name)
    found: list[tuple[str, tuple[int, int]]] = []
    for index in range(count):
        raw_name, virtual_size, _, raw_size, offset = struct.unpack_from("<8sIIII", table, 40 * index)
        section = raw_name.rstrip(b"\0").decode("ascii", errors="replace")
        found.append((section, (offset, min(virtual_size, raw_size))))
    return found


def _pread(fd: int, size: int, offset: int, name: str) -> bytes:
    try:
        raw = os.pread(fd, size, offset)
    except OSError as error:
        raise NotAUki(f"{name} cannot be read: {error.strerror}.") from error
    if len(raw) != size:
        raise NotAUki(f"{name} is not a whole UKI: it ends before byte {offset + size}.")
    return raw


def _os_release(text: str) -> dict[str, str]:
    """KEY=VALUE lines of os-release(5), quotes taken off."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, value = line.strip().partition("=")
        if not separator or key.startswith("#"):
            continue
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        values[key] = value
    return values
