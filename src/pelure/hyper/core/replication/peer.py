"""One peer of one core: the Hypercore channel on one stream (HYPER-FACTS sections 7 and 8).

A :class:`Peer` keeps what the other side says about itself, turns messages into calls of the
:class:`~pelure.hyper.core.replication.replicator.Replicator` and sends requests. It decides nothing about
what is wanted; that is the replicator's part.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pelure.errors import CryptoError, ProtocolError
from pelure.hyper.core import flat_tree
from pelure.hyper.core.replication.intervals import IntervalSet
from pelure.hyper.core.replication.link import InFlight, Link
from pelure.hyper.core.replication.telling import WANT_SPAN, Telling
from pelure.hyper.core.replication.window import Window
from pelure.hyper.encoding.compact import Reader
from pelure.hyper.wire import messages as m
from pelure.hyper.wire.capability import capability
from pelure.hyper.wire.parts import BlockRequest, HashRequest, SeekRequest, UpgradeRequest
from pelure.hyper.wire.protomux import BATCH_BYTES, Channel

if TYPE_CHECKING:
    from pelure.hyper.core.replication.replicator import Replicator

MAX_WANTS = 512
_MAX_BITFIELD_BYTES = WANT_SPAN // 8
_BATCHED_BYTES = 4096
"""Blocks of a smaller mean size are asked for in batches.

Larger ones are not, since npm holds back its answers until it has them for all batches that came meanwhile,
and then this side and that one only take turns.
"""
MAX_UNAVAILABLE = 64
"""Requests in a row that a peer may refuse, though it announced the blocks, before it is left alone."""


@dataclass(slots=True)
class Stats:
    """What went over a channel: blocks and bytes of blocks."""

    blocks_received: int = 0
    bytes_received: int = 0
    blocks_sent: int = 0
    bytes_sent: int = 0


class Peer:
    """The other side of one core's channel on one stream."""

    def __init__(self, replicator: Replicator, link: Link) -> None:
        self.replicator = replicator
        self.core = replicator.core
        self.link = link
        self.stats = Stats()
        self.window = Window()
        self.blocks = IntervalSet()
        self.opened = False
        self.synced = False
        self.suspected: tuple[ProtocolError, float] | None = None
        """What did not verify, and until when the peer may clear itself: see :mod:`.conflicts`."""
        self.remote = m.Sync(0, 0, 0, can_upgrade=False)
        self.refused_at: tuple[int, int] | None = None
        """Fork and length at which it did not prove the newer tree that its last sync told of."""
        self.seeks = False
        self.length_acked = 0
        self.can_upgrade = True
        self.in_flight: dict[int, InFlight] = {}
        self.answers: list[tuple[InFlight, m.Data]] = []
        self.held: list[tuple[InFlight, m.Data]] = []
        """Answers that came before those which bring the tree nodes they lead to."""
        self.expected: set[int] = set()
        """Tree nodes that requests in flight will bring."""
        self.requests: dict[int, m.Request] = {}
        self.invalid_requests = 0
        self.pointless_proofs = 0
        self.unavailable = 0
        self.since = self.heard = self.answered_at = time.monotonic()
        """When the channel began, when something came over it last, and when that was an answer."""
        self.stalls = 0
        """How often it kept others from being asked for what it was asked for, until its time was over."""
        self.synced_after = 0.0
        """Seconds from the beginning of the channel to its first sync."""
        self._next_id = 1
        self._sync_due = False
        self._wants: set[int] = set()
        self.telling = Telling(self.core, self.send)
        self._sent_extension = self._received_extension = ""
        handshake = m.Handshake(capability(self.core.key, link.handshake_hash, link.initiator))
        self.channel: Channel = link.mux.open((m.PROTOCOL, self.core.discovery_key), handshake.encode(), self)
        self._handlers: tuple[Callable[..., None], ...] = (
            self._on_sync,
            self._on_request,
            self._on_cancel,
            self._on_data,
            self._on_no_data,
            self._on_want,
            self._on_unwant,
            self._on_bitfield,
            self._on_range,
            self._on_extension,
        )

    # -- what the replicator asks and does --

    @property
    def same_fork(self) -> bool:
        """Whether the peer is synced, on the core's fork, and on the same branch of it as far as is known."""
        return self.synced and self.remote.fork == self.core.fork and self.suspected is None

    @property
    def room(self) -> int:
        """How many more requests may go out now."""
        if not self.remote.uploading or self.unavailable >= MAX_UNAVAILABLE:
            return 0
        return self.window.size - len(self.in_flight)

    @property
    def has_refused(self) -> bool:
        """Whether the peer was asked already for what is newer than what is held here, and had no proof."""
        return self.refused_at == (self.core.fork, self.core.length)

    @property
    def can_upgrade_us(self) -> bool:
        """Whether the peer can prove growth from exactly the length held here, and has said so."""
        remote = self.remote
        return (
            self.same_fork
            and remote.length > self.core.length
            and remote.can_upgrade
            and remote.uploading
            and self.length_acked == self.core.length
            and not self.has_refused
        )

    @property
    def has_newer_fork(self) -> bool:
        """Whether the peer says that it can prove a newer fork of the core."""
        remote = self.remote
        newer = self.synced and remote.fork > self.core.fork
        return newer and remote.uploading and remote.length > 0 and not self.has_refused

    @property
    def may_have_news(self) -> bool:
        """Whether the peer, which is synced, has something newer."""
        if self.has_refused:
            return False
        if self.remote.fork != self.core.fork:
            return self.remote.fork > self.core.fork and self.remote.length > 0
        unacknowledged = self.length_acked != self.core.length
        return self.remote.length > self.core.length and (self.remote.can_upgrade or unacknowledged)

    def may_serve(self, index: int) -> bool:
        """Whether the peer can prove block ``index`` of the local tree (if it has the block)."""
        return (
            self.same_fork
            and self.unavailable < MAX_UNAVAILABLE
            and index < self.remote.length
            and (self.remote.length >= self.core.length or self.core.can_upgrade(self.remote.length))
        )

    def send(self, message: m.Message) -> None:
        """Queue ``message`` on the channel."""
        body = message.pieces() if isinstance(message, m.Data) else (message.encode(),)
        self.channel.send(message.TYPE, *body)
        self.link.wake()

    def request(
        self,
        *,
        block: BlockRequest | None = None,
        hash: HashRequest | None = None,
        seek: SeekRequest | None = None,
        upgrade: UpgradeRequest | None = None,
        manifest: bool = False,
        priority: int = 0,
        weight: int = 0,
    ) -> InFlight:
        """Send a request with these parts, at the other side's fork."""
        request = m.Request(self._next_id, self.remote.fork, block, hash, seek, upgrade, manifest, priority)
        self._next_id += 1
        flight = InFlight(request, time.monotonic(), len(self.in_flight) + 1, self.room <= 1)
        self.in_flight[request.id] = flight
        self.channel.send(request.TYPE, request.encode(), weight=weight)
        self.link.wake()
        return flight

    def request_block(self, index: int, priority: int) -> InFlight:
        """Ask for block ``index`` and as much proof as will be missing when the answer comes.

        Tree nodes that earlier requests to this peer will bring are not asked for again.
        """
        node, end = 2 * index, 2 * self.core.length
        brings: list[int] = []
        climb = 0
        while (
            not flat_tree.contains(node, end)
            and node not in self.expected
            and self.core.get_node(node) is None
        ):
            brings += (node, flat_tree.sibling(node))
            node = flat_tree.parent(node)
            climb += 1
        block = BlockRequest(index, climb)
        size = self.window.mean_bytes
        weight = size if size < _BATCHED_BYTES else BATCH_BYTES
        flight = self.request(block=block, priority=priority, weight=weight)
        flight.anchor, flight.brings = node, tuple(brings)
        self.expected.update(brings)
        return flight

    def cancel(self, flight: InFlight) -> None:
        """Take a request back; its answer, should it still come, is ignored."""
        self.expected.difference_update(flight.brings)
        if self.in_flight.pop(flight.request.id, None) is not None:
            self.send(m.Cancel(flight.request.id))

    def want(self, index: int) -> None:
        """Ask which blocks around ``index`` the peer has, unless that was asked before."""
        start = index - index % WANT_SPAN
        if start not in self._wants and len(self._wants) < MAX_WANTS:
            self._wants.add(start)
            self.send(m.Want(start, WANT_SPAN))

    def sync_soon(self) -> None:
        """Tell the peer this side's state with the next thing that is sent."""
        self._sync_due = True
        self.link.flush_later(self)

    def announce(self, start: int, end: int) -> None:
        """Tell the peer that blocks ``[start, end)`` are held here now, unless it has them itself.

        That now all blocks are held is told in any case, as npm does.
        """
        if end - start == self.core.length or not self.blocks.covers(start, end):
            self.telling.add(start, end)
            self.link.flush_later(self)

    def flush(self) -> None:
        """Send what :meth:`announce` and :meth:`sync_soon` have collected."""
        self.telling.flush()
        if self._sync_due:
            self._send_sync()

    def close(self) -> None:
        """Close the channel and forget what the other side asked."""
        self.requests.clear()
        self.channel.close()
        self.link.wake()

    def _send_sync(self) -> None:
        """Tell the peer this side's state, and acknowledge its own."""
        core = self.core
        self._sync_due = False
        same_fork = self.remote.fork == core.fork
        if not same_fork:
            self.can_upgrade = False
        elif self.remote.length < core.length:
            self.can_upgrade = core.can_upgrade(self.remote.length)
        self.send(
            m.Sync(
                core.fork,
                core.length,
                self.remote.length if same_fork else 0,
                can_upgrade=self.can_upgrade,
                uploading=True,
                downloading=self.replicator.downloading,
                has_manifest=core.has_manifest,
            )
        )

    def send_extension(self, name: str, message: bytes) -> None:
        """Send an extension message; the name travels only when it differs from the last one."""
        self.send(m.Extension("" if name == self._sent_extension else name, message))
        self._sent_extension = name

    # -- events of the channel --

    def on_open(self, handshake: Reader) -> None:
        opening = m.Handshake.decode(handshake)
        expected = capability(self.core.key, self.link.handshake_hash, not self.link.initiator)
        if not hmac.compare_digest(opening.capability, expected):
            raise CryptoError("the other side does not know the key of the core it opened")
        self.seeks = opening.seeks
        self.opened = True
        self._send_sync()
        self.telling.tell_contiguous()

    def on_message(self, kind: int, body: Reader) -> None:
        self.heard = time.monotonic()
        if kind < len(self._handlers):
            self._handlers[kind](m.MESSAGES[kind].decode(body))

    def on_close(self) -> None:
        self.requests.clear()
        self.replicator.remove(self)

    def _on_sync(self, sync: m.Sync) -> None:
        if not self.synced:
            self.synced_after = self.heard - self.since
        changed = not self.synced or sync.length != self.remote.length or sync.fork != self.remote.fork
        self.synced = True
        self.remote = sync
        self.refused_at = None
        core = self.core
        if not sync.downloading and not self.replicator.downloading:
            self.close()
            self.replicator.remove(self)
            return
        self.length_acked = sync.remote_length if sync.fork == core.fork else 0
        if sync.fork == core.fork and (core.length > sync.length or (changed and sync.length == 0)):
            self.sync_soon()
        self.replicator.synced(self)

    def _on_request(self, request: m.Request) -> None:
        self.requests[request.id] = request
        self.link.upload(self, request)

    def _on_cancel(self, cancel: m.Cancel) -> None:
        self.requests.pop(cancel.request, None)

    def _on_data(self, data: m.Data) -> None:
        if data.request == 0:
            self.replicator.conflict_proof(self, data)
            return
        flight = self._end_flight(data.request)
        if flight is None:
            return
        size = len(data.block.value) if data.block else 0
        self.window.answered(self.heard - flight.sent, size, flight.ahead, flight.full, self.heard)
        if _answers(flight.request, data):
            self.answers.append((flight, data))
            self.link.answered(self)
        else:
            self._refused(flight)

    def _on_no_data(self, no_data: m.NoData) -> None:
        if no_data.request == 0:
            self.replicator.conflict_proof(self, None)
            return
        flight = self._end_flight(no_data.request)
        if flight is None:
            return
        if (block := flight.request.block) is not None:
            self.blocks.remove(block.index, block.index + 1)
            self._wants.discard(block.index - block.index % WANT_SPAN)
        self._refused(flight)

    def _end_flight(self, request: int) -> InFlight | None:
        """The request of this number, if it waited for an answer."""
        flight = self.in_flight.pop(request, None)
        if flight is not None:
            self.answered_at = self.heard
        return flight

    def _refused(self, flight: InFlight) -> None:
        """The peer does not give what it was asked for."""
        if flight.request.upgrade is not None:
            self.refused_at = (self.core.fork, self.core.length)
        if flight.request.fork == self.remote.fork:
            self.unavailable += 1
        self.replicator.unanswered(self, flight)

    def _on_want(self, want: m.Want) -> None:
        self.telling.answer(want)

    def _on_unwant(self, unwant: m.Unwant) -> None:
        """Every change is announced to every peer, so there is nothing to take back."""

    def _on_bitfield(self, bitfield: m.Bitfield) -> None:
        if len(bitfield.words) > _MAX_BITFIELD_BYTES:
            raise ProtocolError("bitfield is longer than what can be asked for")
        self.blocks.set_words(bitfield.start, bitfield.words)
        self.replicator.available(self)

    def _on_range(self, announced: m.Range) -> None:
        end = announced.start + announced.length
        if announced.drop:
            self.blocks.remove(announced.start, end)
        else:
            self.blocks.add(announced.start, end)
            self.replicator.available(self)

    def _on_extension(self, extension: m.Extension) -> None:
        name = extension.name or self._received_extension
        self._received_extension = name
        self.replicator.extension_message(name, extension.message, self)


def _answers(request: m.Request, data: m.Data) -> bool:
    """Whether ``data`` holds what ``request`` asked for, and nothing else (a seek may need no answer)."""
    asked, given = request.block, data.block
    wanted, found = request.hash, data.hash
    return (
        request.fork == data.fork
        and (asked.index if asked else None) == (given.index if given else None)
        and (wanted.index if wanted else None) == (found.index if found else None)
        and (data.seek is None or (request.seek is not None and request.seek.bytes == data.seek.bytes))
        and (data.upgrade is None) == (request.upgrade is None)
    )
