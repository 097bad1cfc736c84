"""Which blocks of a core are held: one bit for each (HYPER-FACTS §7, message *bitfield*; §13).

Bit ``i`` of byte ``i // 8``, lowest first, which is the order on the wire. Bits are kept by the page, as one
integer each, and only pages that have ever held a block: who has one block of a tree says nothing by its
number about the memory that this takes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort

PAGE_BITS = 4096
"""Bits of the pages in which a bitfield is stored."""
MAX_LENGTH = PAGE_BITS << 32
"""Blocks of the longest core that can be held: in a store, four bytes hold a page's number."""

_PAGE_BYTES = PAGE_BITS // 8
_FULL = (1 << PAGE_BITS) - 1


class Bitfield:
    """A set of block numbers; ``dirty`` holds the pages changed since it was last emptied."""

    def __init__(self) -> None:
        self._pages: dict[int, int] = {}
        self._numbers: list[int] = []
        """Those of the pages, ascending."""
        self.dirty: set[int] = set()

    def get(self, index: int) -> bool:
        """Whether ``index`` is in the set."""
        return bool(self._pages.get(index // PAGE_BITS, 0) >> index % PAGE_BITS & 1)

    def set(self, index: int, value: bool = True) -> None:
        """Put ``index`` in, or take it out."""
        self._change(index // PAGE_BITS, 1 << index % PAGE_BITS, value)

    def set_range(self, start: int, end: int, value: bool = True) -> None:
        """Put ``start`` to ``end`` (exclusive) in, or take them out."""
        if start >= end:
            return
        numbers = range(start // PAGE_BITS, (end - 1) // PAGE_BITS + 1)
        for number in numbers if value else self._between(start, end):
            self._change(number, _mask(number, start, end), value)

    def _change(self, number: int, mask: int, value: bool) -> None:
        page = self._pages.get(number, 0)
        self._put(number, page | mask if value else page & ~mask)
        self.dirty.add(number)

    def _put(self, number: int, page: int) -> None:
        if number not in self._pages:
            insort(self._numbers, number)
        self._pages[number] = page

    def _between(self, start: int, end: int) -> list[int]:
        """The numbers of the pages that ``start`` to ``end`` (exclusive) lie in, as far as there are any."""
        first, last = start // PAGE_BITS, (end - 1) // PAGE_BITS
        return self._numbers[bisect_left(self._numbers, first) : bisect_right(self._numbers, last)]

    def first_unset(self, start: int = 0) -> int:
        """The lowest number at or above ``start`` that is not in the set."""
        number, at = divmod(start, PAGE_BITS)
        while page := self._pages.get(number):
            if unset := (page ^ _FULL) >> at:
                return number * PAGE_BITS + at + _lowest(unset)
            number, at = number + 1, 0
        return number * PAGE_BITS + at

    def first_set(self, start: int, end: int | None = None) -> int | None:
        """The lowest number in ``start`` to ``end`` (exclusive; default: no end) in the set, if any."""
        for at in range(bisect_left(self._numbers, start // PAGE_BITS), len(self._numbers)):
            number = self._numbers[at]
            first = max(start, number * PAGE_BITS)
            if end is not None and first >= end:
                return None
            if found := self._pages[number] >> first - number * PAGE_BITS:
                index = first + _lowest(found)
                return index if end is None or index < end else None
        return None

    def count(self, start: int, end: int) -> int:
        """How many of ``start`` to ``end`` (exclusive) are in the set."""
        if start >= end:
            return 0
        pages = ((number, self._pages[number]) for number in self._between(start, end))
        return sum((page & _mask(number, start, end)).bit_count() for number, page in pages)

    def words(self, start: int, length: int) -> bytes:
        """Bits ``start`` (a multiple of 32) to ``start + length``, without trailing empty words."""
        first, last = start // PAGE_BITS, (start + length - 1) // PAGE_BITS
        pages = b"".join(map(self.page, range(first, last + 1)))
        at = start % PAGE_BITS // 8
        part = pages[at : at + (length + 31) // 32 * 4].rstrip(b"\0")
        return part + bytes(-len(part) % 4)

    def page(self, number: int) -> bytes:
        """The stored form of page ``number``."""
        return self._pages.get(number, 0).to_bytes(_PAGE_BYTES, "little")

    def load_page(self, number: int, data: bytes) -> None:
        """Put a stored page in place."""
        self._put(number, int.from_bytes(data[:_PAGE_BYTES], "little"))


def _mask(number: int, start: int, end: int) -> int:
    """The bits of page ``number`` that stand for ``start`` to ``end`` (exclusive)."""
    first, last = max(start - number * PAGE_BITS, 0), min(end - number * PAGE_BITS, PAGE_BITS)
    return (1 << last) - (1 << first)


def _lowest(bits: int) -> int:
    """The position of the lowest bit that is set."""
    return (bits & -bits).bit_length() - 1
