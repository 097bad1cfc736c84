"""Which blocks of a core are held: one bit for each (HYPER-FACTS §7, message *bitfield*; §13).

Bit ``i`` of byte ``i // 8``, lowest first, which is the order on the wire. Single bits are looked up in a
bytearray, ranges are handled by numpy.
"""

from __future__ import annotations

import numpy as np

PAGE_BITS = 4096
"""Bits of the pages in which a bitfield is stored."""

_PAGE_BYTES = PAGE_BITS // 8


class Bitfield:
    """A growing set of block numbers; ``dirty`` holds the pages changed since it was last emptied."""

    def __init__(self) -> None:
        self._bytes = bytearray(_PAGE_BYTES)
        self.dirty: set[int] = set()

    def get(self, index: int) -> bool:
        """Whether ``index`` is in the set."""
        at = index >> 3
        return 0 <= at < len(self._bytes) and bool(self._bytes[at] >> (index & 7) & 1)

    def set(self, index: int, value: bool = True) -> None:
        """Put ``index`` in, or take it out."""
        self._grow(index + 1)
        mask = 1 << (index & 7)
        if value:
            self._bytes[index >> 3] |= mask
        else:
            self._bytes[index >> 3] &= ~mask
        self.dirty.add(index // PAGE_BITS)

    def set_range(self, start: int, end: int, value: bool = True) -> None:
        """Put ``start`` to ``end`` (exclusive) in, or take them out."""
        if value:
            self._grow(end)
        end = min(end, 8 * len(self._bytes))
        if start >= end:
            return
        first, last = (start + 7) >> 3, end >> 3
        if first > last:  # inside one byte
            first = last = (start + 7) >> 3
            edges = list(range(start, end))
        else:
            edges = [*range(start, first << 3), *range(last << 3, end)]
        self._bytes[first:last] = (b"\xff" if value else b"\0") * (last - first)
        for index in edges:
            self.set(index, value)
        self.dirty.update(range(start // PAGE_BITS, (end - 1) // PAGE_BITS + 1))

    def _grow(self, bits: int) -> None:
        size = len(self._bytes)
        if bits > size * 8:
            wanted = max(2 * size, -(-bits // PAGE_BITS) * _PAGE_BYTES)
            self._bytes.extend(bytes(wanted - size))

    def _view(self, start: int, end: int) -> np.ndarray:
        """Bits of the whole bytes that cover ``start`` to ``end``, as far as they exist."""
        part = np.frombuffer(bytes(self._bytes[start >> 3 : -(-end // 8)]), np.uint8)
        return np.unpackbits(part, bitorder="little")

    def first_unset(self, start: int = 0) -> int:
        """The lowest number at or above ``start`` that is not in the set."""
        return self._first(start, b"\xff", 0)

    def first_set(self, start: int, end: int | None = None) -> int | None:
        """The lowest number in ``start`` to ``end`` (exclusive; default: no end) in the set, if any."""
        found = self._first(start, b"\0", 1)
        total = len(self._bytes) * 8
        return found if found < (total if end is None else min(end, total)) else None

    def _first(self, start: int, skip: bytes, wanted: int) -> int:
        index = start
        total = len(self._bytes) * 8
        while index < total:
            byte = self._bytes[index >> 3]
            if byte == skip[0] and not index & 7:
                index = self._skip(index >> 3, skip) << 3
            elif byte >> (index & 7) & 1 == wanted:
                return index
            else:
                index += 1
        return max(start, total)

    def _skip(self, at: int, byte: bytes) -> int:
        """The first position from ``at`` whose byte differs from ``byte``."""
        step = 4096
        while at < len(self._bytes):
            part = self._bytes[at : at + step]
            rest = part.lstrip(byte)
            if rest:
                return at + len(part) - len(rest)
            at += len(part)
        return at

    def count(self, start: int, end: int) -> int:
        """How many of ``start`` to ``end`` (exclusive) are in the set."""
        end = min(end, len(self._bytes) * 8)
        if start >= end:
            return 0
        base = start & ~7
        return int(self._view(start, end)[start - base : end - base].sum())

    def missing(self, start: int, end: int) -> np.ndarray:
        """The numbers in ``start`` to ``end`` (exclusive) that are not in the set, ascending (int64)."""
        known = min(max(end, start), len(self._bytes) * 8)
        beyond = np.arange(max(start, known), max(end, start), dtype=np.int64)
        if start >= known:
            return beyond
        base = start & ~7
        bits = self._view(start, known)[start - base : known - base]
        return np.concatenate((np.flatnonzero(bits == 0).astype(np.int64) + start, beyond))

    def words(self, start: int, length: int) -> bytes:
        """Bits ``start`` (a multiple of 32) to ``start + length``, without trailing empty words."""
        part = bytes(self._bytes[start >> 3 : (start + length + 31) // 32 * 4]).rstrip(b"\0")
        return part + bytes(-len(part) % 4)

    def page(self, number: int) -> bytes:
        """The stored form of page ``number``."""
        return bytes(self._bytes[number * _PAGE_BYTES : (number + 1) * _PAGE_BYTES])

    def load_page(self, number: int, data: bytes) -> None:
        """Put a stored page in place."""
        self._grow((number + 1) * PAGE_BITS)
        self._bytes[number * _PAGE_BYTES : number * _PAGE_BYTES + len(data)] = data
