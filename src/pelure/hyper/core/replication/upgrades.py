"""Getting a core's newest tree from its peers (HYPER-FACTS section 8, reading, step 2)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from pelure.hyper.core.replication.link import InFlight
from pelure.hyper.core.replication.local import LocalCore
from pelure.hyper.core.replication.peer import Peer
from pelure.hyper.wire.parts import UpgradeRequest

STALL_SECONDS = 10.0
"""A peer that answered nothing for so long no longer keeps others from being asked the same."""


def stalled(peer: Peer, flight: InFlight) -> bool:
    """Whether a peer has had its time for a request; what else it says than answers does not count."""
    return time.monotonic() - max(flight.sent, peer.answered_at) > STALL_SECONDS


def slowness(peer: Peer) -> float:
    """Seconds that a new request to ``peer`` will probably take."""
    latency = peer.window.latency
    return (latency if latency is not None else 0.5) * (1 + len(peer.in_flight) / peer.window.size)


class Upgrades:
    """Asks one peer at a time for growth, and knows who waits for the outcome."""

    def __init__(self, core: LocalCore) -> None:
        self._core = core
        self._asked: tuple[Peer, InFlight] | None = None
        self._waiters: list[tuple[int, int, asyncio.Future[bool]]] = []

    def wait(self) -> asyncio.Future[bool]:
        """A future for the next :meth:`check` that finds the core changed, or nothing to be expected."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiters.append((self._core.fork, self._core.length, future))
        return future

    @property
    def awaited(self) -> bool:
        """Whether someone waits."""
        return bool(self._waiters)

    def check(self, expected: bool) -> None:
        """Wake those who wait, when something newer came or when none is ``expected``."""
        now = (self._core.fork, self._core.length)
        waiting = []
        for fork, length, future in self._waiters:
            if future.done():
                continue
            if now != (fork, length) or not expected:
                future.set_result(now != (fork, length))
            else:
                waiting.append((fork, length, future))
        self._waiters = waiting

    def request(self, peers: Sequence[Peer]) -> None:
        """Ask one peer for proof of what it has beyond the length held here."""
        if self._asked is not None:
            if not stalled(*self._asked):
                return
            self._asked[0].stalls += 1
        core = self._core
        for peer in sorted(peers, key=lambda peer: (peer.stalls, slowness(peer))):
            if peer.can_upgrade_us:
                upgrade = UpgradeRequest(core.length, peer.remote.length - core.length)
                manifest = core.needs_manifest and peer.remote.has_manifest
                self._asked = (peer, peer.request(upgrade=upgrade, manifest=manifest))
                return

    def ended(self, flight: InFlight) -> None:
        """A request was answered, or came to nothing."""
        if self._asked is not None and self._asked[1] is flight:
            self._asked = None
