"""DATA messages built and opened by the run (tor-spec §6.1, §6.3; proposal 289 §3.1 for the padding).

Headers are written as vectors and payload in one copy. Now and then a cell is left a little short, so that
its random padding makes the running digest unpredictable: an authenticated SENDME would otherwise prove
nothing to a sender whose data the other side knows beforehand.
"""

from __future__ import annotations

import numpy as np

from pelure.errors import ProtocolError
from pelure.tor.cell.commands import RELAY_BODY_LEN, RELAY_HEADER_LEN, RelayCommand
from pelure.tor.cell.relay_header import encode_relay_body
from pelure.tor.circuit.relaycrypto import BODY_LEN, Bodies
from pelure.tor.crypto.keys import Rng

RANDOM_INTERVAL = 50
"""At the least so many DATA cells come before one has to carry random bytes; at most twice as many."""
ZERO_GAP = 4
RANDOM_LEN = 16
SHORT_LEN = RELAY_BODY_LEN - ZERO_GAP - RANDOM_LEN
STREAM_ID = slice(3, 5)
LENGTH = slice(9, 11)


def message_bodies(command: int, data: bytes, count: int, rng: Rng) -> Bodies:
    """``count`` messages of the circuit itself, alike in length: ``data`` is all of theirs, joined."""
    length = len(data) // count
    end = RELAY_HEADER_LEN + length
    bodies = np.frombuffer(bytearray(rng(count * BODY_LEN)), np.uint8).reshape(count, BODY_LEN)
    header = bytes([command]) + bytes(8) + length.to_bytes(2)
    bodies[:, :RELAY_HEADER_LEN] = np.frombuffer(header, np.uint8)
    bodies[:, RELAY_HEADER_LEN:end] = np.frombuffer(data, np.uint8).reshape(count, length)
    bodies[:, end : end + ZERO_GAP] = 0
    return bodies


def data_of(bodies: Bodies) -> bytes:
    """The data of plain messages, joined. Raises ``ProtocolError`` if a length exceeds its cell."""
    lengths = bodies[:, LENGTH].tobytes()
    if lengths == lengths[:2] * len(bodies):
        return _equal_data(bodies, int.from_bytes(lengths[:2]))
    sizes = np.frombuffer(lengths, ">u2")
    starts = [0, *(np.flatnonzero(sizes[1:] != sizes[:-1]) + 1).tolist()]
    ends = [*starts[1:], len(bodies)]
    return b"".join(
        [_equal_data(bodies[start:end], int(sizes[start])) for start, end in zip(starts, ends, strict=True)]
    )


def _equal_data(bodies: Bodies, length: int) -> bytes:
    if length > RELAY_BODY_LEN:
        raise ProtocolError("the length of a relay message exceeds its cell")
    return bodies[:, RELAY_HEADER_LEN : RELAY_HEADER_LEN + length].tobytes()


class DataBuilder:
    """Builds the DATA cells of one end of a hop."""

    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self._until_random = self._interval()

    def build(self, stream_id: int, data: memoryview, limit: int) -> tuple[Bodies, int]:
        """Pack ``data`` (not empty) into up to ``limit`` (at least 1) cells.

        Returns plain ``(n, 509)`` bodies and how many bytes of ``data`` they hold.
        """
        size = len(data)
        bodies = np.empty((min(limit, size // SHORT_LEN + 1), BODY_LEN), np.uint8)
        header = bytes([RelayCommand.DATA, 0, 0]) + stream_id.to_bytes(2) + bytes(4)
        bodies[:, :RELAY_HEADER_LEN] = np.frombuffer(header + RELAY_BODY_LEN.to_bytes(2), np.uint8)
        row, taken = 0, 0
        while row < len(bodies) and taken < size:
            full = min(self._until_random, len(bodies) - row, (size - taken) // RELAY_BODY_LEN)
            if full:
                end = taken + full * RELAY_BODY_LEN
                payload = np.frombuffer(data[taken:end], np.uint8).reshape(full, RELAY_BODY_LEN)
                bodies[row : row + full, RELAY_HEADER_LEN:] = payload
                row, taken = row + full, end
                self._until_random -= full
            elif taken < size:
                length = min(SHORT_LEN if self._until_random == 0 else RELAY_BODY_LEN, size - taken)
                self._fill_short(bodies[row], data[taken : taken + length])
                row, taken = row + 1, taken + length
        return bodies[:row], taken

    def build_one(self, stream_id: int, data: memoryview) -> tuple[bytearray, int]:
        """:meth:`build` for a lone cell: its body, and how many bytes of ``data`` (not empty) it holds."""
        size = min(len(data), SHORT_LEN if self._until_random == 0 else RELAY_BODY_LEN)
        body = encode_relay_body(RelayCommand.DATA, stream_id, bytes(data[:size]), self._rng)
        self._count(size)
        return bytearray(body), size

    def _fill_short(self, body: Bodies, data: memoryview) -> None:
        end = RELAY_HEADER_LEN + len(data)
        body[LENGTH] = np.frombuffer(len(data).to_bytes(2), np.uint8)
        body[RELAY_HEADER_LEN:end] = np.frombuffer(data, np.uint8)
        zeros_end = min(end + ZERO_GAP, BODY_LEN)
        body[end:zeros_end] = 0
        body[zeros_end:] = np.frombuffer(self._rng(BODY_LEN - zeros_end), np.uint8)
        self._count(len(data))

    def _count(self, size: int) -> None:
        """A cell with ``size`` bytes of data was built by itself."""
        if size <= SHORT_LEN:
            self._until_random = self._interval()
        else:
            self._until_random -= 1

    def _interval(self) -> int:
        return RANDOM_INTERVAL + self._rng(1)[0] % RANDOM_INTERVAL
