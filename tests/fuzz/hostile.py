# SPDX-License-Identifier: Apache-2.0
"""The one property of all readers of outside input, and how cases are made and counted.

A reader returns, or raises an AgentError of one printable sentence; in bounded time, in bounded memory.
Cases are valid samples that were damaged where it hurts: the extremes of integers at places that are known,
bits, pieces cut out, moved or doubled, and the checksums mended again so that the damage gets through.
"""

from __future__ import annotations

import resource
import signal
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from hypothesis import HealthCheck, Verbosity, given, settings
from hypothesis import strategies as st

from common.errors import AgentError

CORPUS: Final = Path(__file__).parent / "corpus"
FOUND: Final = Path(__file__).parents[2] / "build/fuzz"
"""Where a case that fails is left; a fixed one moves to the corpus."""

CASE_SEC: Final = 15.0
MEMORY_BYTES: Final = 256 << 20
MAX_SENTENCE_CHARS: Final = 3000

CASES: Final[Mapping[str, int]] = {
    "gpt": 1500,
    "manifest": 1500,
    "status": 1200,
    "openpgp": 900,
    "key-set": 400,
    "signature": 120,
    "hash-tree": 800,
    "block-index": 400,
    "frame-table": 700,
    "frames": 300,
    "static-delta": 500,
    "http": 600,
    "uki": 700,
    "erofs": 700,
    "ext4": 500,
    "squashfs": 500,
    "sidecar": 400,
    "fat": 300,
    "install": 40,
}
"""Made-up cases a run, by area; those that are kept in the corpus come on top."""

_WIDTHS: Final = (7, 8, 15, 16, 20, 31, 32, 40, 48, 53, 63, 64)
_EXTREMES: Final = (0, 1, 2, *((1 << bits) + near for bits in _WIDTHS for near in (-1, 0)))
_FORMS: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}


class Hang(BaseException):
    """A case took longer than CASE_SEC."""


@dataclass(frozen=True)
class Sample:
    """A valid input; `fields` are (offset, bytes) of its numbers, little-endian.

    hot: (begin, end) of what is worth damaging; by default all. mend: makes checksums right again.
    """

    data: bytes
    fields: Sequence[tuple[int, int]] = ()
    hot: Sequence[tuple[int, int]] = ()
    mend: Callable[[bytearray], None] | None = None


def survives(read: Callable[[], object]) -> AgentError | None:
    """Demand the property of one call; the error that it ended with, if it did."""
    with _bounds():
        try:
            read()
        except AgentError as error:
            refusal = error
        else:
            return None
    sentence = str(refusal)
    assert sentence.isprintable(), f"not printable: {sentence!r}"
    assert sentence.endswith((".", "?")), f"no sentence: {sentence!r}"
    assert len(sentence) <= MAX_SENTENCE_CHARS, f"endless: {sentence!r}"
    return refusal


def kept(area: str) -> Iterator[bytes]:
    """The corpus of an area: the shortest case for each answer that was seen, named by its SHA-256, and what
    was too much once, named by what that was.
    """
    for path in sorted((CORPUS / area).glob("*")):
        yield path.read_bytes()


def explore(area: str, cases: st.SearchStrategy[bytes], judge: Callable[[bytes], None]) -> None:
    """Have `judge` look at the corpus, then at CASES[area] new cases or more."""
    count = 0

    def look(case: bytes) -> None:
        try:
            judge(case)
        except BaseException as error:
            FOUND.mkdir(parents=True, exist_ok=True)
            (FOUND / area).write_bytes(case)  # the last one is hypothesis' smallest
            error.add_note(f"The case is in {FOUND / area}; once it is fixed, keep it in {CORPUS / area}.")
            raise

    @settings(
        max_examples=CASES[area],
        deadline=None,
        database=None,
        verbosity=Verbosity.quiet,  # a case is in a file, not in the report
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def run(case: bytes) -> None:
        nonlocal count
        count += 1
        look(case)

    for case in kept(area):
        look(case)
    run()
    assert count >= CASES[area], f"{area}: only {count} of {CASES[area]} cases"


@st.composite
def damaged(draw: st.DrawFn, samples: Sequence[Sample]) -> bytes:
    """One of the samples, damaged in one to five ways."""
    sample = samples[draw(st.integers(0, len(samples) - 1))]
    data = bytearray(sample.data)
    for _ in range(draw(st.integers(1, 5))):
        _damage(draw, sample, data)
    if sample.mend is not None and draw(st.integers(0, 3)):
        sample.mend(data)
    return bytes(data)


def _damage(draw: st.DrawFn, sample: Sample, data: bytearray) -> None:
    kind = draw(st.integers(0, 11))
    if kind < 5 and sample.fields:
        offset, width = sample.fields[draw(st.integers(0, len(sample.fields) - 1))]
        if offset + width <= len(data):
            _number(draw, data, offset, width)
        return
    begin = _place(draw, sample, len(data))
    if kind < 5:
        data[begin : begin + 1] = bytes([draw(st.integers(0, 255))])
    elif kind < 7:
        if begin < len(data):
            data[begin] ^= 1 << draw(st.integers(0, 7))
    elif kind == 7:
        width = draw(st.sampled_from((1, 2, 4, 8)))
        if begin + width <= len(data):
            _number(draw, data, begin, width)
    elif kind == 8:
        del data[begin:]
    else:
        size = draw(st.sampled_from((1, 4, 32, 128, 512, 4096)))
        other = _place(draw, sample, len(data))
        if kind == 9:  # moved over another piece; the length stays
            piece = data[begin : begin + size][: len(data) - other]
            data[other : other + len(piece)] = piece
        elif kind == 10:  # doubled
            data[other:other] = data[begin : begin + size]
        else:
            fill = draw(st.sampled_from((b"\0", b"\xff", b"A")))
            data[begin : begin + size] = fill * len(data[begin : begin + size])


def _place(draw: st.DrawFn, sample: Sample, size: int) -> int:
    begin, end = 0, size
    if sample.hot:
        begin, end = sample.hot[draw(st.integers(0, len(sample.hot) - 1))]
    return min(draw(st.integers(begin, max(begin, end - 1))), size)


def _number(draw: st.DrawFn, data: bytearray, offset: int, width: int) -> None:
    """An extreme, a neighbour of what is there, or of one of its multiples."""
    form = "<" + _FORMS[width]
    mask = (1 << 8 * width) - 1
    (old,) = struct.unpack_from(form, data, offset)
    new = draw(st.sampled_from(_EXTREMES))
    if not draw(st.booleans()):
        new = old * draw(st.sampled_from((0, 1, 1, 2, 4096))) + draw(st.integers(-2, 2))
    struct.pack_into(form, data, offset, new & mask)


@contextmanager
def _bounds() -> Iterator[None]:
    """Limits of time and memory for this process and those that it starts."""
    before = signal.signal(signal.SIGALRM, _hang)
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY_BYTES, hard))
    signal.setitimer(signal.ITIMER_REAL, CASE_SEC)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        signal.signal(signal.SIGALRM, before)


def _hang(number: int, frame: FrameType | None) -> None:
    raise Hang(f"not done after {CASE_SEC:g} s")
