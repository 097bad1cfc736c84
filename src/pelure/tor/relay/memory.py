"""What a relay does when queues take too much memory: the circuit with the oldest queued cell dies first.

A circuit whose far side stops reading, or an attacker with many of them, makes cells pile up here. Cells
that have waited longest belong to whoever does not take them (Jansen et al., "The Sniper Attack"; C tor's
``MaxMemInQueues``). Uploaded onion service descriptors give way first when they are a large part of it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable

from pelure.tor.cell.commands import CELL_LEN, DestroyReason
from pelure.tor.net.link import Link
from pelure.tor.relay.circuit import NextHop, RelayCircuit
from pelure.tor.relay.hsdir import DescriptorStore

log = logging.getLogger(__name__)

TARGET = 0.9  # of the limit: what is left once memory was freed
DESCRIPTORS_SHARE = 0.2  # of the limit: descriptors beyond it are dropped before circuits
LEAST = 256 << 20
MOST = 8 << 30


def default_limit() -> int:
    """A quarter of this machine's memory, within bounds, in bytes."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        total = 4 * LEAST
    return min(max(total // 4, LEAST), MOST)


def queued_bytes(links: Iterable[Link]) -> int:
    """Bytes of cells that wait on ``links``."""
    return CELL_LEN * sum(link.queues.cells for link in links)


def relieve(links: list[Link], descriptors: DescriptorStore, limit: int, now: float) -> int:
    """Free memory if more than ``limit`` bytes are in use; returns how many circuits had to go.

    ``now``: epoch seconds, for the descriptors.
    """
    used = queued_bytes(links) + descriptors.size
    if used <= limit:
        return 0
    target = int(limit * TARGET)
    if descriptors.size > limit * DESCRIPTORS_SHARE:
        used -= descriptors.make_room(int(limit * DESCRIPTORS_SHARE), now)
    waiting: list[tuple[float, Link, int]] = []
    for link in links:
        for circ_id in link.queues.waiting():
            since = link.queues.oldest(circ_id)
            if since is not None:
                waiting.append((since, link, circ_id))
    waiting.sort(key=lambda entry: entry[0])
    killed = 0
    for _, link, circ_id in waiting:
        if used <= target:
            break
        used -= CELL_LEN * link.queued(circ_id)
        handler = link.handler(circ_id)
        circuit = handler.circuit if isinstance(handler, NextHop) else handler
        if isinstance(circuit, RelayCircuit):
            circuit.close(DestroyReason.RESOURCELIMIT, drop_queued=True)
            killed += 1
        else:
            link.queues.drop(circ_id)
    log.warning("queues took more than %d MB: %d circuits with the oldest cells closed", limit >> 20, killed)
    return killed
