"""Circuit-level windows and authenticated SENDMEs (tor-spec §7.3, §7.4; proposal 289).

A window object is one side's bookkeeping for one hop: how many more DATA cells may be sent, and when to
acknowledge what came. Cells are counted, never bytes. Each ``increment``-th DATA cell is acknowledged by one
SENDME that quotes that cell's *tag*, so a side that has not really received it can't ask for more.

:class:`FixedWindow` is here; ``vegas.VegasWindow`` is the other kind, with congestion control.
"""

from __future__ import annotations

import hmac
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence

from pelure.errors import ProtocolError
from pelure.tor.circuit.params import CircuitParams
from pelure.tor.circuit.relaycrypto import TAG_LEN
from pelure.tor.circuit.vegas import Vegas

CIRCUIT_WINDOW_MAX = 1000
CIRCUIT_INCREMENT = 100
STREAM_WINDOW = 500
STREAM_INCREMENT = 50


class CircuitWindow(ABC):
    """One side of a hop's circuit-level flow control; both kinds count and tag cells the same way."""

    stream_sendmes: bool
    """Whether streams have windows of their own; otherwise they use XON and XOFF."""

    def __init__(self, increment: int) -> None:
        self.increment = increment
        self.rtt = 0.0
        """Seconds from the last acknowledged cell to its SENDME; 0 before the first."""
        self._awaited: deque[tuple[bytes, float]] = deque()
        self._sent = 0
        self._received = 0

    @abstractmethod
    def room(self) -> int:
        """How many DATA cells may be sent now."""

    def sent(self, tags: Sequence[bytes], now: float) -> None:
        """Note one DATA cell sent for each of ``tags``, the running digests that the sealing gave."""
        first = self.increment - self._sent % self.increment - 1
        self._sent += len(tags)
        for tag in tags[first :: self.increment]:
            self._awaited.append((tag[:TAG_LEN], now))
        self._note_sent(len(tags))

    def received(self, tags: Sequence[bytes]) -> list[bytes]:
        """Note DATA cells that came; returns the tags that are now to be sent back, a SENDME for each."""
        first = self.increment - self._received % self.increment - 1
        self._received += len(tags)
        return [tag[:TAG_LEN] for tag in tags[first :: self.increment]]

    def acknowledged(self, tag: bytes, now: float, blocked: bool) -> None:
        """Process a SENDME. ``blocked``: this circuit's cells are piling up in front of its link.

        Raises ``ProtocolError`` when it comes too early or quotes the wrong cell: close the circuit.
        """
        if not self._awaited:
            raise ProtocolError("a SENDME came that acknowledges nothing")
        expected, sent_at = self._awaited.popleft()
        if not hmac.compare_digest(expected, tag):
            raise ProtocolError("a SENDME quotes the wrong cell")
        self.rtt = now - sent_at
        self._note_acknowledged(self.rtt, blocked)

    @abstractmethod
    def _note_sent(self, count: int) -> None: ...

    @abstractmethod
    def _note_acknowledged(self, rtt: float, blocked: bool) -> None: ...


class FixedWindow(CircuitWindow):
    """A window of up to 1000 cells that reopens by 100 with every SENDME."""

    stream_sendmes = True

    def __init__(self, params: CircuitParams) -> None:
        super().__init__(CIRCUIT_INCREMENT)
        self._room = params.circwindow

    def room(self) -> int:
        return self._room

    def _note_sent(self, count: int) -> None:
        self._room -= count

    def _note_acknowledged(self, rtt: float, blocked: bool) -> None:
        self._room += self.increment
        if self._room > CIRCUIT_WINDOW_MAX:
            raise ProtocolError("a SENDME would open the circuit window too far")


class VegasWindow(CircuitWindow):
    """A congestion window that follows the circuit's round-trip time (proposal 324)."""

    stream_sendmes = False

    def __init__(self, params: CircuitParams, *, onion: bool, increment: int | None = None) -> None:
        """``increment``: cells per SENDME as negotiated for this circuit, where not the consensus' own."""
        super().__init__(increment or params.sendme_inc)
        queue = params.onion_queue if onion else params.exit_queue
        self.vegas = Vegas(params, queue, self.increment)

    def room(self) -> int:
        return max(0, self.vegas.cwnd - self.vegas.inflight)

    def _note_sent(self, count: int) -> None:
        self.vegas.inflight += count

    def _note_acknowledged(self, rtt: float, blocked: bool) -> None:
        self.vegas.acknowledged(int(rtt * 1_000_000), blocked)
