"""A circuit that passes through this relay (tor-spec 5.3 to 5.6, 6.1; rend-spec-v3 4).

A reason that a DESTROY gives is not passed on: it would tell relays further on what those before it did.

Two neighbours: the *previous* one, towards the circuit's origin, and the *next* one, which may be a relay,
another circuit (a joined rendezvous), or nobody yet. Cells are handled by the run: one cipher call, one
assignment of the new circuit id, and the array goes on to the next link's queue. Only cells that this relay
recognizes as its own are looked at, and cost Python; so do lone ones, which go the same ways.
"""

from __future__ import annotations

import asyncio
import logging
from enum import Enum
from time import monotonic

import numpy as np

from pelure.errors import LinkError, ProtocolError
from pelure.tor.cell.commands import (
    CELL_LEN,
    HEADER_LEN,
    RELAY_BODY_LEN,
    CellCommand,
    DestroyReason,
    RelayCommand,
)
from pelure.tor.cell.framing import Cell, Cells, Run
from pelure.tor.cell.messages import Create2
from pelure.tor.cell.relay_header import decode_relay_body, encode_relay_body
from pelure.tor.cell.relay_messages import Extend2, Extended2, Truncated
from pelure.tor.circuit import events as ev
from pelure.tor.circuit.flowcontrol import CircuitWindow, FixedWindow, VegasWindow
from pelure.tor.circuit.handshakes import HopSecrets
from pelure.tor.circuit.hop_end import HopEnd
from pelure.tor.circuit.relaycrypto import Bodies, RelayCrypto
from pelure.tor.circuit.stream import State, StreamEndpoint
from pelure.tor.directory.relay import Relay
from pelure.tor.net.handshake import WrongIdentity
from pelure.tor.net.link import Link
from pelure.tor.net.queues import HIGH_WATER
from pelure.tor.relay.host import Host, Stream
from pelure.tor.relay.next_hop import LONE, NextHop

log = logging.getLogger(__name__)

STREAM_BYTES = 2048  # memory that a stream takes in which nothing waits
MAX_EARLY = 8  # RELAY_EARLY cells in a circuit's life (tor-spec 5.6)
RELAY = int(CellCommand.RELAY)
RELAY_EARLY = int(CellCommand.RELAY_EARLY)


class Role(Enum):
    """What the end of a circuit that is not extended serves as, once that is settled."""

    OPEN = "open"
    INTRODUCTION = "introduction point"
    RENDEZVOUS = "rendezvous point"
    JOINED = "joined rendezvous"


class RelayCircuit:
    """See the module. It is the handler of its circuit id on the previous link."""

    __slots__ = (
        "_crypto", "_cut", "_early_left", "_end", "_extending", "_header", "_sendme_inc", "circ_id", "closed",
        "created_at", "host", "joined", "kh", "link", "next", "role", "streams",
    )  # fmt: skip

    def __init__(self, host: Host, link: Link, circ_id: int, secrets: HopSecrets, now: float) -> None:
        self.host = host
        self.link = link
        self.circ_id = circ_id
        self.kh = secrets.kh
        self.created_at = now
        self.next: NextHop | None = None
        self.joined: RelayCircuit | None = None
        self.role = Role.OPEN
        self.streams: dict[StreamEndpoint, Stream] = {}
        self.closed = False
        self._crypto = RelayCrypto(secrets.keys)
        self._sendme_inc = secrets.sendme_inc
        self._end: HopEnd | None = None
        self._early_left = MAX_EARLY
        self._cut = False  # there was a next hop once: cells for it may still be on their way
        self._extending: asyncio.Task[None] | None = None
        self._header = np.frombuffer(circ_id.to_bytes(4, "big") + bytes([RELAY]), np.uint8)

    # ---- from the previous link ----

    def handle(self, item: Cell | Run) -> None:
        """Cells from the origin's side (a link's ``CircuitHandler``)."""
        if self.closed:
            return
        if isinstance(item, Run):
            self._forward(item)
        elif item.command in LONE:
            self._forward_one(item)
        elif item.command == CellCommand.DESTROY:
            self.link.detach(self.circ_id)
            self._end_all(DestroyReason.DESTROYED)
        else:
            raise ProtocolError(f"a cell of command {item.command} came on a circuit that exists")

    def _forward(self, run: Run) -> None:
        cells = run.cells
        commands = cells[:, 4].tobytes()  # counting bytes is 20 times as fast as a reduction of numpy's
        early = commands.count(RELAY_EARLY)
        self._count_early(early)
        found = self._crypto.forward(cells)
        if found is None:
            self._pass_on(run)
        elif len(found.rows) == len(cells):
            self._receive(found.bodies, found.tags, early > 0)
        else:
            position = 0
            for row, body, tag in zip(found.rows.tolist(), found.bodies, found.tags, strict=True):
                if row > position:
                    self._pass_on(Run(run.circ_id, cells[position:row]))
                self._receive(body.reshape(1, -1), [tag], commands[row] == RELAY_EARLY)
                position = row + 1
                if self.closed:
                    return
            if position < len(cells):
                self._pass_on(Run(run.circ_id, cells[position:]))

    def _forward_one(self, cell: Cell) -> None:
        early = cell.command == RELAY_EARLY
        self._count_early(early)
        body = bytearray(cell.body)
        tag = self._crypto.forward_one(body)
        if tag is None:
            self._pass_on(Cell(cell.circ_id, cell.command, bytes(body)))
        elif body[0] in _OWN_MESSAGES:
            self._handle_message(body[0], decode_relay_body(body).data, early)
        else:
            self._handle_events(self.end.receive_one(body, tag, monotonic()), early)

    def _count_early(self, cells: int) -> None:
        self._early_left -= cells
        if self._early_left < 0:
            raise ProtocolError("more RELAY_EARLY cells came than a circuit may have")

    def _pass_on(self, item: Cell | Run) -> None:
        """Cells for somebody further on: the next relay, or the circuit this one is joined with."""
        if self.next is not None and self.next.created:
            self.next.send(item)
        elif self.joined is not None:
            self.joined.backward(item)
        elif not self._cut:
            raise ProtocolError("a cell came that no hop recognizes, and there is no next one")

    def backward(self, item: Cell | Run) -> None:
        """Pass cells on towards the origin, as RELAY ones whatever they were before."""
        if isinstance(item, Run):
            self._crypto.backward(item.cells)
            item.circ_id = self.circ_id
            item.cells[:, :HEADER_LEN] = self._header
            self.host.relayed_cells += len(item)
        else:
            body = bytearray(item.body)
            self._crypto.backward_one(body)
            item = Cell(self.circ_id, RELAY, bytes(body))
            self.host.relayed_cells += 1
        self.link.send(item)

    # ---- messages for this relay ----

    def _receive(self, bodies: Bodies, tags: list[bytes], early: bool) -> None:
        if len(bodies) == 1 and bodies[0, 0] in _OWN_MESSAGES:
            message = decode_relay_body(bodies[0].tobytes())
            self._handle_message(message.command, message.data, early)
        else:
            self._handle_events(self.end.receive(bodies, tags, monotonic()), early)

    def _handle_events(self, events: list[ev.Event], early: bool) -> None:
        for event in events:
            self._handle_event(event, early)
            if self.closed:
                return
        self.pump()

    def _handle_message(self, command: int, data: bytes, early: bool) -> None:
        if command == RelayCommand.EXTEND2:
            if not early:
                raise ProtocolError("EXTEND2 came in a cell that is not RELAY_EARLY")
            self._extend(Extend2.decode(data))
        elif command == RelayCommand.TRUNCATE:
            self._truncate()
        elif command in _HOST_MESSAGES:
            self.host.message(self, command, data)
        elif command != RelayCommand.DROP:
            log.debug("message of command %d ignored", command)

    def _handle_event(self, event: ev.Event, early: bool) -> None:
        if isinstance(event, ev.StreamData):
            stream = self.streams.get(event.stream)
            if stream is not None:
                stream.readable()
        elif isinstance(event, ev.StreamEnded):
            stream = self.streams.pop(event.stream, None)
            if stream is not None:
                stream.ended()
        elif isinstance(event, ev.Incoming):
            stream = self.host.incoming(self, event)
            if stream is not None:
                self.streams[event.stream] = stream
        elif isinstance(event, ev.RelayMessageReceived):
            self._handle_message(event.command, event.data, early)

    @property
    def end(self) -> HopEnd:
        """This relay's side of its own conversation with the origin; made when first needed."""
        if self._end is None:
            params = self.host.params
            window: CircuitWindow = FixedWindow(params)
            if self._sendme_inc is not None:
                window = VegasWindow(params, onion=False, increment=self._sendme_inc)
            limit = params.xoff_exit * RELAY_BODY_LEN
            self._end = HopEnd(0, window, self._emit, self.host.rng, initiator=False, xoff_limit=limit)
        return self._end

    def pump(self) -> None:
        """Send stream data as far as windows and the previous link's queue allow."""
        if self._end is None or self.closed:
            return
        queued = self.link.queued(self.circ_id)
        if self._end.pump(monotonic(), HIGH_WATER - queued):
            for endpoint, stream in list(self.streams.items()):
                if endpoint.state is State.ENDED:  # its last byte and END have left
                    del self.streams[endpoint]
                else:
                    stream.room()

    @property
    def stream_bytes(self) -> int:
        """What the circuit's streams at this relay take: the bytes that wait in them, and they themselves."""
        return sum(stream.waiting for stream in self.streams.values()) + STREAM_BYTES * len(self.streams)

    def send(self, command: int, data: bytes = b"") -> None:
        """Send one message of this relay's to the origin."""
        self._emit(bytearray(encode_relay_body(command, 0, data, self.host.rng)))

    def _emit(self, bodies: Bodies | bytearray) -> list[bytes]:
        item: Cell | Run
        if isinstance(bodies, bytearray):
            tags = [self._crypto.originate_one(bodies)]
            item = Cell(self.circ_id, RELAY, bytes(bodies))
        else:
            tags = self._crypto.originate(bodies)
            cells: Cells = np.empty((len(bodies), CELL_LEN), np.uint8)
            cells[:, :HEADER_LEN] = self._header
            cells[:, HEADER_LEN:] = bodies
            item = Run(self.circ_id, cells)
        congested = not self.link.send(item)
        if self._end is not None:
            self._end.blocked = congested
        return tags

    # ---- extending and truncating ----

    @property
    def is_free(self) -> bool:
        """Whether this relay is the circuit's end, is to remain it so far, and serves as nothing yet."""
        return self.role is Role.OPEN and self.next is None and self._extending is None

    def _extend(self, message: Extend2) -> None:
        """EXTEND2 (tor-spec 5.3): open a link if need be, and send CREATE2 on it."""
        if not self.is_free or self.streams:
            raise ProtocolError("EXTEND2 came on a circuit that is extended or in use already")
        relay = self.host.check_extend(Relay.from_link_specifiers(message.specifiers, None))
        previous = self.link.peer
        same_ed = relay.ed_id is not None and relay.ed_id == previous.ed_id
        if relay.rsa_id == previous.rsa_id or same_ed:
            raise ProtocolError("EXTEND2 asks to go back to the previous hop")
        link = self.host.links.find(relay)
        if link is not None:
            self._create_next(link, message)
        else:
            self._extending = asyncio.ensure_future(self._connect_next(relay, message))

    async def _connect_next(self, relay: Relay, message: Extend2) -> None:
        try:
            link = await self.host.links.get(relay)
        except WrongIdentity:
            self.close(DestroyReason.OR_IDENTITY)
        except LinkError:
            self.close(DestroyReason.CONNECTFAILED)
        else:
            self._extending = None
            if not self.closed:
                self._create_next(link, message)

    def _create_next(self, link: Link, message: Extend2) -> None:
        try:
            self.next = NextHop(self, link)
        except LinkError:  # no circuit id is left on it, or it is being closed
            self.close(DestroyReason.RESOURCELIMIT)
            return
        link.send(Create2(message.handshake_type, message.handshake).cell(self.next.circ_id))

    def extended(self, reply: bytes) -> None:
        """The next relay has answered."""
        self.send(RelayCommand.EXTENDED2, Extended2(reply).encode())

    def _truncate(self) -> None:
        """TRUNCATE: the origin wants this relay to be the end."""
        if self._extending is not None:
            self._extending.cancel()
            self._extending = None
        if self.next is not None:
            self.next.destroy(DestroyReason.REQUESTED)
            self.next = None
            self._cut = True
        self.send(RelayCommand.TRUNCATED, Truncated(DestroyReason.REQUESTED).encode())

    def next_lost(self) -> None:
        """The next relay has ended the circuit: so does this one, lest anybody queue more cells for it."""
        self.next = None
        self.close(DestroyReason.DESTROYED)

    # ---- joining (rend-spec-v3 4.2.2) ----

    def join(self, other: RelayCircuit) -> None:
        """From here on, what this relay does not recognize on one circuit goes back along the other."""
        self.joined, other.joined = other, self
        self.role = other.role = Role.JOINED

    # ---- the end ----

    def writable(self) -> None:
        """The previous link's queue has emptied."""
        if self._end is not None:
            self._end.blocked = False
            self.pump()

    def link_closed(self, reason: str) -> None:
        """The previous link is gone."""
        self._end_all(DestroyReason.CHANNEL_CLOSED)

    def close(self, reason: int, *, drop_queued: bool = False) -> None:
        """Close the circuit on both sides; idempotent."""
        if not self.closed:
            self.link.destroy(self.circ_id, reason, drop_queued=drop_queued)
            if drop_queued and self.next is not None:
                self.next.link.queues.drop(self.next.circ_id)
            self._end_all(reason)

    def _end_all(self, reason: int) -> None:
        """The circuit is over towards its origin: end it everywhere else."""
        if self.closed:
            return
        self.closed = True
        if self._extending is not None:
            self._extending.cancel()
        if self.next is not None:
            self.next.destroy(reason)
            self.next = None
        if self.joined is not None:
            other, self.joined = self.joined, None
            other.joined = None
            other.close(reason)
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            stream.ended()
        self.host.circuit_closed(self)


_HOST_MESSAGES = frozenset(
    {
        RelayCommand.ESTABLISH_INTRO,
        RelayCommand.INTRODUCE1,
        RelayCommand.ESTABLISH_RENDEZVOUS,
        RelayCommand.RENDEZVOUS1,
    }
)
_OWN_MESSAGES = _HOST_MESSAGES | {RelayCommand.EXTEND2, RelayCommand.TRUNCATE, RelayCommand.DROP}
