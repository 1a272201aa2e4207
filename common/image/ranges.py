# SPDX-License-Identifier: Apache-2.0
"""Many ranges of a file made few requests, and some requests sent ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from common.errors import InvalidArgument

AHEAD_REQUESTS: Final = 16
AHEAD_BYTES: Final = 1 << 20
"""How much may be asked for before the answers to earlier requests are read."""

_RANGES_AT_ONCE: Final = 1024

Span = tuple[int, int]
"""(start, end) in bytes; the end is not part of it."""


def grouped(
    ranges: Iterable[tuple[int, int]], gap_bytes: int, *, size_bytes: int, name: str
) -> Iterator[list[Span]]:
    """The spans that each request is for, from ranges (offset, length), ascending and apart.

    Ranges at most gap_bytes apart are one request, within reason. Raises InvalidArgument for a range that is
    not within size_bytes.
    """
    group: list[Span] = []
    end = 0
    for offset, length in ranges:
        if length <= 0 or offset < end or offset + length > size_bytes:
            raise InvalidArgument(
                f"{name} has {size_bytes} bytes, so {length} at byte {offset} cannot be read."
            )
        if group and (offset - end > gap_bytes or len(group) == _RANGES_AT_ONCE):
            yield group
            group = []
        end = offset + length
        group.append((offset, end))
    if group:
        yield group


def with_next(groups: Iterator[list[Span]]) -> Iterator[tuple[list[Span], list[Span]]]:
    """Each group, with the whole spans of some that follow it."""
    waiting = deque(islice(groups, 1))
    while waiting:
        group = waiting.popleft()
        spans = [whole(each) for each in waiting]
        ahead_bytes = sum(end - start for start, end in spans)
        while len(spans) < AHEAD_REQUESTS and ahead_bytes < AHEAD_BYTES:
            following = next(groups, None)
            if following is None:
                break
            waiting.append(following)
            spans.append(whole(following))
            ahead_bytes += spans[-1][1] - spans[-1][0]
        yield group, spans


def whole(group: list[Span]) -> Span:
    """From the first byte of a group to its last."""
    return group[0][0], group[-1][1]
