"""Link protocol 3 (tor-spec 3): circuit ids of two bytes, and so fixed cells of 512.

Every relay of today speaks 4 or 5; 3 is offered because C tor offers it, and whoever does not stands out. The
rest of pelure knows wide cells only: here narrow ones are widened as they come and narrowed as they leave.
"""

from __future__ import annotations

from pelure.tor.cell.commands import CELL_LEN, is_variable
from pelure.tor.cell.framing import Cell, CellReader, Cells, Run

NARROW_CELL_LEN = CELL_LEN - 2
VARIABLE_HEADER = 5
HIGH_BIT = 0x8000  # of a circuit id: which side may choose it


class NarrowReader:
    """A :class:`~pelure.tor.cell.framing.CellReader` for links of protocol 3."""

    def __init__(self, rest: bytes = b"") -> None:
        """``rest``: what came behind VERSIONS."""
        self._rest = rest
        self._wide = CellReader()

    def feed(self, data: bytes | memoryview) -> list[Cell | Run]:
        """Take the next bytes of the link; returns the complete cells in order."""
        buffer = b"".join((self._rest, data))
        pieces: list[bytes] = []
        position = 0
        while (end := _cell_end(buffer, position)) <= len(buffer):
            pieces += (b"\0\0", buffer[position:end])
            position = end
        self._rest = buffer[position:]
        return self._wide.feed(b"".join(pieces))


def _cell_end(buffer: bytes, position: int) -> int:
    """Where the cell at ``position`` ends; beyond the buffer if that can't be told yet."""
    if len(buffer) < position + VARIABLE_HEADER:
        return position + VARIABLE_HEADER
    if not is_variable(buffer[position + 2]):
        return position + NARROW_CELL_LEN
    return position + VARIABLE_HEADER + int.from_bytes(buffer[position + 3 : position + 5], "big")


def narrow(cells: Cells) -> Cells:
    """A run as it leaves on a link of protocol 3: an ``(n, 512)`` copy."""
    return cells[:, 2:].copy()
