"""What circuits to keep ready, learned from what was used (path-spec 2.1.1), without I/O.

Exits: two unused circuits for every port of the last hour, ports 80 and 443 at the start. Internal ones (to
rendezvous points, or to be extended to an introduction point or directory): a few of each length that was
asked for, more where the last minute asked for more. ``now`` is monotonic seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

PORT_MEMORY = 3600.0
INITIAL_PORTS = (80, 443)
EXITS_PER_PORT = 2
MAX_PORTS = 16
LENGTH_MEMORY = 3600.0
RECENT = 60.0
INTERNAL_MIN = 7
"""Connecting to an onion service takes three, and two services may be wanted one after the other; one of a
few may hold the very relay that is to be added."""
INTERNAL_MAX = 16


class Demand:
    """Remembers what was asked for."""

    def __init__(
        self, now: float, *, ports: Iterable[int] = INITIAL_PORTS, lengths: Iterable[int] = ()
    ) -> None:
        """``ports`` and ``lengths`` are expected from the start."""
        self._ports = dict.fromkeys(ports, now)
        self._lengths: dict[int, deque[float]] = {length: deque([now]) for length in lengths}

    def exit_used(self, port: int, now: float) -> None:
        """A stream to ``port`` was asked for."""
        self._ports.pop(port, None)
        self._ports[port] = now
        if len(self._ports) > MAX_PORTS:
            del self._ports[next(iter(self._ports))]

    def internal_used(self, length: int, now: float) -> None:
        """An internal circuit that ``length`` ready hops could have served was asked for."""
        self._lengths.setdefault(length, deque(maxlen=INTERNAL_MAX)).append(now)

    def ports(self, now: float) -> list[int]:
        """The ports that unused exit circuits shall be ready for."""
        return [port for port, used in self._ports.items() if now - used < PORT_MEMORY]

    def internal(self, now: float) -> dict[int, int]:
        """How many internal circuits of each length shall be ready."""
        wanted = {}
        for length, uses in self._lengths.items():
            if now - uses[-1] < LENGTH_MEMORY:
                recent = sum(now - used < RECENT for used in uses)
                wanted[length] = min(max(INTERNAL_MIN, recent), INTERNAL_MAX)
        return wanted
