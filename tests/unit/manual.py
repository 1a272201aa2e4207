# SPDX-License-Identifier: Apache-2.0
"""Examples in the manual pages, as an administrator would copy them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

PAGES = Path(__file__).parents[2] / "packaging/man"

_BLOCK = re.compile(r"^\.(?:EX|nf)\n(.*?)^\.(?:EE|fi)$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"^# (/\S+)\n", re.MULTILINE)


def examples(page: str, name: str) -> list[str]:
    """Return the examples of the file `name` in a page.

    A block shows several files if a comment with its path stands before each. In the page about `name`, a
    block of the section EXAMPLE without such comments is that file.
    """
    return [text for found, text in _files(page) if Path(found).name == name]


def _files(page: str) -> Iterator[tuple[str, str]]:
    for section in re.split(r"^\.SH ", (PAGES / page).read_text(encoding="utf-8"), flags=re.MULTILINE):
        own = page.rpartition(".")[0] if section.startswith("EXAMPLE") else ""
        for block in _BLOCK.findall(section):
            first, *rest = _FILE.split(_plain(block))
            yield own, first
            yield from zip(rest[::2], rest[1::2], strict=True)


def _plain(block: str) -> str:
    """Undo the escapes of roff that examples need."""
    return re.sub(r"\\(.)", lambda found: {"-": "-", "e": "\\"}[found[1]], block)
