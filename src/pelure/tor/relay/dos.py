"""What a relay refuses those who want too much, as the consensus says (param-spec 9: ``DoS…`` parameters).

Clients are told apart by their addresses, for connections and circuits; the streams that an exit opens are
counted for each circuit. Nothing is refused unless the consensus switches it on. ``now``: monotonic seconds.
No I/O.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from pelure.tor.net.throttle import Bucket

CONNECTION_MARK_SECONDS = 24 * 3600
CIRCUIT_MARK_SECONDS = 3600
Params = Mapping[str, int]


class Defence(IntEnum):
    """What the ``…DefenseType`` parameters may ask for; 3 is known for streams only."""

    NONE = 1
    REFUSE = 2
    CLOSE_CIRCUIT = 3


@dataclass(slots=True)
class _Client:
    """One address. Its marks are when it ceases to be refused."""

    connects: Bucket
    circuits: Bucket
    links: int = 0
    connects_mark: float = 0.0
    circuits_mark: float = 0.0


class ClientLimits:
    """Connections and circuits of clients, by IP address."""

    def __init__(self) -> None:
        self.params: Params = {}
        """Consensus parameters; buckets that are in use keep their rates when they change."""
        self._clients: dict[str, _Client] = {}
        self._gone: dict[str, float] = {}
        """Addresses without links, and when they are forgotten."""

    def __len__(self) -> int:
        return len(self._clients)

    def _param(self, name: str, default: int) -> int:
        return max(self.params.get(f"DoS{name}", default), 1)

    def _defends(self, subject: str) -> bool:
        on = self.params.get(f"DoS{subject}Enabled", 0) == 1
        return on and self._param(f"{subject}DefenseType", Defence.REFUSE) == Defence.REFUSE

    def may_connect(self, address: str, now: float) -> bool:
        """Whether another connection from ``address`` is to be taken."""
        client = self._clients.get(address)
        if client is None or not self._defends("Connection"):
            return True
        most = self._param("ConnectionMaxConcurrentCount", 100)
        return now >= client.connects_mark and client.links <= most

    def connected(self, address: str, now: float) -> None:
        """A client's link is open."""
        client = self._clients.get(address)
        if client is None:
            client = self._clients[address] = self._new_client(now)
        self._gone.pop(address, None)
        client.links += 1
        client.connects.take(now)
        if client.connects.tokens < 1 and now >= client.connects_mark:
            seconds = self._param("ConnectionConnectDefenseTimePeriod", CONNECTION_MARK_SECONDS)
            client.connects_mark = _mark(now, seconds)

    def _new_client(self, now: float) -> _Client:
        connects = Bucket(
            self._param("ConnectionConnectRate", 20), self._param("ConnectionConnectBurst", 40), now
        )
        circuits = Bucket(self._param("CircuitCreationRate", 3), self._param("CircuitCreationBurst", 90), now)
        return _Client(connects, circuits)

    def disconnected(self, address: str, now: float) -> None:
        """A client's link, open before, is gone."""
        client = self._clients[address]
        client.links -= 1
        if not client.links:
            refilled = max(bucket.burst / bucket.rate for bucket in (client.connects, client.circuits))
            self._gone[address] = max(now + refilled, client.connects_mark, client.circuits_mark)

    def may_create(self, address: str, now: float) -> bool:
        """Count a circuit that a client asks for; whether it is to have it."""
        client = self._clients[address]
        client.circuits.take(now)
        if client.circuits.tokens < 1 and client.links >= self._param("CircuitCreationMinConnections", 3):
            seconds = self._param("CircuitCreationDefenseTimePeriod", CIRCUIT_MARK_SECONDS)
            client.circuits_mark = _mark(now, seconds)
        return now >= client.circuits_mark or not self._defends("CircuitCreation")

    def expire(self, now: float) -> None:
        """Forget addresses of which nothing is left to be held against them."""
        for address, until in list(self._gone.items()):
            if until <= now:
                del self._gone[address], self._clients[address]


def _mark(now: float, seconds: float) -> float:
    """The end of a defence, which a client should not be able to predict."""
    return now + seconds + random.uniform(0, seconds / 2)


class StreamLimits:
    """BEGIN and RESOLVE messages, by circuit."""

    def __init__(self) -> None:
        self.params: Params = {}
        """As in :class:`ClientLimits`."""
        self._buckets: dict[Hashable, Bucket] = {}

    def ask(self, circuit: Hashable, now: float) -> Defence:
        """Count a stream that ``circuit`` wants to open; what to do about it."""
        if self.params.get("DoSStreamCreationEnabled", 0) != 1:
            return Defence.NONE
        bucket = self._buckets.get(circuit)
        if bucket is None:
            rate = max(self.params.get("DoSStreamCreationRate", 100), 1)
            burst = max(self.params.get("DoSStreamCreationBurst", 300), 1)
            bucket = self._buckets[circuit] = Bucket(rate, burst, now)
        if bucket.take(now):
            return Defence.NONE
        kind = self.params.get("DoSStreamCreationDefenseType", Defence.REFUSE)
        return Defence(min(max(kind, Defence.NONE), Defence.CLOSE_CIRCUIT))

    def forget(self, circuit: Hashable) -> None:
        """The circuit is closed."""
        self._buckets.pop(circuit, None)
