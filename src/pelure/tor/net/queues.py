"""Cells waiting to go out on one link, a queue for each circuit, served fairly.

Deficit round robin over circuits by the run: a circuit that was quiet is served first (what interactive
traffic needs), then circuits take turns of ``QUANTUM`` cells. tor-spec section 6 leaves scheduling open;
this is what ``circuitmux`` is in C tor, without its per-cell work.
"""

from __future__ import annotations

from collections import deque
from typing import Any

QUANTUM = 64  # cells a circuit may send in its turn
HIGH_WATER = 512  # cells: from here on a circuit is congested and its sources should stop
LOW_WATER = 128  # cells: a congested circuit's sources may go on

Buffer = Any  # bytes or a C-contiguous (n, cell length) array of uint8


class _Queue:
    __slots__ = ("cells", "chunks", "congested")

    def __init__(self) -> None:
        self.chunks: deque[tuple[Buffer, int, float]] = deque()
        self.cells = 0
        self.congested = False


class CellQueues:
    """The queues of one link. ``cells`` is the number of cells in all of them, ``len`` that of queues."""

    def __init__(self) -> None:
        self._queues: dict[int, _Queue] = {}
        self._fresh: deque[int] = deque()
        self._turns: deque[int] = deque()
        self.cells = 0

    def __len__(self) -> int:
        return len(self._queues)

    def put(self, circ_id: int, data: Buffer, cells: int, now: float) -> bool:
        """Queue ``data``, ``cells`` cells in one buffer; True if the circuit is congested now."""
        queue = self._queues.get(circ_id)
        if queue is None:
            queue = self._queues[circ_id] = _Queue()
            self._fresh.append(circ_id)
        queue.chunks.append((data, cells, now))
        queue.cells += cells
        self.cells += cells
        if queue.cells >= HIGH_WATER:
            queue.congested = True
        return queue.congested

    def take(self, limit: int) -> tuple[list[Buffer], list[int]]:
        """Take about ``limit`` cells: the buffers in sending order, and the circuits no longer congested."""
        taken: list[Buffer] = []
        relieved: list[int] = []
        while limit > 0 and (self._fresh or self._turns):
            circ_id = self._fresh.popleft() if self._fresh else self._turns.popleft()
            queue = self._queues[circ_id]
            # A circuit that has the link for itself need not be cut into turns.
            alone = not self._fresh and not self._turns
            sent = _take_from(queue, taken, limit if alone else min(QUANTUM, limit))
            limit -= sent
            self.cells -= sent
            if queue.congested and queue.cells <= LOW_WATER:
                queue.congested = False
                relieved.append(circ_id)
            if queue.cells:
                self._turns.append(circ_id)
            else:
                del self._queues[circ_id]
        return taken, relieved

    def queued(self, circ_id: int) -> int:
        """Cells of one circuit that wait here."""
        queue = self._queues.get(circ_id)
        return queue.cells if queue is not None else 0

    def oldest(self, circ_id: int) -> float | None:
        """When the first cell that waits for this circuit was queued, None if none waits."""
        queue = self._queues.get(circ_id)
        return queue.chunks[0][2] if queue is not None else None

    def waiting(self) -> list[int]:
        """The circuits that have cells here."""
        return list(self._queues)

    def drop(self, circ_id: int) -> int:
        """Forget a circuit's cells; returns how many there were."""
        queue = self._queues.pop(circ_id, None)
        if queue is None:
            return 0
        for line in (self._fresh, self._turns):
            if circ_id in line:
                line.remove(circ_id)
        self.cells -= queue.cells
        return queue.cells


def _take_from(queue: _Queue, taken: list[Buffer], limit: int) -> int:
    """Move up to ``limit`` cells of ``queue`` to ``taken``, cutting a run if need be; returns how many."""
    sent = 0
    chunks = queue.chunks
    while chunks and sent < limit:
        data, cells, since = chunks.popleft()
        room = limit - sent
        if cells > room:  # only runs hold more than one cell, and they are arrays
            taken.append(data[:room])
            chunks.appendleft((data[room:], cells - room, since))
            cells = room
        else:
            taken.append(data)
        sent += cells
    queue.cells -= sent
    return sent
