"""What a relay's circuit asks of the relay, and of whoever is behind its streams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pelure.tor.circuit import events as ev
from pelure.tor.circuit.params import CircuitParams
from pelure.tor.crypto.keys import Rng
from pelure.tor.directory.relay import Relay
from pelure.tor.net.links import LinkManager

if TYPE_CHECKING:
    from pelure.tor.relay.circuit import RelayCircuit


class Stream(Protocol):
    """Somebody behind a stream at this relay: a TCP connection, a directory request."""

    @property
    def waiting(self) -> int:
        """Bytes that wait here, towards either side."""
        ...

    def readable(self) -> None:
        """Bytes came for it."""

    def room(self) -> None:
        """Some of what it wrote has left."""

    def ended(self) -> None:
        """The other side, or the whole circuit, is gone."""


class Host(Protocol):
    """The relay, as its circuits see it."""

    links: LinkManager
    params: CircuitParams
    rng: Rng
    relayed_cells: int

    def check_extend(self, relay: Relay) -> Relay:
        """The relay to extend to, completed with what is known. Raises ``ProtocolError`` to refuse."""

    def incoming(self, circuit: RelayCircuit, event: ev.Incoming) -> Stream | None:
        """A stream is wanted; None if it was refused or answered already."""

    def message(self, circuit: RelayCircuit, command: int, data: bytes) -> None:
        """A message of introduction or rendezvous. Raises ``ProtocolError``."""

    def circuit_closed(self, circuit: RelayCircuit) -> None:
        """Forget the circuit."""
