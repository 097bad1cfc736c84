"""Finding the block that holds a byte, by asking peers for tree nodes (HYPER-FACTS §11, E)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from pelure.hyper.core.replication.link import InFlight
from pelure.hyper.core.replication.local import LocalCore
from pelure.hyper.core.replication.peer import Peer
from pelure.hyper.core.replication.upgrades import slowness, stalled
from pelure.hyper.core.replication.wants import PRIORITY, finish
from pelure.hyper.wire.parts import HashRequest, SeekRequest


@dataclass(slots=True, eq=False)
class _Seek:
    """A byte position that someone waits for."""

    position: int
    future: asyncio.Future[None]
    asked: list[tuple[Peer, InFlight]] = field(default_factory=list)
    refused: set[Peer] = field(default_factory=set)


class Seeks:
    """Asks one peer about each position, and another one if it takes too long.

    A peer that can't tell is not asked again.
    """

    def __init__(self, core: LocalCore) -> None:
        self._core = core
        self._seeks: list[_Seek] = []

    def __bool__(self) -> bool:
        return bool(self._seeks)

    def wait(self, position: int, peers: Sequence[Peer]) -> asyncio.Future[None]:
        """A future that is woken when more is known of where byte ``position`` (not counting padding) is."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        seek = _Seek(position, future)
        self._seeks.append(seek)
        future.add_done_callback(lambda _: self._seeks.remove(seek))
        self._request(seek, peers)
        return future

    def request(self, peers: Sequence[Peer]) -> None:
        """Ask about each position that no peer is about to answer."""
        for seek in list(self._seeks):
            if not seek.future.done() and all(stalled(*asked) for asked in seek.asked):
                self._request(seek, peers)

    def _request(self, seek: _Seek, peers: Sequence[Peer]) -> None:
        """Ask for a tree node near the wanted position, and the way from there to the position."""
        found = self._core.find(seek.position)
        if found.found:
            finish(seek.future)
            return
        depth = (found.end - found.start).bit_length() - 1
        wanted = SeekRequest(seek.position, self._core.padding)
        for peer in sorted(peers, key=slowness):
            if peer in seek.refused or not peer.seeks or not peer.may_serve(found.end - 1):
                continue
            if any(peer is asked for asked, _ in seek.asked):
                continue
            held = peer.blocks.next(found.start)
            if held is None or held >= found.end:
                peer.want(found.start)
                continue
            node = HashRequest(2 * held, depth)
            seek.asked.append((peer, peer.request(hash=node, seek=wanted, priority=PRIORITY)))
            return

    def answered(self, peer: Peer, flight: InFlight) -> None:
        """Tree nodes came and were stored."""
        for seek in self._seeks:
            if (peer, flight) in seek.asked:
                finish(seek.future)

    def refused(self, peer: Peer, flight: InFlight) -> None:
        """A request came to nothing."""
        for seek in self._seeks:
            if (peer, flight) in seek.asked:
                seek.asked.remove((peer, flight))
                seek.refused.add(peer)

    def try_again(self, peer: Peer) -> None:
        """What ``peer`` could not tell before it may tell now, or it is gone."""
        for seek in self._seeks:
            seek.refused.discard(peer)

    def close(self) -> None:
        """Wake all who wait."""
        for seek in self._seeks:
            finish(seek.future)
