"""Which answers of a peer can be verified now, in which order, and which have to wait.

Requests rely on the tree nodes that earlier ones to the same peer will bring, and answers may overtake
each other: one that leads to a node not known yet is held back until the answer that brings it came.
"""

from __future__ import annotations

from collections.abc import Callable

from pelure.hyper.core.replication.link import InFlight
from pelure.hyper.core.replication.local import LocalCore
from pelure.hyper.core.replication.peer import Peer
from pelure.hyper.wire import messages as m

MAX_HELD_BYTES = 64 * 1024 * 1024
"""Blocks of one peer that wait for others; what comes beyond that is asked for again."""

Answer = tuple[InFlight, m.Data]
Drop = Callable[[Peer, InFlight], None]


def fitting(
    core: LocalCore, peer: Peer, answers: list[Answer], drop: Drop
) -> tuple[list[Answer], list[Answer]]:
    """Split ``answers`` into those to be verified now, in this order, and those to be looked at then.

    An upgrade ends the run, since it changes the length; one to a new fork goes alone. Answers that do not
    fit the core's fork and length any more are given to ``drop``; others wait in ``peer.held``, if there is
    room.
    """
    fork, length = core.fork, core.length
    room = MAX_HELD_BYTES - sum(_size(data) for _, data in peer.held)
    now: list[Answer] = []
    coming: set[int] = set()
    for at, (flight, data) in enumerate(answers):
        if data.fork > fork:
            return (now, answers[at:]) if now else ([answers[at]], answers[at + 1 :])
        if data.fork < fork or (data.upgrade is not None and data.upgrade.start != length):
            drop(peer, flight)
            continue
        anchor = flight.anchor
        if anchor is not None and anchor not in coming and core.get_node(anchor) is None:
            room -= _size(data)
            if room >= 0:
                peer.held.append((flight, data))
            else:
                drop(peer, flight)
            continue
        now.append((flight, data))
        coming.update(flight.brings)
        if data.upgrade is not None:
            return now, answers[at + 1 :]
    return now, []


def _size(data: m.Data) -> int:
    return len(data.block.value) if data.block is not None else 0


def release_held(core: LocalCore, peer: Peer, drop: Drop) -> list[Answer]:
    """Take from ``peer.held`` what can be verified by now, and drop what never will be."""
    ready, waiting = [], []
    for flight, data in peer.held:
        if flight.anchor in peer.expected:
            waiting.append((flight, data))
        elif flight.anchor is not None and core.get_node(flight.anchor) is not None:
            ready.append((flight, data))
        else:
            drop(peer, flight)
    peer.held = waiting
    return ready
