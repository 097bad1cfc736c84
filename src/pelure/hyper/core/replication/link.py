"""What a peer needs of the stream it is reached over, and what it keeps of a request under way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pelure.hyper.wire import messages as m
from pelure.hyper.wire.protomux import Mux

if TYPE_CHECKING:
    from pelure.hyper.core.replication.peer import Peer


class Link(Protocol):
    """The stream a peer is reached over."""

    initiator: bool
    mux: Mux
    peers: dict[bytes, Peer]
    """The other side at each core, by the core's key, as it was last: also once its channel is closed."""

    @property
    def handshake_hash(self) -> bytes: ...

    @property
    def remote_public(self) -> bytes: ...

    def flush_later(self, peer: Peer) -> None:
        """Have :meth:`Peer.flush` called before anything else is sent."""

    def wake(self) -> None:
        """There is something to send."""

    def upload(self, peer: Peer, request: m.Request) -> None:
        """Queue the answer to ``request``."""

    def answered(self, peer: Peer) -> None:
        """``peer`` has answers to be verified once the received chunk is read to its end."""

    def fail(self, error: Exception) -> None:
        """End the stream because of ``error``."""


@dataclass(slots=True, eq=False)
class InFlight:
    """A request that waits for its answer."""

    request: m.Request
    sent: float
    ahead: int
    """How many were in flight when it was sent, itself included."""
    full: bool
    """The window was full when it was sent."""
    anchor: int | None = None
    """The tree node that the proof will lead to."""
    brings: tuple[int, ...] = ()
    """Tree nodes that will be known once the answer was stored."""
