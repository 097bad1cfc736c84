"""A set of block numbers kept as intervals: which blocks a peer says it has (HYPER-FACTS section 13)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

import numpy as np

MAX_INTERVALS = 65536
"""A peer whose blocks are more scattered than this is believed only in part; it bounds memory."""


class IntervalSet:
    """Disjoint, sorted, half-open intervals ``[start, end)`` that never touch each other."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __contains__(self, index: int) -> bool:
        at = bisect_right(self._starts, index) - 1
        return at >= 0 and index < self._ends[at]

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._starts, self._ends, strict=True)))

    def covers(self, start: int, end: int) -> bool:
        """Whether every number from ``start`` up to ``end`` is in the set."""
        at = bisect_right(self._starts, start) - 1
        return start >= end or (at >= 0 and end <= self._ends[at])

    def next(self, start: int) -> int | None:
        """The first member from ``start`` on."""
        at = bisect_right(self._starts, start) - 1
        if at >= 0 and start < self._ends[at]:
            return start
        return self._starts[at + 1] if at + 1 < len(self._starts) else None

    def add(self, start: int, end: int) -> None:
        """Add ``[start, end)``."""
        if start >= end:
            return
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        elif len(self._starts) >= MAX_INTERVALS:
            return
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def remove(self, start: int, end: int) -> None:
        """Remove ``[start, end)``."""
        if start >= end:
            return
        first = bisect_right(self._ends, start)
        last = bisect_left(self._starts, end)
        if first >= last:
            return
        starts, ends = [], []
        if self._starts[first] < start:
            starts.append(self._starts[first])
            ends.append(start)
        if self._ends[last - 1] > end and len(self._starts) < MAX_INTERVALS:
            starts.append(end)
            ends.append(self._ends[last - 1])
        self._starts[first:last] = starts
        self._ends[first:last] = ends

    def set_words(self, start: int, words: bytes) -> None:
        """Replace what is known from ``start`` on by a bitfield (lowest bit of each byte first)."""
        bits = np.unpackbits(np.frombuffer(words, np.uint8), bitorder="little").astype(np.int8)
        self.remove(start, start + len(bits))
        room = max(MAX_INTERVALS - len(self._starts), 0)
        edges = np.flatnonzero(np.diff(bits, prepend=0, append=0))[: 2 * room + 4] + start
        starts, ends = edges[0::2].tolist(), edges[1::2].tolist()
        if not starts:
            return
        at = bisect_left(self._starts, start)
        # The first and the last run may touch a neighbour; the ones between can't.
        self._starts[at:at] = starts[1:-1][:room]
        self._ends[at:at] = ends[1:-1][:room]
        self.add(starts[0], ends[0])
        self.add(starts[-1], ends[-1])
