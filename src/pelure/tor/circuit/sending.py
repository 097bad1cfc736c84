"""What the other side says about how much a stream may send: SENDME, XON and XOFF (tor-spec §7.4; proposal
324 §4), and what may still come for a stream that is over.

A relay could say any of it to mark a client's circuit for somebody who watches elsewhere (*DropMark*), so an
origin takes only what its own cells can have brought about, and closes the circuit for anything else.
"""

from __future__ import annotations

from pelure.errors import ProtocolError
from pelure.tor.cell.commands import RELAY_BODY_LEN, RelayCommand
from pelure.tor.cell.relay_messages import Xoff, Xon
from pelure.tor.circuit.flowcontrol import STREAM_INCREMENT, STREAM_WINDOW
from pelure.tor.circuit.params import SignalLimits

FLOOD_LIMIT = 1 << 25
"""With XON/XOFF: a peer that has so many unread bytes lying here ignored XOFF, or an END."""
_UNLIMITED = 1 << 30


class Sending:
    """How much one stream may send. ``stream_sendmes``: it has a window, else there are XON and XOFF.

    ``limits``: None for a relay's end, which nobody gains anything by marking.
    """

    def __init__(self, stream_sendmes: bool, limits: SignalLimits | None) -> None:
        self.stopped = False
        """XOFF came last."""
        self._window = STREAM_WINDOW if stream_sendmes else None
        self._limits = limits
        self._bytes = 0
        self._xoffs = 0
        self._advice = 0

    def room(self) -> int:
        """How many DATA cells may be sent."""
        if self._window is None:
            return 0 if self.stopped else _UNLIMITED
        return self._window

    def sent(self, size: int, cells: int) -> None:
        """``size`` bytes left in ``cells`` cells."""
        self._bytes += size
        if self._window is not None:
            self._window -= cells

    def take(self, command: int, data: bytes) -> None:
        """A SENDME, XON or XOFF came. Raises ``ProtocolError`` if none can have been due.

        The rate that XON advises is not needed: who can't keep up says XOFF again.
        """
        if command == RelayCommand.SENDME:
            self._sendme()
            return
        if self._window is not None:
            raise ProtocolError("XON or XOFF came on a circuit without congestion control")
        if command == RelayCommand.XON:
            Xon.decode(data)
            self._advice += not self.stopped
        else:
            Xoff.decode(data)
            self._xoffs += 1
        self.stopped = command == RelayCommand.XOFF
        self._check_due()

    def _sendme(self) -> None:
        if self._window is None:
            raise ProtocolError("a stream SENDME came on a circuit with congestion control")
        self._window += STREAM_INCREMENT
        if self._window > STREAM_WINDOW:
            raise ProtocolError("a SENDME would open the stream window too far")

    def _check_due(self) -> None:
        limits = self._limits
        if limits is not None and self._bytes < max(self._xoffs * limits.xoff, self._advice * limits.xon):
            raise ProtocolError("XON or XOFF came before the stream had sent enough for it")


class HalfClosed:
    """What may still come for a stream that this side ended, from before the other side knew."""

    def __init__(self, sending: Sending, window: int | None, *, answered: bool) -> None:
        """``window``: cells of DATA; None without stream windows. ``answered``: CONNECTED came."""
        self.sending = sending
        self.room = FLOOD_LIMIT // RELAY_BODY_LEN if window is None else window
        self.answered = answered

    def data(self, cells: int) -> None:
        """DATA came. Raises ``ProtocolError`` if it can't have been on its way."""
        self.room -= cells
        if self.room < 0 or not self.answered:
            raise ProtocolError("more DATA came than an ended stream can still get")

    def answer(self) -> None:
        """CONNECTED or RESOLVED came. Raises ``ProtocolError`` if the stream had its answer."""
        if self.answered:
            raise ProtocolError("a stream was answered twice")
        self.answered = True
