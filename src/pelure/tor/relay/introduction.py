"""Introduction points: circuits of services, and the introductions passed to them (rend-spec-v3 3.1 and 3.2).

How many introductions a service gets is limited if it asks so (proposal 305: the DoS extension of
ESTABLISH_INTRO) or the consensus says so.
"""

from __future__ import annotations

from collections.abc import Mapping

from pelure.errors import ProtocolError
from pelure.tor.cell.commands import DestroyReason, RelayCommand
from pelure.tor.cell.extensions import DosParameters, find_extension
from pelure.tor.cell.onion_messages import (
    EstablishIntro,
    Introduce1,
    IntroduceAck,
    IntroduceStatus,
    IntroEstablished,
)
from pelure.tor.net.throttle import Bucket
from pelure.tor.relay.circuit import RelayCircuit, Role

DEFAULT_RATE = 25  # introductions a second; consensus parameter HiddenServiceEnableIntroDoSRatePerSec
DEFAULT_BURST = 200  # HiddenServiceEnableIntroDoSBurstPerSec
MAX_PARAMETER = 2**31 - 1


class IntroductionPoints:
    """The services that chose this relay, by authentication key."""

    def __init__(self) -> None:
        self.params: Mapping[str, int] = {}
        """Consensus parameters."""
        self._circuits: dict[bytes, RelayCircuit] = {}
        self._keys: dict[RelayCircuit, bytes] = {}
        self._limits: dict[RelayCircuit, Bucket] = {}
        self._introduced: set[RelayCircuit] = set()
        self.relayed = 0

    def __len__(self) -> int:
        return len(self._circuits)

    def establish(self, circuit: RelayCircuit, data: bytes, now: float) -> None:
        """ESTABLISH_INTRO. Raises ``ProtocolError`` if it proves nothing or is repeated."""
        if not circuit.is_free or circuit in self._introduced:
            raise ProtocolError("ESTABLISH_INTRO came on a circuit that is in use")
        message = EstablishIntro.decode(data)
        message.verify(circuit.kh)
        limit = self._limit(find_extension(message.extensions, DosParameters.TYPE), now)
        older = self._circuits.get(message.auth_key)
        if older is not None:  # the service came back on a new circuit
            older.close(DestroyReason.FINISHED)
        circuit.role = Role.INTRODUCTION
        self._circuits[message.auth_key] = circuit
        self._keys[circuit] = message.auth_key
        if limit is not None:
            self._limits[circuit] = limit
        circuit.send(RelayCommand.INTRO_ESTABLISHED, IntroEstablished().encode())

    def _limit(self, extension: bytes | None, now: float) -> Bucket | None:
        enabled = bool(self.params.get("HiddenServiceEnableIntroDoSDefense", 0))
        rate = self.params.get("HiddenServiceEnableIntroDoSRatePerSec", DEFAULT_RATE)
        burst = self.params.get("HiddenServiceEnableIntroDoSBurstPerSec", DEFAULT_BURST)
        if extension is not None:
            wanted = DosParameters.decode(extension)
            if wanted.rate is not None and wanted.burst is not None:
                if 0 in (wanted.rate, wanted.burst):
                    return None
                if wanted.rate <= wanted.burst <= MAX_PARAMETER:
                    rate, burst, enabled = wanted.rate, wanted.burst, True
        return Bucket(rate, burst, now) if enabled else None

    def introduce(self, circuit: RelayCircuit, data: bytes, now: float) -> None:
        """INTRODUCE1: pass it to the service, tell the client.

        Raises ``ProtocolError`` for a second one, and for one of a client that came here in person.
        """
        if not circuit.is_free or circuit in self._introduced:
            raise ProtocolError("INTRODUCE1 came on a circuit that is in use")
        if circuit.link.peer.rsa_id is None:  # this relay would know who visits whom
            raise ProtocolError("INTRODUCE1 came on a circuit of one hop")
        self._introduced.add(circuit)  # one introduction for a circuit: more of them need more circuits
        status = self._relay(data, now)
        if status is IntroduceStatus.SUCCESS:
            self.relayed += 1
        circuit.send(RelayCommand.INTRODUCE_ACK, IntroduceAck(status).encode())

    def _relay(self, data: bytes, now: float) -> IntroduceStatus:
        try:
            message = Introduce1.decode(data)
        except ProtocolError:
            return IntroduceStatus.BAD_FORMAT
        service = self._circuits.get(message.auth_key)
        if service is None:
            return IntroduceStatus.UNKNOWN_ID
        limit = self._limits.get(service)
        if limit is not None and not limit.take(now):
            return IntroduceStatus.CANNOT_RELAY
        service.send(RelayCommand.INTRODUCE2, data)
        return IntroduceStatus.SUCCESS

    def forget(self, circuit: RelayCircuit) -> None:
        """The circuit is closed."""
        self._introduced.discard(circuit)
        self._limits.pop(circuit, None)
        key = self._keys.pop(circuit, None)
        if key is not None:
            del self._circuits[key]
