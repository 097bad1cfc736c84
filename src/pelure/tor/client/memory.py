"""A bound on the bytes that wait in the streams of this process' circuits, whatever their other sides do.

Whoever reads slowly makes the other side stop: by an XOFF, or by SENDMEs that don't go. One who sends on all
the same, in as many streams as it likes to open, would fill the memory of an onion service or a proxy. So the
circuit with most bytes waiting is closed when all of them together are too many (compare C tor's
``MaxMemInQueues``, and :mod:`pelure.tor.relay.memory`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from pelure.errors import CircuitError
from pelure.tor.cell.commands import DestroyReason
from pelure.tor.net.memory import default_limit
from pelure.tor.net.origin import Circuit

CHECK_SECONDS = 0.5

log = logging.getLogger(__name__)


def waiting(circuit: Circuit) -> int:
    """Bytes that wait in the streams of ``circuit``, to be read or sent."""
    return sum(stream.endpoint.buffered + stream.endpoint.pending for stream in circuit.streams)


def relieve(circuits: Iterable[Circuit], limit: int) -> int:
    """Close the circuits with most bytes until ``limit`` bytes wait at the most; returns how many were."""
    held = [(size, circuit) for circuit in circuits if (size := waiting(circuit))]
    total = sum(size for size, _ in held)
    if total <= limit:
        return 0
    held.sort(key=lambda entry: entry[0])
    closed = 0
    while total > limit:
        size, circuit = held.pop()
        circuit.give_up(CircuitError("too much waited in its streams", DestroyReason.RESOURCELIMIT))
        total -= size
        closed += 1
    log.warning("More than %d MB waited in streams: %d circuits were closed", limit >> 20, closed)
    return closed


async def watch_memory(circuits: Callable[[], Iterable[Circuit]]) -> None:
    """:func:`relieve` now and then, until cancelled."""
    limit = default_limit()
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        relieve(circuits(), limit)
