"""What a circuit or one end of a hop tells its owner: small values, returned in the order things happened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pelure.tor.circuit.stream import StreamEndpoint


@dataclass(frozen=True, slots=True)
class HopAdded:
    """The circuit reaches one hop further; ``hop`` counts from 0."""

    hop: int


@dataclass(frozen=True, slots=True)
class CircuitClosed:
    """The circuit is gone. ``reason``: a ``DestroyReason``; ``remote``: the other side closed it."""

    reason: int
    remote: bool
    explanation: str


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The other side accepted a stream of ours; ``data`` is the body of its CONNECTED."""

    stream: StreamEndpoint
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamData:
    """Bytes can be read from the stream."""

    stream: StreamEndpoint


@dataclass(frozen=True, slots=True)
class StreamResumed:
    """The stream may send again: its window or an XON opened it."""

    stream: StreamEndpoint


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The other side ended the stream with an END of body ``data``; what it sent before can still be read."""

    stream: StreamEndpoint
    data: bytes

    @property
    def reason(self) -> int:
        """An ``EndReason``; END without a body counts as MISC (tor-spec §6.3)."""
        return self.data[0] if self.data else 1


@dataclass(frozen=True, slots=True)
class Resolved:
    """The answer to RESOLVE; the stream is over with it. ``data`` is the body of RESOLVED."""

    stream: StreamEndpoint
    data: bytes


@dataclass(frozen=True, slots=True)
class Incoming:
    """The other side wants a stream: ``stream.accept()`` or ``stream.end(reason)`` it.

    ``command`` is BEGIN, BEGIN_DIR or RESOLVE, ``data`` its body.
    """

    stream: StreamEndpoint
    command: int
    data: bytes


@dataclass(frozen=True, slots=True)
class RelayMessageReceived:
    """A message that is neither of streams nor of flow control: INTRODUCE2, RENDEZVOUS2, EXTENDED2, …"""

    hop: int
    command: int
    stream_id: int
    data: bytes


Event = (
    HopAdded
    | CircuitClosed
    | StreamOpened
    | StreamData
    | StreamResumed
    | StreamEnded
    | Resolved
    | Incoming
    | RelayMessageReceived
)
