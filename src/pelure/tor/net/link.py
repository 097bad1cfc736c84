"""A link: one TLS connection to a relay or from a client or relay, and the circuits on it (tor-spec 2 to 4).

Bytes are read in large pieces, cut into runs of cells and handed to the circuits; cells to send wait in
one queue for each circuit (:mod:`pelure.tor.net.queues`) and leave once per turn of the event loop, joined
into large TLS records. Nothing here looks into a cell beyond its header.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Protocol, cast

from pelure.errors import LinkError, PelureError, ProtocolError
from pelure.tor.cell.commands import CELL_LEN, CIRC_ID_HIGH_BIT, CellCommand, DestroyReason
from pelure.tor.cell.framing import Cell, CellReader, Run, encode
from pelure.tor.cell.linkspec import RelayIds
from pelure.tor.cell.messages import Destroy, PaddingNegotiate
from pelure.tor.net import narrow
from pelure.tor.net.circuit_table import CircuitHandler, CircuitTable
from pelure.tor.net.handshake import WIDE_VERSION, Handshake, PeerIdentity
from pelure.tor.net.narrow import NarrowReader
from pelure.tor.net.pacing import Gathering
from pelure.tor.net.queues import CellQueues
from pelure.tor.net.throttle import LEAST_SHARE, Throttle
from pelure.tor.net.tls import SCRATCH_SIZE, TlsConnection

log = logging.getLogger(__name__)

# Buffers stay below 128 KiB: from there on the C library maps fresh pages for each, which cost more than
# all the work on the cells in them (measured: 0.29 µs a cell at 240 cells, 0.45 at 500).
READ_SIZE = 120 * 1024
FLUSH_CELLS = 240  # cells joined into one write
WRITE_HIGH_WATER = 128 * 1024  # bytes the transport may hold before the queues have to wait
UNSENT_LOW_WATER = 256 * 1024  # bytes the kernel takes ahead of the network (TCP_NOTSENT_LOWAT)
GOODBYE_SECONDS = 5.0  # a closing link may take so long to hand over its last bytes
CREATE_COMMANDS = frozenset({CellCommand.CREATE, CellCommand.CREATE2, CellCommand.CREATE_FAST})
IGNORED_COMMANDS = frozenset(
    {CellCommand.PADDING, CellCommand.VPADDING, CellCommand.NETINFO, CellCommand.VERSIONS}
)


class LinkOwner(Protocol):
    """What a link asks of and tells whoever made it (:class:`pelure.tor.net.links.LinkManager`)."""

    def session(self, link: Link) -> TlsConnection:
        """A TLS session for the link, which is wanted now."""

    def handshake(self, link: Link, tls: TlsConnection) -> Handshake:
        """The handshake to run inside ``tls``, which is established."""

    def link_opened(self, link: Link) -> None:
        """The handshake is over; ``link.peer`` is known."""

    def link_lost(self, link: Link, reason: str, error: Exception | None) -> None:
        """The connection is gone, before or after it was open; ``error``: what went wrong, if any."""

    @property
    def is_relay(self) -> bool:
        """Whether this side is a relay, whose peers may ask for padding, or a client."""

    def create_requested(self, link: Link, cell: Cell) -> None:
        """The peer wants a new circuit: a CREATE2 or CREATE_FAST cell with an unused circuit id."""


class Link(asyncio.BufferedProtocol):
    """One link. It is an asyncio protocol; use it from the event loop's thread only."""

    def __init__(
        self,
        owner: LinkOwner,
        read_buffer: memoryview,
        *,
        initiator: bool,
        expected: RelayIds | None = None,
        throttle: Throttle | None = None,
    ) -> None:
        """``read_buffer`` (``READ_SIZE`` bytes) is shared by the links of a loop: it is used within one call.

        ``expected``: who an initiator wants to find at the other end. ``throttle``: limits the bytes a second
        of all links that share it.
        """
        self._owner = owner
        self._buffer = read_buffer
        self._tls: TlsConnection | None = None
        self._handshake: Handshake | None = None
        self._reader: CellReader | NarrowReader | None = None
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._circuits = CircuitTable(self._loop.time)
        self._queues = CellQueues()
        self._flush_pending = False
        self._throttle = throttle
        self._throttled = False  # the flush that is pending waits for its turn at the throttle
        self._gathering: Gathering | None = None  # of TCP
        self._paused = False
        self.initiator = initiator
        self.expected = expected
        self.peer = PeerIdentity()
        self.address: tuple[str, int] = ("", 0)
        self.version = 0
        self.opened = False
        self.closed = False
        self.close_reason = ""
        self.created_at = self._loop.time()
        self.padding: PaddingNegotiate | None = None
        self.bytes_read = 0
        self.bytes_written = 0

    # ---- circuits ----

    def attach(self, handler: CircuitHandler) -> int:
        """Give ``handler`` a new circuit of this side's making; returns its id. Raises ``LinkError``."""
        if self.closed or not self.opened:
            raise LinkError(f"the link to {self.address[0]} is not open")
        circ_id = self._circuits.unused_id(self._queues.queued)
        if circ_id is None:
            raise LinkError(f"the link to {self.address[0]} is full of circuits")
        self.adopt(circ_id, handler)
        return circ_id

    def adopt(self, circ_id: int, handler: CircuitHandler) -> None:
        """Give ``handler`` the circuit ``circ_id`` of the peer's making."""
        self._circuits.add(circ_id, handler)

    def detach(self, circ_id: int) -> None:
        """Cells of ``circ_id`` go nowhere from now on; what is queued for it still leaves. Idempotent."""
        self._circuits.remove(circ_id)

    @property
    def circuits(self) -> int:
        """The number of circuits on the link."""
        return len(self._circuits)

    @property
    def idle_since(self) -> float | None:
        """When (the loop's time) the last circuit went, None while there are any."""
        return self._circuits.idle_since

    def handler(self, circ_id: int) -> CircuitHandler | None:
        """The handler of the circuit ``circ_id``, None if there is no such circuit."""
        return self._circuits.get(circ_id)

    # ---- sending ----

    def send(self, item: Cell | Run) -> bool:
        """Queue cells; a run's array belongs to the link from here on. Silently nothing once closed.

        False if the circuit is congested: its sources should stop until ``writable`` is called.
        """
        if self.closed:
            return True
        if isinstance(item, Run):
            cells = item.cells if self.version >= WIDE_VERSION else narrow.narrow(item.cells)
            congested = self._queues.put(item.circ_id, cells, len(cells), self._loop.time())
        else:
            data = encode(item, wide=self.version >= WIDE_VERSION)
            congested = self._queues.put(item.circ_id, data, 1, self._loop.time())
        if not self._flush_pending and not self._paused:
            self._flush_pending = True
            self._loop.call_soon(self._flush)
        return not congested

    def destroy(self, circ_id: int, reason: int = DestroyReason.NONE, *, drop_queued: bool = False) -> None:
        """Send DESTROY for a circuit after what is queued (or instead of it), and detach it."""
        if drop_queued:
            self._queues.drop(circ_id)
        self.send(Cell(circ_id, CellCommand.DESTROY, Destroy(reason).encode()))
        self.detach(circ_id)

    def queued(self, circ_id: int) -> int:
        """Cells of ``circ_id`` that wait to be sent."""
        return self._queues.queued(circ_id)

    @property
    def queues(self) -> CellQueues:
        """All that waits to be sent, for memory accounting."""
        return self._queues

    def _flush(self) -> None:
        self._flush_pending = False
        if self._paused or self._transport is None or self._tls is None or not self.opened:
            return
        limit = FLUSH_CELLS if self._throttle is None else self._cells_allowed(self._throttle)
        if not limit:
            return
        chunks, relieved = self._queues.take(limit)
        if chunks:
            data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            try:
                self._tls.send(data)
            except LinkError as error:
                self.close(str(error))
                return
            self._write_wire()
            if self._queues.cells and not self._paused:
                self._flush_pending = True
                self._loop.call_soon(self._flush)
        for circ_id in relieved:
            handler = self._circuits.get(circ_id)
            if handler is not None:
                handler.writable()

    def _cells_allowed(self, throttle: Throttle) -> int:
        """How many cells may leave now; if none, :meth:`_flush` will be called when some may."""
        limit = -(-throttle.writing.share(FLUSH_CELLS * CELL_LEN) // CELL_LEN)
        if not limit:
            self._flush_pending = True
            if not self._throttled:
                self._throttled = True
                throttle.writing.wait(self._flush_in_turn)
        return limit

    def _flush_in_turn(self) -> None:
        self._throttled = False
        self._flush()

    def _write_wire(self) -> None:
        """Hand over what the TLS session owes the peer."""
        assert self._tls is not None and self._transport is not None
        while wire := self._tls.take():
            self.bytes_written += len(wire)
            if self._throttle is not None:
                self._throttle.writing.spend(len(wire))
            self._transport.write(wire)
            if len(wire) < SCRATCH_SIZE:
                return

    # ---- asyncio protocol ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        if self.closed:  # given up between the connection and this call
            transport.abort()
            return
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_HIGH_WATER, low=WRITE_HIGH_WATER // 4)
        peername = transport.get_extra_info("peername")
        if peername:
            self.address = (peername[0], peername[1])
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            self._gathering = Gathering(transport, sock)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_LOW_WATER)
        if self.initiator:
            self._tls = self._owner.session(self)
            self._write_wire()

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._throttle is not None:
            # At least something: asyncio takes an empty buffer for a bug.
            return self._buffer[: self._throttle.reading.share(READ_SIZE) or LEAST_SHARE]
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self.closed:
            return
        self.bytes_read += nbytes
        try:
            if self._tls is None:
                self._tls = self._owner.session(self)
            plain = self._tls.receive(self._buffer[:nbytes])
            self._pace_reading(nbytes, self._tls.records)
            if self._reader is not None:
                if plain:
                    self._dispatch(self._reader.feed(plain))
            else:
                self._advance_handshake(plain)
            if self._tls.ended:
                self.close("the peer closed the link")
        except PelureError as error:
            self.close(str(error), error)
        except Exception as error:
            log.exception("bug: link to %s", self.address[0])
            self.close("internal error", error)

    def _pace_reading(self, nbytes: int, records: int) -> None:
        """Stop reading while the throttle has nothing to give; let bulk gather before it is read."""
        if self._transport is None:
            return
        if self._throttle is not None:
            self._throttle.reading.spend(nbytes)
            if not self._throttle.reading.share(READ_SIZE):
                self._transport.pause_reading()
                self._throttle.reading.wait(self._read_on)
                return
        if self._gathering is not None:
            self._gathering.note(nbytes, records)

    def _read_on(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def eof_received(self) -> bool:
        self.close("the peer closed the connection")
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._lose(str(error) if error else "the connection was lost", error)
        self._transport = None

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._flush()

    # ---- receiving ----

    def _advance_handshake(self, plain: memoryview) -> None:
        tls = self._tls
        assert tls is not None
        if tls.established and self._handshake is None:
            self._handshake = self._owner.handshake(self, tls)
            opening = self._handshake.start()
            if opening:
                tls.send(opening)
        if self._handshake is None:
            self._write_wire()
            return
        answer = self._handshake.receive(plain)
        if answer:
            tls.send(answer)
        self._write_wire()
        if self._handshake.done:
            self._open(self._handshake)

    def _open(self, handshake: Handshake) -> None:
        self._handshake = None
        self._reader = handshake.reader
        self.version = handshake.version
        self.peer = handshake.peer
        if self.version >= WIDE_VERSION:
            self._circuits.divide(CIRC_ID_HIGH_BIT, high_is_ours=self.initiator, peer_takes_any=False)
        else:  # then the greater key has the high half, and whoever shows no key may take any id
            self._circuits.divide(
                narrow.HIGH_BIT,
                high_is_ours=handshake.key_is_higher(),
                peer_takes_any=self.peer.rsa_id is None,
            )
        self.opened = True
        self._owner.link_opened(self)
        self._dispatch(handshake.take_items())
        self._flush()

    def _dispatch(self, items: list[Cell | Run]) -> None:
        for item in items:
            handler = self._circuits.get(item.circ_id)
            if handler is not None:
                try:
                    handler.handle(item)
                except Exception as error:
                    self._handler_failed(item.circ_id, handler, error)
            elif isinstance(item, Cell):
                self._handle_link_cell(item)
            if self.closed:
                return

    def _handler_failed(self, circ_id: int, handler: CircuitHandler, error: Exception) -> None:
        """One circuit's trouble ends that circuit only."""
        if isinstance(error, ProtocolError):
            log.info("circuit on the link to %s closed: %s", self.address[0], error)
            reason = DestroyReason.PROTOCOL
        else:
            log.error("bug: circuit on the link to %s", self.address[0], exc_info=error)
            reason = DestroyReason.INTERNAL
        self.destroy(circ_id, reason, drop_queued=True)
        handler.link_closed(str(error) or type(error).__name__)

    def _handle_link_cell(self, cell: Cell) -> None:
        if cell.command in CREATE_COMMANDS:
            if not self._circuits.peer_may_choose(cell.circ_id):
                raise ProtocolError("the peer opened a circuit with an id that is not its to use")
            self._owner.create_requested(self, cell)
        elif cell.command == CellCommand.PADDING_NEGOTIATE:
            if not self._owner.is_relay:  # it could take a client's padding away (padding-spec 2.5)
                raise ProtocolError("a relay wants to negotiate padding with a client")
            try:
                self.padding = PaddingNegotiate.decode(cell.body)
            except ProtocolError as error:  # of a later version, perhaps: not worth the circuits on the link
                log.info("padding negotiation of %s ignored: %s", self.address[0], error)
        elif cell.command not in IGNORED_COMMANDS:
            log.debug("cell of command %d for no circuit ignored", cell.command)

    # ---- the end ----

    def close(self, reason: str = "closed", error: Exception | None = None) -> None:
        """Close the link once what was queued is handed over; its circuits hear of it now. Idempotent."""
        if self.closed:
            return
        transport, tls = self._transport, self._tls
        if transport is not None and tls is not None and not transport.is_closing():
            try:
                chunks, _ = self._queues.take(self._queues.cells if self.opened else 0)
                if chunks:
                    tls.send(b"".join(chunks))
            except LinkError:
                pass  # the session broke: nothing more can be said on it
            tls.shut_down()
            self._write_wire()
            transport.close()
            self._loop.call_later(GOODBYE_SECONDS, transport.abort)
        elif transport is not None:
            transport.abort()
        self._lose(reason, error)

    def _lose(self, reason: str, error: Exception | None) -> None:
        if self.closed:
            return
        self.closed = True
        self.close_reason = reason
        self._queues = CellQueues()
        for handler in self._circuits.clear():
            try:
                handler.link_closed(reason)
            except Exception:
                log.exception("bug: circuit on the lost link to %s", self.address[0])
        self._owner.link_lost(self, reason, error)
