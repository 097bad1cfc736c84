"""Noticing dead circuits soon (tor-spec §5.4 leaves it open).

A relay that is killed takes circuits with it, and the DESTROY cells that say so may be late: C tor 0.4.9
writes only the first of them to an idle link and keeps the others back until some other cell goes that way.
So a circuit is *sounded* when there is reason for doubt: RESOLVE of a literal address, which every relay
answers at once and which C tor takes at any hop but a rendezvous or introduction point's. The answer passes
every link on its way, which also makes held DESTROYs move; no answer ends the circuit.

There is *reason* to sound when another circuit that shares a relay was torn down because a link broke: then
an answer must come soon. There is only *doubt* when a circuit that something is expected on stays silent, or
when another one ended in a way that may be quite ordinary: relays that are short of processor time may be
silent for seconds, and a circuit wrongly given up is worse than one that is noticed late.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Collection
from typing import TYPE_CHECKING

from pelure.errors import CircuitError, ProtocolError
from pelure.tor.cell.commands import DestroyReason
from pelure.tor.circuit.stream import StreamEndpoint

if TYPE_CHECKING:
    from pelure.tor.directory.relay import Relay
    from pelure.tor.net.links import LinkManager
    from pelure.tor.net.origin import Circuit

log = logging.getLogger(__name__)

FIRST_SILENCE = 2.0
"""Seconds without a cell on a circuit that something is expected on, before it is sounded."""
LONGEST_SILENCE = 30.0
"""The first silence doubles with every answer, up to this."""
SOON = 3.0
"""With reason, seconds in which the farthest relay asked must answer, counted from the first one's answer."""
LATE = 20.0
"""In doubt, and where no relay at all answers, seconds in which an answer must come."""
SLOWNESS = 10
"""Neither is less than so many times what building the circuit and a round trip on it took."""
GRACE = 0.5
"""Seconds more before the verdict, so that a busy process reads what has come already."""
GATHER = 0.05
"""Seconds from a circuit's loss to the sounding of those that share a relay with it."""
RESPITE = 2.0
"""Seconds from one such round of soundings to the next."""
BROKEN_LINK = frozenset(
    {DestroyReason.CHANNEL_CLOSED, DestroyReason.CONNECTFAILED, DestroyReason.OR_IDENTITY}
)
LITERAL = "0.0.0.0"


class Lookout:
    """Watches one circuit."""

    def __init__(self, circuit: Circuit) -> None:
        # The circuit owns its lookout; a reference back would keep a closed one until the collector comes.
        self._circuit: Circuit = weakref.proxy(circuit)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._interval = FIRST_SILENCE
        self._seen = 0
        self._asked: dict[StreamEndpoint, bool] = {}
        self._answers = 0
        self._verdict: asyncio.TimerHandle | None = None
        self._reason = False
        self._near_answered = False
        self._far_answered = False
        self._heard_then = 0
        self._bytes_then = 0

    @property
    def _heard(self) -> int:
        """Cells that came and were no answers to soundings."""
        return self._circuit.cells_read - self._answers

    def expect(self) -> None:
        """Something is expected on the circuit from now on."""
        self._interval = FIRST_SILENCE
        if self._timer is None:
            self._seen = self._heard
            self._timer = self._loop.call_later(self._interval, self._check)

    def answered(self, endpoint: StreamEndpoint) -> bool:
        """A RESOLVED or END came for ``endpoint``: is it the answer to a sounding?"""
        far = self._asked.pop(endpoint, None)
        if far is None:
            return False
        self._answers += 1
        if far:
            self._far_answered = True
            self._near_answered |= len(self._circuit.path) <= 2
        else:
            self._near_answered = True
            if self._reason and self._verdict is not None:
                self._decide_in(SOON)
        return True

    def stop(self) -> None:
        """The circuit is closed."""
        for timer in (self._timer, self._verdict):
            if timer is not None:
                timer.cancel()

    def sound(self, *, reason: bool) -> None:
        """Ask for a sign of life; ``reason``: as against mere doubt, see the module."""
        circuit = self._circuit
        if circuit.closed.is_set() or not circuit.path:
            return
        if self._verdict is not None:
            if reason and not self._reason:
                self._reason = True
                if self._near_answered:
                    self._decide_in(SOON)
            return
        self._reason = reason
        self._near_answered = self._far_answered = False
        self._heard_then = self._heard
        self._bytes_then = circuit.link.bytes_read
        # The last relay may have a part in a rendezvous; the one before it knows whether it is still there.
        # The first one is asked, too, for the DESTROYs that it may hold back.
        farthest = max(len(circuit.path) - 2, 0)
        try:
            for hop in {farthest, 0}:
                self._asked[circuit.core.resolve(LITERAL, hop)] = hop == farthest
        except ProtocolError:
            return  # no stream id is left: the circuit was used a lot, and others will notice
        circuit.flush()
        self._decide_in(LATE)

    def _decide_in(self, seconds: float) -> None:
        if self._verdict is not None:
            self._verdict.cancel()
        slowness = SLOWNESS * max(self._circuit.build_seconds, self._circuit.rtt)
        self._verdict = self._loop.call_later(max(seconds, slowness), self._before_verdict)

    def _check(self) -> None:
        """Look whether anything came since the last time."""
        circuit = self._circuit
        self._timer = None
        if circuit.closed.is_set() or not circuit.expecting:
            return
        if self._heard != self._seen:
            self._interval = FIRST_SILENCE
        else:
            self.sound(reason=False)
            self._interval = min(2 * self._interval, LONGEST_SILENCE)
        self._seen = self._heard
        self._timer = self._loop.call_later(self._interval, self._check)

    def _before_verdict(self) -> None:
        self._verdict = self._loop.call_later(GRACE, self._judge)

    def _judge(self) -> None:
        self._verdict = None
        circuit = self._circuit
        if circuit.closed.is_set() or self._far_answered or self._heard != self._heard_then:
            return
        if circuit.link.bytes_read == self._bytes_then:
            log.info("the link to the first relay of circuit %d is silent and is closed", circuit.id)
            circuit.link.close("the relay does not answer")
        else:
            circuit.give_up(CircuitError("a relay of the circuit does not answer", DestroyReason.TIMEOUT))


class Fleet:
    """The circuits over the links of one :class:`LinkManager`, as far as they have to hear of one another."""

    def __init__(self) -> None:
        self._circuits: weakref.WeakSet[Circuit] = weakref.WeakSet()
        self._suspects: dict[Relay, bool] = {}
        self._next_round = 0.0

    def add(self, circuit: Circuit) -> None:
        """``circuit`` was made."""
        self._circuits.add(circuit)

    def suspect(self, relays: Collection[Relay], *, reason: bool) -> None:
        """A circuit was lost: one of ``relays`` may be gone, and other circuits with it.

        ``reason``: a link broke, for certain; see the module.
        """
        if relays and not self._suspects:
            loop = asyncio.get_running_loop()
            at = max(loop.time() + GATHER, self._next_round)
            self._next_round = at + RESPITE
            loop.call_at(at, self._sound)
        for relay in relays:
            self._suspects[relay] = reason or self._suspects.get(relay, False)

    def sound_all(self) -> None:
        """All of them may be gone: ask each for a sign of life."""
        for circuit in list(self._circuits):
            circuit.lookout.sound(reason=True)

    def _sound(self) -> None:
        suspects, self._suspects = self._suspects, {}
        for circuit in list(self._circuits):
            shared = [suspects[relay] for relay in circuit.path if relay in suspects]
            if shared:
                circuit.lookout.sound(reason=any(shared))


_fleets: weakref.WeakKeyDictionary[LinkManager, Fleet] = weakref.WeakKeyDictionary()


def fleet_of(links: LinkManager) -> Fleet:
    """The fleet of circuits over ``links``."""
    return _fleets.setdefault(links, Fleet())
