"""Following peers to a newer fork of the core (HYPER-FACTS §12): one fork, and one peer, at a time."""

from __future__ import annotations

from collections.abc import Sequence

from pelure.hyper.core.reorg import Reorg
from pelure.hyper.core.replication.link import InFlight
from pelure.hyper.core.replication.local import LocalCore
from pelure.hyper.core.replication.peer import Peer
from pelure.hyper.core.replication.upgrades import stalled
from pelure.hyper.core.replication.wants import PRIORITY
from pelure.hyper.wire import messages as m
from pelure.hyper.wire.parts import UpgradeRequest


class Reorgs:
    """Asks a peer of the newest fork for its tree, then for what tells how much of it is held already."""

    def __init__(self, core: LocalCore) -> None:
        self._core = core
        self._peer: Peer | None = None
        self._reorg: Reorg | None = None
        self._asked: set[InFlight] = set()

    def request(self, peers: Sequence[Peer]) -> None:
        """Ask for the newest fork that ``peers`` tell of, unless one is followed now.

        That one is given up if its peer answers nothing for long, and another could be asked.
        """
        able = [peer for peer in peers if peer.has_newer_fork]
        if self._peer is not None:
            if able in ([], [self._peer]) or not any(stalled(self._peer, flight) for flight in self._asked):
                return
            self._peer.stalls += 1
            self._forget()
        newest = max(able, key=lambda peer: (-peer.stalls, peer.remote.fork), default=None)
        if newest is None:
            return
        remote = newest.remote
        self._peer = newest
        manifest = self._core.needs_manifest and remote.has_manifest
        self._asked = {newest.request(upgrade=UpgradeRequest(0, remote.length), manifest=manifest)}

    def answered(self, flight: InFlight, data: m.Data) -> None:
        """An answer of a newer fork came. Raises ``ProtocolError`` for a false one."""
        if self._peer is None or flight not in self._asked:
            return
        self._asked.discard(flight)
        if self._reorg is None:
            self._reorg = self._core.reorg(data)
        else:
            self._reorg.add(data)
        self._go_on(self._peer, self._reorg)

    def _go_on(self, peer: Peer, reorg: Reorg) -> None:
        if self._asked:
            return
        if reorg.old_fork != self._core.fork or peer.remote.fork != reorg.tree.fork:
            self._forget()
            return
        for hash in reorg.wanted():
            self._asked.add(peer.request(hash=hash, priority=PRIORITY))
        if not self._asked:
            self._forget()
            reorg.apply()

    def refused(self, flight: InFlight) -> None:
        """The peer has no answer. It may be that it lacks a node, too: then what is known has to do."""
        if flight not in self._asked:
            return
        self._asked.discard(flight)
        if self._peer is None or self._reorg is None:
            self._forget()
        else:
            self._reorg.settle()
            self._go_on(self._peer, self._reorg)

    def lost(self, peer: Peer) -> None:
        """The peer is gone, or not trusted any more."""
        if peer is self._peer:
            self._forget()

    def _forget(self) -> None:
        self._peer = self._reorg = None
        self._asked = set()
