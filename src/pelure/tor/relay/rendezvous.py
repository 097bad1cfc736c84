"""Rendezvous points: circuits of clients that wait with a cookie, and joining them (rend-spec-v3 4.1, 4.2).

Once two circuits are joined, the relay passes runs of cells between them and knows nothing of what they say.
"""

from __future__ import annotations

from collections.abc import Mapping

from pelure.errors import ProtocolError
from pelure.tor.cell.commands import DestroyReason, RelayCommand
from pelure.tor.cell.onion_messages import COOKIE_LEN, EstablishRendezvous, Rendezvous1, Rendezvous2
from pelure.tor.relay.circuit import RelayCircuit, Role

WAIT_SECONDS = 600.0  # a client that was not met by then has long given up


class RendezvousPoints:
    """Circuits that wait, by cookie."""

    def __init__(self) -> None:
        self.params: Mapping[str, int] = {}
        """Consensus parameters."""
        self._waiting: dict[bytes, tuple[RelayCircuit, float]] = {}
        self._cookies: dict[RelayCircuit, bytes] = {}
        self.joined = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def establish(self, circuit: RelayCircuit, data: bytes, now: float) -> None:
        """ESTABLISH_RENDEZVOUS. Raises ``ProtocolError`` for a cookie that is taken or malformed.

        So it does for a client that came here in person, where the consensus wants that.
        """
        if not circuit.is_free:
            raise ProtocolError("ESTABLISH_RENDEZVOUS came on a circuit that is in use")
        if circuit.link.peer.rsa_id is None and self.params.get("DoSRefuseSingleHopClientRendezvous", 0):
            raise ProtocolError("ESTABLISH_RENDEZVOUS came on a circuit of one hop")
        if len(data) != COOKIE_LEN:
            raise ProtocolError("ESTABLISH_RENDEZVOUS with a cookie of the wrong length")
        cookie = EstablishRendezvous.decode(data).cookie
        if cookie in self._waiting:
            raise ProtocolError("ESTABLISH_RENDEZVOUS with a cookie that another circuit waits with")
        circuit.role = Role.RENDEZVOUS
        self._waiting[cookie] = (circuit, now + WAIT_SECONDS)
        self._cookies[circuit] = cookie
        circuit.send(RelayCommand.RENDEZVOUS_ESTABLISHED)

    def join(self, service: RelayCircuit, data: bytes) -> None:
        """RENDEZVOUS1: join the service's circuit with the one that waits; a cookie serves once.

        Raises ``ProtocolError`` if no circuit waits with this cookie.
        """
        if not service.is_free:
            raise ProtocolError("RENDEZVOUS1 came on a circuit that is in use")
        message = Rendezvous1.decode(data)
        found = self._waiting.pop(message.cookie, None)
        if found is None:
            raise ProtocolError("RENDEZVOUS1 with a cookie that no circuit waits with")
        client, _ = found
        del self._cookies[client]
        client.send(RelayCommand.RENDEZVOUS2, Rendezvous2(message.handshake_info).encode())
        client.join(service)
        self.joined += 1

    def forget(self, circuit: RelayCircuit) -> None:
        """The circuit is closed."""
        cookie = self._cookies.pop(circuit, None)
        if cookie is not None:
            self._waiting.pop(cookie, None)

    def expire(self, now: float) -> None:
        """Close circuits that waited too long."""
        for circuit, until in list(self._waiting.values()):
            if until <= now:
                circuit.close(DestroyReason.TIMEOUT)
