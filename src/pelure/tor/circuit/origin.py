"""A circuit seen from its origin: building it, and all its traffic, without I/O (tor-spec §5, §6).

The owner feeds :meth:`OriginCircuit.receive` with what the link brings, calls :meth:`OriginCircuit.pump` when
there may be data to send, and sends what :meth:`OriginCircuit.take_output` returns. ``now`` is monotonic
seconds throughout. Messages may go to every hop (the *leaky pipe*), but only the last hop's are taken;
``hop`` counts from 0.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from pelure.errors import CircuitError, ProtocolError
from pelure.tor.cell.commands import RELAY_BODY_LEN, CellCommand, DestroyReason, RelayCommand, reason_name
from pelure.tor.cell.framing import Cell, Run
from pelure.tor.cell.messages import Create2, Created2, CreateFast, Destroy
from pelure.tor.cell.relay_messages import Begin, Extend2, Extended2, Resolve, Truncated
from pelure.tor.circuit import handshakes
from pelure.tor.circuit.events import CircuitClosed, Event, HopAdded, RelayMessageReceived
from pelure.tor.circuit.flowcontrol import CircuitWindow, FixedWindow, VegasWindow
from pelure.tor.circuit.handshakes import Handshake
from pelure.tor.circuit.hop_end import HopEnd
from pelure.tor.circuit.params import CircuitParams
from pelure.tor.circuit.relaycrypto import CELL_HEADER_LEN, Bodies, HopKeys, OriginCrypto
from pelure.tor.circuit.stream import StreamEndpoint
from pelure.tor.crypto.keys import Rng
from pelure.tor.directory.relay import Relay

CELL_LEN = 514
MAX_EARLY = 8
"""A relay closes a circuit on which it sees more RELAY_EARLY cells (tor-spec §5.6)."""
EARLY_FOR_EXTENDING = 4
"""So many of them are kept for EXTEND2, which no relay passes on in anything else."""


@dataclass
class Hop:
    """One hop of a circuit: ``relay`` is None for the virtual hop at a joined rendezvous."""

    relay: Relay | None
    end: HopEnd
    kh: bytes = field(repr=False)
    """20 bytes of this hop's handshake that ESTABLISH_INTRO is bound to."""


class OriginCircuit:
    """See the module. Every method may raise ``ProtocolError``; the circuit must then be destroyed."""

    def __init__(self, circ_id: int, rng: Rng, params: CircuitParams) -> None:
        self.circ_id = circ_id
        self.params = params
        self.hops: list[Hop] = []
        self.closed = False
        self._rng = rng
        self._crypto = OriginCrypto()
        self._output: list[Cell | Run] = []
        self._pending: tuple[Relay | None, Handshake] | None = None
        self._early_left = MAX_EARLY - rng(1)[0] % 2
        header = circ_id.to_bytes(4) + bytes([CellCommand.RELAY])
        self._header = np.frombuffer(header, np.uint8)

    # ---- building ----

    def create(self, relay: Relay, *, fast: bool = False, congestion_control: bool = False) -> None:
        """Make the first hop; ``fast``: by CREATE_FAST, for one-hop directory circuits.

        :class:`HopAdded` follows. Raises ``CircuitError`` for a relay whose onion key is unknown.
        """
        if fast:
            handshake = handshakes.start_fast(self._rng)
            self._output.append(CreateFast(handshake.request).cell(self.circ_id))
        else:
            handshake = self._start(relay, congestion_control)
            assert handshake.kind is not None
            self._output.append(Create2(handshake.kind, handshake.request).cell(self.circ_id))
        self._pending = (relay, handshake)

    def extend(self, relay: Relay, *, congestion_control: bool = False) -> None:
        """Make the next hop; :class:`HopAdded` follows. Raises ``CircuitError`` as :meth:`create` does."""
        if self._pending is not None or not self.hops:
            raise CircuitError("a circuit is extended one hop after the other")
        handshake = self._start(relay, congestion_control)
        assert handshake.kind is not None
        message = Extend2(tuple(relay.link_specifiers()), handshake.kind, handshake.request)
        self._pending = (relay, handshake)
        self.hops[-1].end.send(RelayCommand.EXTEND2, 0, message.encode())

    def add_hs_hop(self, keys: HopKeys, *, service: bool, sendme_inc: int | None) -> int:
        """Add the virtual hop to the other side of a joined rendezvous; returns its number.

        ``keys``: as hs-ntor gives them to both sides (``HopKeys.service``). ``service``: this is the onion
        service's side, which accepts streams. ``sendme_inc``: cells per SENDME if the two sides agreed on
        congestion control, by the descriptor's ``flow-control`` line and INTRODUCE1's extension; else None.
        """
        window = self._window(sendme_inc, onion=True)
        return self._add_hop(None, keys.swapped() if service else keys, window, b"", initiator=not service)

    def _start(self, relay: Relay, congestion_control: bool) -> Handshake:
        return handshakes.start(relay, self.params, self._rng, congestion_control=congestion_control)

    def _window(self, sendme_inc: int | None, *, onion: bool) -> CircuitWindow:
        if sendme_inc is None:
            return FixedWindow(self.params)
        return VegasWindow(self.params, onion=onion, increment=sendme_inc)

    def _add_hop(
        self, relay: Relay | None, keys: HopKeys, window: CircuitWindow, kh: bytes, *, initiator: bool = True
    ) -> int:
        hop = len(self.hops)
        # Not ``self``: a closed circuit with all its hops' keys would wait for the garbage collector.
        emit = partial(OriginCircuit._emit, weakref.proxy(self), hop)
        end = HopEnd(
            hop,
            window,
            emit,
            self._rng,
            initiator=initiator,
            xoff_limit=self.params.xoff_client * RELAY_BODY_LEN,
            signal_limits=self.params.signal_limits,
        )
        self._crypto.add_hop(keys)
        self.hops.append(Hop(relay, end, kh))
        return hop

    def _finish_handshake(self, reply: bytes) -> HopAdded:
        if self._pending is None:
            raise ProtocolError("an answer came to a handshake that was not begun")
        relay, handshake = self._pending
        self._pending = None
        secrets = handshake.finish(reply)
        window = self._window(secrets.sendme_inc, onion=False)
        return HopAdded(self._add_hop(relay, secrets.keys, window, secrets.kh))

    # ---- streams and messages ----

    def open_stream(self, host: str, port: int, *, flags: int = 0) -> StreamEndpoint:
        """BEGIN a stream to ``host`` (empty for an onion service); data may be written at once."""
        return self.hops[-1].end.open(RelayCommand.BEGIN, Begin(host, port, flags).encode())

    def begin_dir(self) -> StreamEndpoint:
        """Open a stream to the directory cache that the last hop is."""
        return self.hops[-1].end.open(RelayCommand.BEGIN_DIR, b"")

    def resolve(self, name: str, hop: int = -1) -> StreamEndpoint:
        """Let ``hop`` look up a host name (or an ``in-addr.arpa`` name); ``Resolved`` follows."""
        return self.hops[hop].end.open(RelayCommand.RESOLVE, Resolve(name).encode())

    def send_message(self, hop: int, command: int, data: bytes, stream_id: int = 0) -> None:
        """Send any one message to ``hop``."""
        self.hops[hop].end.send(command, stream_id, data)

    def pump(self, now: float, room: int) -> int:
        """Send waiting stream data in up to ``room`` cells; returns how many."""
        sent = 0
        for hop in self.hops:
            sent += hop.end.pump(now, room - sent)
        return sent

    def set_blocked(self, blocked: bool) -> None:
        """Cells of this circuit pile up in front of its link, or no more: Vegas takes that for congestion."""
        for hop in self.hops:
            hop.end.blocked = blocked

    def take_output(self) -> list[Cell | Run]:
        """What is to be sent on the link, in order; the caller owns it."""
        output, self._output = self._output, []
        return output

    def destroy(self, reason: DestroyReason = DestroyReason.NONE) -> None:
        """Close the circuit with a DESTROY; idempotent. Origins send reason NONE (tor-spec §5.4)."""
        if not self.closed:
            self.closed = True
            self._output.append(Destroy(reason).cell(self.circ_id))

    def _emit(self, hop: int, bodies: Bodies | bytearray) -> list[bytes]:
        if isinstance(bodies, bytearray):
            early = self._early(hop, 1, bodies[0] == RelayCommand.EXTEND2)
            tag = self._crypto.encrypt_one(hop, bodies)
            command = CellCommand.RELAY_EARLY if early else CellCommand.RELAY
            self._output.append(Cell(self.circ_id, command, bytes(bodies)))
            return [tag]
        tags = self._crypto.encrypt(hop, bodies)
        cells = np.empty((len(bodies), CELL_LEN), np.uint8)
        cells[:, :CELL_HEADER_LEN] = self._header
        cells[:, CELL_HEADER_LEN:] = bodies
        cells[: self._early(hop, len(cells)), CELL_HEADER_LEN - 1] = CellCommand.RELAY_EARLY
        self._output.append(Run(self.circ_id, cells))
        return tags

    def _early(self, hop: int, cells: int, extending: bool = False) -> int:
        """How many of ``cells`` cells to ``hop`` are to go as RELAY_EARLY: EXTEND2, and the first ones beyond
        the first hop, so as not to show the circuit's length."""
        if not self._early_left or not (extending or hop > 0):
            return 0
        early = 1 if extending else min(max(self._early_left - EARLY_FOR_EXTENDING, 0), cells)
        self._early_left -= early
        return early

    # ---- receiving ----

    def receive(self, item: Cell | Run, now: float) -> list[Event]:
        """Take in what the link brought for this circuit."""
        if isinstance(item, Cell):
            if item.command != CellCommand.RELAY:
                return [self._receive_cell(item)]
            body = bytearray(item.body)
            hop, tag = self._crypto.decrypt_one(body)
            return self._seen(self.hops[hop].end.receive_one(body, tag, now))
        if item.has_early:
            raise ProtocolError("a RELAY_EARLY cell came towards the circuit's origin")
        events: list[Event] = []
        for part in self._crypto.decrypt(np.ascontiguousarray(item.cells[:, CELL_HEADER_LEN:])):
            events += self._seen(self.hops[part.hop].end.receive(part.bodies, part.tags, now))
        return events

    def _seen(self, events: list[Event]) -> list[Event]:
        """A hop's events, with what the circuit makes of the messages that are its own."""
        return [
            self._receive_message(event) if isinstance(event, RelayMessageReceived) else event
            for event in events
        ]

    def _receive_cell(self, cell: Cell) -> Event:
        if cell.command == CellCommand.DESTROY:
            self.closed = True
            return self._closed_by(Destroy.decode(cell.body).reason, "destroyed")
        if self.hops or self._pending is None:
            raise ProtocolError("a cell came that has no place on a circuit that exists")
        kind = self._pending[1].kind
        if cell.command == CellCommand.CREATED2 and kind is not None:
            return self._finish_handshake(Created2.decode(cell.body).handshake)
        if cell.command == CellCommand.CREATED_FAST and kind is None:
            return self._finish_handshake(cell.body[:40])
        raise ProtocolError(f"a cell of command {cell.command} came instead of the answer to CREATE")

    def _receive_message(self, event: RelayMessageReceived) -> Event:
        if event.command == RelayCommand.TRUNCATED:
            return self._closed_by(Truncated.decode(event.data).reason, f"cut off behind hop {event.hop + 1}")
        if event.hop != len(self.hops) - 1:
            # A relay in the middle that could make a service answer would know whose circuit it has.
            raise ProtocolError(f"a message of command {event.command} came from a hop in the middle")
        if event.command == RelayCommand.EXTENDED2:
            return self._finish_handshake(Extended2.decode(event.data).handshake)
        return event

    def _closed_by(self, reason: int, how: str) -> CircuitClosed:
        text = f"the circuit was {how} by a relay ({reason_name(DestroyReason, reason)})"
        return CircuitClosed(reason, True, text)
