"""HTTP range requests (RFC 9110, section 14): one range of bytes, as players and resumes ask for."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SINGLE = re.compile(r"bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*", re.ASCII)


@dataclass(frozen=True)
class ByteRange:
    """Bytes ``start`` to ``end`` (exclusive) of a file."""

    start: int
    end: int


class RangeNotSatisfiable(ValueError):
    """The range lies outside the file: answer 416."""


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """The range that a ``Range`` header asks of a file of ``size`` bytes; None means the whole file.

    A malformed header, or one with several ranges, is ignored as the RFC allows.
    Raises :class:`RangeNotSatisfiable`.
    """
    match = _SINGLE.fullmatch(header) if header else None
    if match is None:
        return None
    first, last = match.groups()
    if not first:
        if not last:
            return None
        if int(last) == 0 or size == 0:
            raise RangeNotSatisfiable
        return ByteRange(max(0, size - int(last)), size)
    start = int(first)
    end = min(size, int(last) + 1) if last else size
    if last and int(last) < start:
        return None
    if start >= size:
        raise RangeNotSatisfiable
    return ByteRange(start, end)
