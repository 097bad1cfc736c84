"""One side of the conversation with one hop: its window, its streams, its messages (tor-spec §6, §7).

A circuit's origin has a :class:`HopEnd` for every hop it talks to; an exit, a directory cache and an onion
service have one for the circuit's origin. The two sides differ only in who opens streams.

The owner gives an ``emit`` function that seals plain relay bodies (a run's, or a lone cell's), encrypts and
queues them, and returns their running digests; it hands what comes in to :meth:`HopEnd.receive` by the run or
to :meth:`HopEnd.receive_one`, and lets data leave with :meth:`HopEnd.pump`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from pelure.errors import ProtocolError
from pelure.tor.cell.commands import RELAY_BODY_LEN, RelayCommand
from pelure.tor.cell.framing import FEW
from pelure.tor.cell.relay_header import decode_relay_body, encode_relay_body
from pelure.tor.cell.relay_messages import Sendme
from pelure.tor.circuit.datacells import STREAM_ID, DataBuilder, data_of, message_bodies
from pelure.tor.circuit.events import (
    Event,
    Incoming,
    RelayMessageReceived,
    Resolved,
    StreamData,
    StreamEnded,
    StreamOpened,
    StreamResumed,
)
from pelure.tor.circuit.flowcontrol import CircuitWindow
from pelure.tor.circuit.params import SignalLimits
from pelure.tor.circuit.relaycrypto import Bodies
from pelure.tor.circuit.sending import HalfClosed
from pelure.tor.circuit.stream import State, StreamEndpoint
from pelure.tor.crypto.keys import Rng

Emit = Callable[[Bodies | bytearray], list[bytes]]
TURN = 64
"""Cells a stream may send before the next stream of the circuit gets its turn."""
MAX_STREAMS = 65535
MAX_HALF_CLOSED = 2048
"""So many streams that this side ended are remembered, for what the other side sent before it knew."""
_DATA = int(RelayCommand.DATA)
_OPENING = frozenset({RelayCommand.BEGIN, RelayCommand.BEGIN_DIR, RelayCommand.RESOLVE})


class HopEnd:
    """See the module. ``hop`` is what events name it by, ``xoff_limit`` bytes (see ``CircuitParams``).

    ``signal_limits``: at a circuit's origin, how often its streams may get XON and XOFF.
    """

    def __init__(
        self,
        hop: int,
        window: CircuitWindow,
        emit: Emit,
        rng: Rng,
        *,
        initiator: bool,
        xoff_limit: int,
        signal_limits: SignalLimits | None = None,
    ) -> None:
        self.hop = hop
        self.window = window
        self.xoff_limit = xoff_limit
        self.signal_limits = signal_limits
        self.streams: dict[int, StreamEndpoint] = {}
        self.blocked = False
        """Set by the owner while cells of the circuit pile up in front of its link: Vegas wants to know."""
        self._emit = emit
        self._rng = rng
        self._initiator = initiator
        self._builder = DataBuilder(rng)
        self._waiting: deque[StreamEndpoint] = deque()
        self._half_closed: dict[int, HalfClosed] = {}
        self._next_id = int.from_bytes(rng(2))

    # ---- sending ----

    def send(self, command: int, stream_id: int = 0, data: bytes = b"") -> None:
        """Send one message other than DATA at once. Raises ``ProtocolError`` for more than 498 bytes."""
        self._emit(bytearray(encode_relay_body(command, stream_id, data, self._rng)))

    def _send_sendmes(self, due: list[bytes]) -> None:
        """Acknowledge the cells of these tags, all in one run."""
        if len(due) == 1:
            self.send(RelayCommand.SENDME, 0, Sendme(due[0]).encode())
            return
        data = b"".join([Sendme(tag).encode() for tag in due])
        self._emit(message_bodies(RelayCommand.SENDME, data, len(due), self._rng))

    def open(self, command: RelayCommand, data: bytes) -> StreamEndpoint:
        """Open a stream with BEGIN, BEGIN_DIR or RESOLVE; data may be written to it at once.

        Raises ``ProtocolError`` when no stream id is left.
        """
        stream = StreamEndpoint(self, self._free_id())
        self.streams[stream.id] = stream
        self.send(command, stream.id, data)
        return stream

    def _free_id(self) -> int:
        if len(self.streams) + len(self._half_closed) >= MAX_STREAMS:
            raise ProtocolError("the circuit has no free stream id left")
        while True:
            self._next_id = self._next_id % MAX_STREAMS + 1
            if self._next_id not in self.streams and self._next_id not in self._half_closed:
                return self._next_id

    def want_to_send(self, stream: StreamEndpoint) -> None:
        """Remember that ``stream`` has data to send."""
        if stream not in self._waiting:
            self._waiting.append(stream)

    def pump(self, now: float, room: int) -> int:
        """Send waiting data, up to ``room`` cells and as the windows allow; returns the number of cells sent.

        ``now``: monotonic seconds. Streams take turns.
        """
        if not self._waiting:
            return 0
        room = left = min(room, self.window.room())
        held: list[StreamEndpoint] = []
        while left > 0 and self._waiting:
            stream = self._waiting.popleft()
            alone = not self._waiting
            allowed = min(left if alone else min(TURN, left), stream.sending.room())
            if stream.pending and allowed:
                left -= self._send_data(stream, allowed, now)
            if stream.pending:
                if stream.sending.room():
                    self._waiting.append(stream)
                else:
                    held.append(stream)
        self._waiting.extend(held)
        return room - left

    def _send_data(self, stream: StreamEndpoint, limit: int, now: float) -> int:
        """Send up to ``limit`` cells of ``stream``'s data, one if it is little; returns how many."""
        data = stream.next_data(limit * RELAY_BODY_LEN)
        bodies: Bodies | bytearray
        if len(data) <= FEW * RELAY_BODY_LEN:
            bodies, size = self._builder.build_one(stream.id, data)
        else:
            bodies, size = self._builder.build(stream.id, data, limit)
        tags = self._emit(bodies)
        self.window.sent(tags, now)
        stream.sent(size, len(tags))
        return len(tags)

    def forget(self, stream: StreamEndpoint) -> None:
        """This side ends ``stream``; something may still be on its way to it."""
        self.streams.pop(stream.id, None)
        if self._initiator:
            self._half_closed[stream.id] = stream.half_closed()
            if len(self._half_closed) > MAX_HALF_CLOSED:
                del self._half_closed[next(iter(self._half_closed))]  # the oldest: nothing comes any more

    # ---- receiving ----

    def receive(self, bodies: Bodies, tags: Sequence[bytes], now: float) -> list[Event]:
        """Take in plain bodies of recognized cells with their running digests.

        Raises ``ProtocolError`` when the circuit has to be closed for what came.
        """
        events: list[Event] = []
        due: list[bytes] = []
        for first, end in _alike(bodies):
            piece = bodies[first:end]
            command, stream_id = int(piece[0, 0]), int.from_bytes(piece[0, STREAM_ID].tobytes())
            if command == _DATA:
                due += self.window.received(tags[first:end])
                self._receive_data(stream_id, data_of(piece), len(piece), events)
            else:
                for row in range(len(piece)):
                    self._receive_message(command, stream_id, data_of(piece[row : row + 1]), now, events)
        if due:
            self._send_sendmes(due)
        return events

    def receive_one(self, body: bytearray, tag: bytes, now: float) -> list[Event]:
        """:meth:`receive` for a lone cell."""
        events: list[Event] = []
        message = decode_relay_body(body)
        if message.command == _DATA:
            due = self.window.received([tag])
            self._receive_data(message.stream_id, message.data, 1, events)
            if due:
                self._send_sendmes(due)
        else:
            self._receive_message(message.command, message.stream_id, message.data, now, events)
        return events

    def _receive_data(self, stream_id: int, data: bytes, cells: int, events: list[Event]) -> None:
        stream = self.streams.get(stream_id)
        if stream is not None:
            if self._initiator and stream.state is State.OPENING:
                raise ProtocolError("DATA came on a stream that is not connected")
            stream.received(data, cells)
            if data:
                events.append(StreamData(stream))
        elif self._initiator:
            self._ended(stream_id).data(cells)

    def _ended(self, stream_id: int) -> HalfClosed:
        """A stream that is not open. Raises ``ProtocolError`` if nothing can come for it any more."""
        half_closed = self._half_closed.get(stream_id)
        if half_closed is None:
            raise ProtocolError("a message came for a stream that was never opened, or ended by who sent it")
        return half_closed

    def _receive_message(
        self, command: int, stream_id: int, data: bytes, now: float, events: list[Event]
    ) -> None:
        if command == RelayCommand.SENDME and stream_id == 0:
            self.window.acknowledged(Sendme.decode(data).tag or b"", now, self.blocked)
        elif command == RelayCommand.DROP:
            pass
        elif command in _OPENING and not self._initiator:
            self._receive_opening(command, stream_id, data, events)
        elif command in _STREAM_MESSAGES:
            stream = self.streams.get(stream_id)
            if stream is not None:
                _STREAM_MESSAGES[command](self, stream, command, data, events)
            elif self._initiator:
                self._receive_late(command, stream_id, data)
        else:
            events.append(RelayMessageReceived(self.hop, command, stream_id, data))

    def _receive_late(self, command: int, stream_id: int, data: bytes) -> None:
        """A message for a stream that this side has ended."""
        half_closed = self._ended(stream_id)
        if command in (RelayCommand.CONNECTED, RelayCommand.RESOLVED):
            half_closed.answer()
        elif command != RelayCommand.END:
            half_closed.sending.take(command, data)
        if command in (RelayCommand.END, RelayCommand.RESOLVED):
            del self._half_closed[stream_id]

    def _receive_opening(self, command: int, stream_id: int, data: bytes, events: list[Event]) -> None:
        if stream_id == 0 or stream_id in self.streams:
            raise ProtocolError("a stream was opened with an id that is not free")
        stream = self.streams[stream_id] = StreamEndpoint(self, stream_id)
        events.append(Incoming(stream, command, data))

    def _on_connected(self, stream: StreamEndpoint, command: int, data: bytes, events: list[Event]) -> None:
        if not self._initiator or stream.state is not State.OPENING:
            raise ProtocolError("CONNECTED came out of turn")
        stream.state = State.OPEN
        events.append(StreamOpened(stream, data))

    def _on_end(self, stream: StreamEndpoint, command: int, data: bytes, events: list[Event]) -> None:
        del self.streams[stream.id]
        stream.closed()
        events.append(StreamEnded(stream, data))

    def _on_resolved(self, stream: StreamEndpoint, command: int, data: bytes, events: list[Event]) -> None:
        if not self._initiator or stream.state is not State.OPENING:
            raise ProtocolError("RESOLVED came out of turn")
        del self.streams[stream.id]
        stream.closed()
        events.append(Resolved(stream, data))

    def _on_signal(self, stream: StreamEndpoint, command: int, data: bytes, events: list[Event]) -> None:
        stream.sending.take(command, data)
        if command != RelayCommand.XOFF:
            events.append(StreamResumed(stream))


def _alike(bodies: Bodies) -> Iterable[tuple[int, int]]:
    """Where consecutive messages of one command and one stream start and end."""
    start = bodies[:, :5].tobytes()
    if start == start[:5] * len(bodies):
        return [(0, len(bodies))]
    head = bodies[:, :5]
    edges = (np.flatnonzero((head[1:] != head[:-1]).any(axis=1)) + 1).tolist()
    return zip([0, *edges], [*edges, len(bodies)], strict=True)


_STREAM_MESSAGES: dict[int, Callable[[HopEnd, StreamEndpoint, int, bytes, list[Event]], None]] = {
    RelayCommand.CONNECTED: HopEnd._on_connected,
    RelayCommand.END: HopEnd._on_end,
    RelayCommand.RESOLVED: HopEnd._on_resolved,
    RelayCommand.SENDME: HopEnd._on_signal,
    RelayCommand.XON: HopEnd._on_signal,
    RelayCommand.XOFF: HopEnd._on_signal,
}
