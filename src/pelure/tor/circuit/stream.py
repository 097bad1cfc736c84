"""One stream's end on a circuit, without I/O (tor-spec §6.2, §6.3, §7.4; proposal 324 §4).

The same class serves both sides: the one that opened the stream (a client) and the one that accepted it
(an onion service, an exit, a directory cache). Data to send waits here until windows allow it to leave;
data that came waits here until it is read, and how much waits is what the other side gets to feel.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import TYPE_CHECKING

from pelure.errors import ProtocolError
from pelure.tor.cell.commands import RELAY_BODY_LEN, EndReason, RelayCommand
from pelure.tor.cell.relay_messages import Xoff, Xon
from pelure.tor.circuit.flowcontrol import STREAM_INCREMENT, STREAM_WINDOW
from pelure.tor.circuit.sending import FLOOD_LIMIT, HalfClosed, Sending

if TYPE_CHECKING:
    from pelure.tor.circuit.hop_end import HopEnd

UNREAD_LIMIT = STREAM_WINDOW // 2 * RELAY_BODY_LEN
"""With fixed windows: no SENDME goes out while more unread bytes than this wait."""


class State(Enum):
    """Where a stream is in its life."""

    OPENING = "opening"
    OPEN = "open"
    ENDED = "ended"


class StreamEndpoint:
    """One end of one stream; owned by a :class:`~.hop_end.HopEnd`, which calls the methods marked so."""

    def __init__(self, owner: HopEnd, stream_id: int) -> None:
        self.id = stream_id
        self.state = State.OPENING
        self.buffered = 0
        """Bytes that came and were not read yet."""
        self.pending = 0
        """Bytes written and not sent yet."""
        self.sending = Sending(owner.window.stream_sendmes, owner.signal_limits)
        self._owner = owner
        self._incoming: deque[bytes] = deque()
        self._outgoing: deque[memoryview] = deque()
        self._finish: EndReason | None = None
        self._deliver_room = STREAM_WINDOW
        self._xoff_sent = False

    def __repr__(self) -> str:
        return f"<stream {self.id} {self.state.value}>"

    # ---- what its user calls ----

    def accept(self, data: bytes = b"") -> None:
        """Answer an incoming stream with CONNECTED, whose body is ``data``."""
        self.state = State.OPEN
        self._owner.send(RelayCommand.CONNECTED, self.id, data)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Queue ``data``, which must not change any more; it leaves with the next pump of the hop's end."""
        if len(data) and self.state is not State.ENDED and self._finish is None:
            self._outgoing.append(memoryview(data))
            self.pending += len(data)
            self._owner.want_to_send(self)

    def read(self, limit: int) -> bytes:
        """Take up to ``limit`` bytes of what came (none: ``b""``), and let the other side send more."""
        if not self._incoming:
            return b""
        if self.buffered <= limit:
            data = self._incoming[0] if len(self._incoming) == 1 else b"".join(self._incoming)
            self._incoming.clear()
        else:
            data = self._take(limit)
        self.buffered -= len(data)
        if self.state is not State.ENDED:
            self._consumed()
        return data

    def finish(self, reason: EndReason = EndReason.DONE) -> None:
        """End the stream once everything written was sent; what comes meanwhile can still be read."""
        if self.state is State.ENDED or self._finish is not None:
            return
        self._finish = reason
        if not self.pending:
            self.end(reason)

    def end(self, reason: EndReason = EndReason.MISC, extra: bytes = b"") -> None:
        """End the stream now with an END of ``reason`` (``extra``: its further body); idempotent."""
        if self.state is not State.ENDED:
            self._owner.send(RelayCommand.END, self.id, bytes([reason]) + extra)
            self._owner.forget(self)
            self.closed()

    # ---- what the hop's end calls ----

    def closed(self) -> None:
        """It is over, by whichever side: nothing will be sent any more."""
        self.state = State.ENDED
        self._outgoing.clear()
        self.pending = 0

    def half_closed(self) -> HalfClosed:
        """What may still come for it, as it is about to be ended from here."""
        window = self._deliver_room if self._owner.window.stream_sendmes else None
        return HalfClosed(self.sending, window, answered=self.state is State.OPEN)

    def next_data(self, most: int) -> memoryview:
        """The next bytes to send, in one piece of at least ``most`` bytes where so many wait."""
        first = self._outgoing[0]
        if len(first) < most and len(self._outgoing) > 1:
            pieces, size = [], 0
            while self._outgoing and size < most:
                pieces.append(self._outgoing.popleft())
                size += len(pieces[-1])
            first = memoryview(b"".join(pieces))
            self._outgoing.appendleft(first)
        return first

    def sent(self, size: int, cells: int) -> None:
        """``size`` bytes of :meth:`next_data` left in ``cells`` cells."""
        rest = self._outgoing[0][size:]
        if len(rest):
            self._outgoing[0] = rest
        else:
            self._outgoing.popleft()
        self.pending -= size
        self.sending.sent(size, cells)
        if not self.pending and self._finish is not None:
            self.end(self._finish)

    def received(self, data: bytes, cells: int) -> None:
        """DATA came; raises ``ProtocolError`` if the other side overran what it was allowed."""
        self._incoming.append(data)
        self.buffered += len(data)
        self._deliver_room -= cells
        if self._owner.window.stream_sendmes:
            if self._deliver_room < 0:
                raise ProtocolError("more DATA came than the stream's window allows")
            self._send_sendmes()
        elif self.buffered > self._owner.xoff_limit and not self._xoff_sent:
            self._xoff_sent = True
            self._owner.send(RelayCommand.XOFF, self.id, Xoff().encode())
        if self.buffered > FLOOD_LIMIT:
            raise ProtocolError("the other side does not heed XOFF")

    # ---- inside ----

    def _take(self, limit: int) -> bytes:
        pieces: list[bytes] = []
        while limit:
            piece = self._incoming.popleft()
            if len(piece) > limit:
                self._incoming.appendleft(piece[limit:])
                piece = piece[:limit]
            pieces.append(piece)
            limit -= len(piece)
        return b"".join(pieces)

    def _consumed(self) -> None:
        if self._owner.window.stream_sendmes:
            self._send_sendmes()
        elif self._xoff_sent and not self.buffered:
            self._xoff_sent = False
            self._owner.send(RelayCommand.XON, self.id, Xon().encode())

    def _send_sendmes(self) -> None:
        while self._deliver_room <= STREAM_WINDOW - STREAM_INCREMENT and self.buffered <= UNREAD_LIMIT:
            self._deliver_room += STREAM_INCREMENT
            self._owner.send(RelayCommand.SENDME, self.id)
