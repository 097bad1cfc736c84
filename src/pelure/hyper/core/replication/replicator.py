"""The replicator of one core: what is wanted, from which peer, and what to do with answers.

HYPER-FACTS sections 8 (reading), 12 (forks) and 13 (who has what). All of it runs in the event loop,
without awaiting anything between an event and the requests that follow from it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from pelure.errors import PelureError, ProtocolError
from pelure.hyper.core.changes import Change, ChangeKind
from pelure.hyper.core.replication import conflicts
from pelure.hyper.core.replication.answers import fitting, release_held
from pelure.hyper.core.replication.extensions import Extension
from pelure.hyper.core.replication.link import InFlight, Link
from pelure.hyper.core.replication.local import LocalCore
from pelure.hyper.core.replication.peer import Peer
from pelure.hyper.core.replication.reorgs import Reorgs
from pelure.hyper.core.replication.seeks import Seeks
from pelure.hyper.core.replication.upgrades import STALL_SECONDS, Upgrades, slowness
from pelure.hyper.core.replication.wants import PRIORITY, BlockWant, Download, finish
from pelure.hyper.wire import messages as m

log = logging.getLogger(__name__)


SYNC_SECONDS = 1.0
SYNC_TIMES = 4
"""A peer is not waited for that has not synced after so long, or so many times as long as the others took."""
_STEAL_SCAN = 64
_URGENT_ROOM = 256
"""Requests for single blocks that may go out although the window is full of bulk requests."""


class Replicator:
    """Keeps one core in step with its peers, over any number of streams.

    Futures that the ``request_…`` methods return are woken when something changed that they asked for, or
    when the replicator closes: look at the core, and ask again if need be.
    """

    def __init__(self, core: LocalCore) -> None:
        self.core = core
        self.peers: list[Peer] = []
        self.extensions: dict[str, Extension] = {}
        self.links: set[Link] = set()
        self.connecting: set[Link] = set()
        """Streams whose handshake is under way."""
        self._downloading = True
        self._closed = False
        self._blocks: dict[int, BlockWant] = {}
        self._unasked: dict[int, BlockWant] = {}
        """Those of ``_blocks`` that no peer has been asked for."""
        self._downloads: list[Download] = []
        self._seeks = Seeks(core)
        self._claims: dict[int, list[tuple[Peer, InFlight]]] = {}
        """Who has been asked for each block."""
        self._upgrades = Upgrades(core)
        self._reorgs = Reorgs(core)
        self._ticked = 0.0
        self._end_changes = core.on_change(self._on_change)

    # -- what the core asks for --

    def request_block(self, index: int) -> asyncio.Future[None]:
        """Fetch block ``index`` before anything else; cancelling the future takes that back."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._closed or self.core.has(index):
            future.set_result(None)
            return future
        want = self._blocks.get(index)
        if want is None:
            want = self._blocks[index] = self._unasked[index] = BlockWant(index)
            self._request_block(want)
        want.futures.append(future)
        future.add_done_callback(lambda _: self._block_left(want))
        return future

    def _block_left(self, want: BlockWant) -> None:
        """Someone no longer waits for a block; when no-one does, requests for it are taken back."""
        if self._blocks.get(want.index) is want and all(future.done() for future in want.futures):
            self._forget_block(want.index)
            if not self._downloads:
                for peer, flight in self._claims.pop(want.index, ()):
                    peer.cancel(flight)

    def request_download(self, ranges: Iterable[tuple[int, int]]) -> asyncio.Future[None]:
        """Fetch all blocks of the ``(start, end)`` ranges, as fast as peers send them.

        The future is woken when all are held; cancelling it stops the download.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        download = Download(ranges, future)
        if self._closed or download.complete(self.core.bitfield):
            future.set_result(None)
            return future
        self._downloads.append(download)
        future.add_done_callback(lambda _: self._download_left(download))
        self.schedule_all()
        return future

    def _download_left(self, download: Download) -> None:
        if download in self._downloads:
            self._downloads.remove(download)

    def request_upgrade(self) -> asyncio.Future[bool]:
        """Wait for something newer than what is held; false as soon as no peer has any."""
        future = self._upgrades.wait()
        self._check_upgrades()
        return future

    def request_seek(self, position: int) -> asyncio.Future[None]:
        """Fetch tree nodes that tell which block holds byte ``position`` (not counting padding)."""
        future = self._seeks.wait(position, self.peers)
        if self._closed:
            finish(future)
        return future

    def extension(self, name: str, on_message: Callable[[bytes, Peer], None]) -> Extension:
        """Register the extension ``name``; ``on_message`` gets each message and its sender."""
        self.extensions[name] = Extension(self, name, on_message)
        return self.extensions[name]

    @property
    def downloading(self) -> bool:
        """Whether peers are told that data is wanted. When neither side wants any, channels close."""
        return self._downloading

    @downloading.setter
    def downloading(self, downloading: bool) -> None:
        if downloading == self._downloading:
            return
        self._downloading = downloading
        for peer in self.peers:
            if peer.opened:
                peer.sync_soon()
        if downloading:
            for link in list(self.links):
                self._connect(link)

    def close(self) -> None:
        """Close all channels and wake everyone who waits; idempotent."""
        if self._closed:
            return
        self._closed = True
        self._end_changes()
        for peer in self.peers:
            peer.close()
        self.peers.clear()
        for want in list(self._blocks.values()):
            for future in want.futures:
                finish(future)
        for download in self._downloads:
            finish(download.future)
        self._seeks.close()
        self._check_upgrades()

    # -- streams and peers --

    def attach(self, link: Link) -> None:
        """Replicate over a stream whose handshake is complete."""
        self.connecting.discard(link)
        self.links.add(link)
        self._connect(link)

    def detach(self, link: Link) -> None:
        """The stream ended."""
        self.connecting.discard(link)
        self.links.discard(link)
        self._check_upgrades()

    def _connect(self, link: Link) -> None:
        """Open a channel on ``link`` unless there is one."""
        if not self._closed and link.mux.find((m.PROTOCOL, self.core.discovery_key)) is None:
            peer = link.peers[self.core.key] = Peer(self, link)
            self.peers.append(peer)
            link.wake()

    def remove(self, peer: Peer) -> None:
        """A peer's channel closed: what it was asked for is asked of others."""
        if peer not in self.peers:
            return
        self.peers.remove(peer)
        self._forget_requests(peer)
        for download in self._downloads:
            download.rewind(peer)
        self._seeks.try_again(peer)
        if peer.synced and peer.link in self.links and self._downloading and self._wants_something():
            self._connect(peer.link)
        self._upgrades.request(self.peers)
        self.schedule_all()
        self._check_upgrades()

    def _forget_requests(self, peer: Peer) -> None:
        """Have others asked what ``peer`` was asked for."""
        self._reorgs.lost(peer)
        for flight in [*peer.in_flight.values(), *(held for held, _ in peer.held)]:
            peer.cancel(flight)
            self._drop(peer, flight)
        peer.held.clear()

    # -- events from peers --

    def synced(self, peer: Peer) -> None:
        """A peer told its state."""
        self._reorgs.request(self.peers)
        self._upgrades.request(self.peers)
        for download in self._downloads:
            download.rewind(peer)
        self._schedule(peer)
        self._check_upgrades()

    def available(self, peer: Peer) -> None:
        """A peer announced blocks."""
        for download in self._downloads:
            download.rewind(peer)
        self._seeks.try_again(peer)
        self._schedule(peer)

    def unanswered(self, peer: Peer, flight: InFlight) -> None:
        """A peer has no (usable) answer to a request."""
        self._drop(peer, flight)
        self._reorgs.request(self.peers)
        self._upgrades.request(self.peers)
        self.schedule_all()
        self._check_upgrades()

    def conflict_proof(self, peer: Peer, data: m.Data | None) -> None:
        """A peer shows its whole tree, or has none to show: it or this side thinks that there are two."""
        conflicts.proof_came(self.core, peer, data)

    def extension_message(self, name: str, message: bytes, peer: Peer) -> None:
        """An extension message came; unknown names are ignored."""
        extension = self.extensions.get(name)
        if extension is not None:
            extension.on_message(message, peer)

    def apply(self, peer: Peer) -> None:
        """Verify and store the answers of ``peer`` that have come in; one that sent a false one is suspected.

        Raises ``DriveError`` when they can't be stored.
        """
        answers, peer.answers, peer.held = peer.held + peer.answers, [], []
        while answers and not self._closed:
            batch, answers = fitting(self.core, peer, answers, self._drop)
            try:
                if batch and batch[0][1].fork > self.core.fork:
                    self._reorgs.answered(*batch.pop())
                while batch:
                    stored = self.core.verify_and_store([data for _, data in batch])
                    for flight, data in batch[:stored]:
                        self._settle(peer, flight, data)
                    batch = batch[stored:]
            except PelureError as error:
                for flight, _ in batch + answers:
                    self._drop(peer, flight)
                self._forget_requests(peer)
                if not isinstance(error, ProtocolError):
                    raise
                conflicts.suspect(self.core, peer, error)
                self.schedule_all()
                return
            answers += release_held(self.core, peer, self._drop)
        self._check_wants()
        self._reorgs.request(self.peers)
        self._upgrades.request(self.peers)
        self._schedule(peer)

    def _settle(self, peer: Peer, flight: InFlight, data: m.Data) -> None:
        """Bookkeeping after an answer was stored."""
        peer.expected.difference_update(flight.brings)
        if data.block is not None:
            peer.unavailable = 0
            peer.stats.blocks_received += 1
            peer.stats.bytes_received += len(data.block.value)
            for other, request in self._claims.pop(data.block.index, ()):
                if request is not flight:
                    other.cancel(request)
        self._upgrades.ended(flight)
        if data.seek is not None or data.hash is not None:
            self._seeks.answered(peer, flight)

    # -- changes of the core --

    def _on_change(self, change: Change) -> None:
        if change.kind is ChangeKind.CONFLICT:
            conflicts.tell(self.core, self.peers)
            self.close()
            return
        start, end = change.start, change.start + change.length
        if change.kind is ChangeKind.TRUNCATE:
            self._on_truncated(start, end)
        for peer in self.peers:
            if not peer.opened:
                continue
            if change.kind in (ChangeKind.APPEND, ChangeKind.UPGRADE, ChangeKind.TRUNCATE):
                peer.sync_soon()
            if change.kind in (ChangeKind.CLEAR, ChangeKind.TRUNCATE):
                peer.telling.withdraw(start, end)
        if change.kind in (ChangeKind.APPEND, ChangeKind.HAVE):
            fork, whole = self.core.fork, self.core.length
            complete = self.core.contiguous_length >= whole
            news = (0, whole) if complete else (start, end)
            self.core.when_durable(lambda: self._announce(fork, *news))
            self._wake_blocks(start, end)
        if change.kind in (ChangeKind.UPGRADE, ChangeKind.TRUNCATE, ChangeKind.CLEAR):
            for download in self._downloads:
                download.rewind()
        if change.kind is not ChangeKind.HAVE:
            self._check_upgrades()

    def _announce(self, fork: int, start: int, end: int) -> None:
        """Tell the peers of blocks that are on the disk for good: they need never be sent here again."""
        if fork != self.core.fork:
            return
        bitfield = self.core.bitfield
        while (first := bitfield.first_set(start, end)) is not None:
            start = min(bitfield.first_unset(first), end)
            for peer in self.peers:
                if peer.opened:
                    peer.announce(first, start)

    def affirm(self, start: int, end: int) -> None:
        """Tell all peers that blocks ``[start, end)`` are held here, those too that have them themselves.

        These are not told otherwise, unless it is all blocks; but a publisher wants to know who has what.
        """
        for peer in self.peers:
            if peer.opened:
                peer.send(m.Range(start, end - start))

    def _wake_blocks(self, start: int, end: int) -> None:
        if end - start < len(self._blocks):
            arrived = [index for index in range(start, end) if index in self._blocks]
        else:
            arrived = [index for index in self._blocks if start <= index < end]
        for index in arrived:
            for future in self._forget_block(index).futures:
                finish(future)

    def _on_truncated(self, start: int, end: int) -> None:
        for peer in self.peers:
            if not peer.same_fork:
                peer.blocks.remove(start, end)  # what it has there is of the earlier fork
            for flight in list(peer.in_flight.values()):
                if flight.request.fork != self.core.fork:
                    peer.cancel(flight)
                    self._drop(peer, flight)
        self._wake_blocks(start, end)

    # -- requests --

    def schedule_all(self) -> None:
        """Use free room at every peer, the fastest first."""
        for peer in sorted(self.peers, key=slowness):
            self._schedule(peer)

    def _schedule(self, peer: Peer) -> None:
        """Send requests to ``peer`` while there is something to ask and room to ask it."""
        if self._closed or not peer.same_fork:
            return
        for want in list(self._unasked.values()):
            self._request_block(want)
        self._seeks.request(self.peers)
        for download in self._downloads:
            while peer.room > 0:
                index = self._next_block(peer, download)
                if index is None:
                    break
                self._claim(peer, index, 0)
        if len(self.peers) > 1 and self._claims and peer.room > 0:
            self._steal(peer)

    def _claim(self, peer: Peer, index: int, priority: int) -> None:
        flight = peer.request_block(index, priority)
        self._claims.setdefault(index, []).append((peer, flight))
        self._unasked.pop(index, None)

    def _request_block(self, want: BlockWant) -> None:
        """Ask the peer that is likely to answer first for a block that someone waits for."""
        if want.index in self._claims:
            self._unasked.pop(want.index, None)
            return
        able = [peer for peer in self.peers if peer.may_serve(want.index)]
        holders = [peer for peer in able if want.index in peer.blocks]
        if not holders:
            for peer in able:
                peer.want(want.index)
            return
        best = min(holders, key=slowness)
        if best.room > -_URGENT_ROOM:
            self._claim(best, want.index, PRIORITY)

    def _next_block(self, peer: Peer, download: Download) -> int | None:
        """The next block of ``download`` that ``peer`` has and nobody was asked for."""
        local = self.core.bitfield
        at, index = download.cursor(peer)
        known = min(self.core.length, peer.remote.length)
        while at < len(download.ranges):
            start, end = download.ranges[at]
            end = min(end, known)
            index = local.first_unset(max(start, index))
            while index < end and index in self._claims:
                index = local.first_unset(index + 1)
            if index < end:
                held = peer.blocks.next(index)
                if held == index:
                    download.advance(peer, at, index + 1)
                    return index if peer.may_serve(index) else None
                peer.want(index)
                index = end if held is None else held
            else:
                at, index = at + 1, 0
        download.advance(peer, at, index)
        return None

    def _steal(self, peer: Peer) -> None:
        """Ask ``peer`` too for what slower peers have been asked for and won't answer soon."""
        own = peer.window.latency or STALL_SECONDS
        now = time.monotonic()
        newest = list(self._claims.items())[: -_STEAL_SCAN - 1 : -1]
        for index, claims in newest:
            if peer.room <= 0:
                return
            holder, flight = claims[-1]
            if index not in peer.blocks or any(claimer is peer for claimer, _ in claims):
                continue
            first = len(claims) == 1
            slow = first and (holder.window.latency or 0) > 2 * own
            patience = 0 if slow else max(4 * own, 0.2 if first else STALL_SECONDS)
            if now - flight.sent > patience and peer.may_serve(index):
                self._claim(peer, index, flight.request.priority)

    # -- bookkeeping --

    def tick(self, every: float) -> None:
        """To be called by each stream, ``every`` so many seconds: sees to peers that stopped answering.

        Once for all streams: that takes time for each peer.
        """
        now = time.monotonic()
        if now - self._ticked < every / 2:
            return
        self._ticked = now
        conflicts.drop_silent(self.peers)
        self._upgrades.request(self.peers)
        self._reorgs.request(self.peers)
        self._check_upgrades()
        if len(self.peers) > 1:
            self.schedule_all()

    def _drop(self, peer: Peer, flight: InFlight) -> None:
        """A request of ``peer`` came to nothing."""
        peer.expected.difference_update(flight.brings)
        block = flight.request.block
        if block is not None:
            claims = [claim for claim in self._claims.get(block.index, ()) if claim[1] is not flight]
            if claims:
                self._claims[block.index] = claims
            else:
                self._claims.pop(block.index, None)
                if block.index in self._blocks:
                    self._unasked[block.index] = self._blocks[block.index]
                for download in self._downloads:
                    download.rewind()
        self._upgrades.ended(flight)
        self._seeks.refused(peer, flight)
        self._reorgs.refused(flight)

    def _forget_block(self, index: int) -> BlockWant:
        self._unasked.pop(index, None)
        return self._blocks.pop(index)

    def _check_wants(self) -> None:
        """Wake downloads that are complete."""
        for download in list(self._downloads):
            if download.complete(self.core.bitfield):
                finish(download.future)

    def _check_upgrades(self) -> None:
        """Wake those who wait for an upgrade, when it came or when none is to be expected."""
        if self._upgrades.awaited:
            self._upgrades.check(not self._closed and self._expects_news())

    def _expects_news(self) -> bool:
        """Whether a peer has something newer, or may tell of it yet.

        Once some have synced, those who haven't are waited for a few times as long as the slowest took.
        """
        synced = [peer for peer in self.peers if peer.synced]
        if not synced:
            return bool(self.connecting or self.peers)
        since = time.monotonic() - max(SYNC_SECONDS, SYNC_TIMES * max(peer.synced_after for peer in synced))
        return any(peer.may_have_news if peer.synced else peer.since > since for peer in self.peers)

    def _wants_something(self) -> bool:
        return bool(self._blocks or self._seeks or self._downloads or self._upgrades.awaited)
