"""Cells on a link (tor-spec 3): a byte stream cut into single cells and *runs*, and cells made bytes.

A run is consecutive RELAY and RELAY_EARLY cells of one circuit, held as one writable ``(n, 514)`` array over
the chunk they came in: bulk is handled by the run. Cutting costs a handful of numpy calls a chunk plus a
little Python per run. Up to ``FEW`` cells together remain single, *lone* cells, and are not touched by numpy:
:mod:`pelure.tor.circuit.relaycrypto` says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from struct import Struct

import numpy as np
import numpy.typing as npt

from pelure.errors import ProtocolError
from pelure.tor.cell.commands import CELL_LEN, HEADER_LEN, PAYLOAD_LEN, CellCommand, is_variable

Cells = npt.NDArray[np.uint8]
"""An ``(n, 514)`` array: one whole cell a row, circuit id and command included."""

FEW = 4
"""So many relay cells are handled nearly as fast one by one as in a run, and much faster after a sleep."""
_RELAY = int(CellCommand.RELAY)
_RELAY_EARLY = int(CellCommand.RELAY_EARLY)
_VERSIONS = int(CellCommand.VERSIONS)
_FIXED = Struct(f"!IB{PAYLOAD_LEN}s")
_WIDE_VARIABLE_HEADER = 7
_NARROW_VARIABLE_HEADER = 5


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: ``body`` is the 509 bytes of a fixed cell or the exact bytes of a variable one.

    When sent, a shorter body of a fixed cell is padded with zeros. A RELAY or RELAY_EARLY cell is a lone one.
    """

    circ_id: int
    command: int
    body: bytes

    @property
    def has_early(self) -> bool:
        """Whether it is a RELAY_EARLY cell."""
        return self.command == _RELAY_EARLY


@dataclass(slots=True, eq=False)
class Run:
    """Consecutive RELAY or RELAY_EARLY cells of one circuit: ``cells`` is C-contiguous and writable."""

    circ_id: int
    cells: Cells

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def has_early(self) -> bool:
        """Whether any of its cells is RELAY_EARLY."""
        # Counting bytes is 20 times as fast as a reduction of numpy's.
        return self.cells[:, 4].tobytes().count(_RELAY) != len(self.cells)

    def set_circ_id(self, circ_id: int) -> None:
        """Rewrite the circuit id of every cell, in place."""
        self.circ_id = circ_id
        self.cells[:, :4] = np.frombuffer(circ_id.to_bytes(4, "big"), np.uint8)

    def tobytes(self) -> bytes:
        """The bytes to send."""
        return self.cells.tobytes()


def encode(cell: Cell, wide: bool = True) -> bytes:
    """The bytes of one cell; ``wide`` is false only for the VERSIONS cell, whose circuit id has two bytes.

    Raises ``ProtocolError`` if the body is too long for its kind of cell.
    """
    header = cell.circ_id.to_bytes(4 if wide else 2, "big") + bytes([cell.command])
    if is_variable(cell.command):
        if len(cell.body) > 0xFFFF:
            raise ProtocolError("the body of a variable-length cell is at most 65535 bytes")
        return header + len(cell.body).to_bytes(2, "big") + cell.body
    if len(cell.body) > PAYLOAD_LEN:
        raise ProtocolError(f"the body of a cell is at most {PAYLOAD_LEN} bytes")
    return header + cell.body.ljust(PAYLOAD_LEN, b"\0")


class CellReader:
    """Cuts what comes from a link into :class:`Cell` and :class:`Run`.

    A link starts narrow: its first cell is VERSIONS with a 2-byte circuit id, and :meth:`feed` returns that
    cell alone. Once a version of 4 or more is agreed, set :attr:`wide` and call ``feed(b"")`` for what came
    behind it.
    """

    def __init__(self, wide: bool = True) -> None:
        self.wide = wide
        self._rest = b""

    @property
    def rest(self) -> bytes:
        """What came and is not a whole cell yet."""
        return self._rest

    def feed(self, data: bytes | bytearray | memoryview) -> list[Cell | Run]:
        """Take the next bytes of the link; returns the complete cells in order.

        Relay cells come as runs, or as single cells where there are few. The arrays of the runs share one
        fresh buffer, which nobody else writes. Raises ``ProtocolError`` if a narrow link says anything but
        VERSIONS.
        """
        if not self.wide:
            return self._feed_narrow(data)
        buffer = bytearray().join((self._rest, data))
        items: list[Cell | Run] = []
        position = self._cut(buffer, items)
        self._rest = bytes(buffer[position:])
        return items

    def _feed_narrow(self, data: bytes | bytearray | memoryview) -> list[Cell | Run]:
        self._rest += data
        if len(self._rest) < _NARROW_VARIABLE_HEADER:
            return []
        if self._rest[2] != _VERSIONS:
            raise ProtocolError("the first cell of a link is not VERSIONS")
        end = _NARROW_VARIABLE_HEADER + int.from_bytes(self._rest[3:5], "big")
        if len(self._rest) < end:
            return []
        cell = Cell(int.from_bytes(self._rest[:2], "big"), _VERSIONS, self._rest[_NARROW_VARIABLE_HEADER:end])
        self._rest = self._rest[end:]
        return [cell]

    def _cut(self, buffer: bytearray, items: list[Cell | Run]) -> int:
        """Append the complete cells of ``buffer``; returns where the first incomplete one starts."""
        size, position = len(buffer), 0
        while size - position >= HEADER_LEN:
            if is_variable(buffer[position + 4]):
                end = _variable_end(buffer, position)
                if end > size:
                    break
                items.append(_variable_cell(buffer, position, end))
                position = end
                continue
            count = (size - position) // CELL_LEN
            if count == 0:
                break
            position += CELL_LEN * _cut_fixed(buffer, position, count, items)
        return position


def _variable_end(buffer: bytearray, position: int) -> int:
    """Where the variable-length cell at ``position`` ends; past the buffer if its length is missing."""
    start = position + _WIDE_VARIABLE_HEADER
    if start > len(buffer):
        return start
    return start + int.from_bytes(buffer[start - 2 : start], "big")


def _variable_cell(buffer: bytearray, position: int, end: int) -> Cell:
    circ_id = int.from_bytes(buffer[position : position + 4], "big")
    return Cell(circ_id, buffer[position + 4], bytes(buffer[position + _WIDE_VARIABLE_HEADER : end]))


def _cut_fixed(buffer: bytearray, position: int, count: int, items: list[Cell | Run]) -> int:
    """Cut up to ``count`` fixed cells at ``position``; returns how many came before a variable-length one."""
    if count <= FEW:
        return _cut_few(buffer, position, count, items)
    rows: Cells = np.ndarray((count, CELL_LEN), np.uint8, buffer, position)
    head = buffer[position : position + HEADER_LEN]
    if head[4] == _RELAY and rows[:, :HEADER_LEN].tobytes() == head * count:
        _append(buffer, position, rows, items)  # what nearly every chunk of a busy link is: one run
        return count
    commands = rows[:, 4]
    variable = (commands >= 128) | (commands == _VERSIONS)
    if variable.any():
        count = int(variable.argmax())
        rows, commands = rows[:count], commands[:count]
    relay = (commands == _RELAY) | (commands == _RELAY_EARLY)
    circ_ids = np.ndarray((count,), np.dtype(">u4"), buffer, position, (CELL_LEN,))
    # A piece ends where the circuit changes, and around every cell that is not RELAY.
    ends = (circ_ids[1:] != circ_ids[:-1]) | ~(relay[1:] & relay[:-1])
    starts = [0, *(np.flatnonzero(ends) + 1).tolist(), count]
    for start, end in pairwise(starts):
        _append(buffer, position + start * CELL_LEN, rows[start:end], items)
    return count


def _append(buffer: bytearray, position: int, rows: Cells, items: list[Cell | Run]) -> None:
    """Append ``rows``, which start at ``position`` and are relay cells of one circuit or one other cell."""
    if len(rows) > FEW:
        items.append(Run(int.from_bytes(buffer[position : position + 4], "big"), rows))
    else:
        _cut_few(buffer, position, len(rows), items)


def _cut_few(buffer: bytearray, position: int, count: int, items: list[Cell | Run]) -> int:
    """Cut up to ``count`` fixed cells at ``position``, each by itself; returns as :func:`_cut_fixed` does."""
    for done in range(count):
        cell = Cell(*_FIXED.unpack_from(buffer, position + done * CELL_LEN))
        if done and is_variable(cell.command):
            return done
        items.append(cell)
    return count
