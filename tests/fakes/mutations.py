# SPDX-License-Identifier: Apache-2.0
"""What becomes of bytes in hostile hands, for hypothesis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st


@st.composite
def mutated(draw: Callable[[st.SearchStrategy[Any]], Any], original: bytes) -> bytes:
    """The bytes with a few of them changed, cut off or put in."""
    raw = bytearray(original)
    edits = st.lists(
        st.tuples(st.integers(0, len(raw)), st.integers(0, 8), st.binary(max_size=8)), min_size=1, max_size=4
    )
    for at, length, new in draw(edits):
        raw[at : at + length] = new
    return bytes(raw)
