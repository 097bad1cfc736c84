"""What a relay does when queues take too much memory: the circuit with the oldest queued cell dies first.

A circuit whose far side stops reading, or an attacker with many of them, makes cells pile up here. Cells
that have waited longest belong to whoever does not take them (Jansen et al., "The Sniper Attack"; C tor's
``MaxMemInQueues``). Uploaded onion service descriptors give way first when they are a large part of it; where
it is not queued cells but bytes of exit and directory streams, the circuit with most of them dies first.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from pelure.tor.cell.commands import CELL_LEN, DestroyReason
from pelure.tor.net.link import Link
from pelure.tor.relay.circuit import RelayCircuit
from pelure.tor.relay.hsdir import DescriptorStore
from pelure.tor.relay.next_hop import NextHop

log = logging.getLogger(__name__)

TARGET = 0.9  # of the limit: what is left once memory was freed
DESCRIPTORS_SHARE = 0.2  # of the limit: descriptors beyond it are dropped before circuits
STREAMS_SHARE = 0.5  # of the limit: beyond it circuits go by what waits in their streams
QUEUE_OVERHEAD = 1024  # bytes that a circuit with waiting cells costs beside them


def queued_bytes(links: Iterable[Link]) -> int:
    """Bytes that cells waiting on ``links`` take."""
    return sum(CELL_LEN * link.queues.cells + QUEUE_OVERHEAD * len(link.queues) for link in links)


def relieve(
    links: list[Link], circuits: Iterable[RelayCircuit], descriptors: DescriptorStore, limit: int, now: float
) -> int:
    """Free memory if more than ``limit`` bytes are in use; returns how many circuits had to go.

    ``now``: epoch seconds, for the descriptors.
    """
    held = [(size, circuit) for circuit in circuits if circuit.streams and (size := circuit.stream_bytes)]
    in_streams = sum(size for size, _ in held)
    if queued_bytes(links) + descriptors.size + in_streams <= limit:
        return 0
    if descriptors.size > limit * DESCRIPTORS_SHARE:
        descriptors.make_room(int(limit * DESCRIPTORS_SHARE), now)
    held.sort(key=lambda entry: entry[0], reverse=True)
    killed = 0
    for size, circuit in held:
        if in_streams <= limit * STREAMS_SHARE:
            break
        in_streams -= size
        circuit.close(DestroyReason.RESOURCELIMIT, drop_queued=True)
        killed += 1
    used = queued_bytes(links) + descriptors.size + in_streams
    killed += _close_oldest(links, used - int(limit * TARGET))
    log.warning("queues took more than %d MB: %d circuits closed", limit >> 20, killed)
    return killed


def _close_oldest(links: list[Link], excess: int) -> int:
    """Close circuits, the oldest cells' first, until ``excess`` bytes are free; returns how many."""
    waiting: list[tuple[float, Link, int]] = []
    for link in links if excess > 0 else ():
        for circ_id in link.queues.waiting():
            since = link.queues.oldest(circ_id)
            if since is not None:
                waiting.append((since, link, circ_id))
    waiting.sort(key=lambda entry: entry[0])
    killed = 0
    for _, link, circ_id in waiting:
        if excess <= 0:
            break
        excess -= CELL_LEN * link.queued(circ_id) + QUEUE_OVERHEAD
        handler = link.handler(circ_id)
        circuit = handler.circuit if isinstance(handler, NextHop) else handler
        if isinstance(circuit, RelayCircuit):
            circuit.close(DestroyReason.RESOURCELIMIT, drop_queued=True)
            killed += 1
        else:
            link.queues.drop(circ_id)
    return killed
