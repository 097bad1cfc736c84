"""What an onion service tells while it runs, in the words of the rendezvous (tor-design 5.1, rend-spec-v3).

Each event is a small value with a stable ``name``; :meth:`ServiceEvent.fields` is what goes into a JSON line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from pelure.tor.net.told import Told


class ServiceEvent(Told):
    """What all events of a service are."""


@dataclass(frozen=True)
class IntroPointEstablished(ServiceEvent):
    """An introduction point waits for clients; ``relay`` is its nickname, ``seconds`` how long it took."""

    name: ClassVar[str] = "intro_established"
    relay: str
    seconds: float


@dataclass(frozen=True)
class IntroPointLost(ServiceEvent):
    """An introduction point is gone, for ``reason``; the service looks for another or returns to it."""

    name: ClassVar[str] = "intro_lost"
    relay: str
    reason: str


@dataclass(frozen=True)
class DescriptorUploaded(ServiceEvent):
    """A directory took a descriptor: ``done`` of ``total`` of this time period's directories have it."""

    name: ClassVar[str] = "descriptor_uploaded"
    period: int
    relay: str
    done: int
    total: int


@dataclass(frozen=True)
class Published(ServiceEvent):
    """The descriptors are on their directories: clients can find ``address``."""

    name: ClassVar[str] = "published"
    address: str
    seconds: float


@dataclass(frozen=True)
class IntroductionReceived(ServiceEvent):
    """A client introduced itself through introduction point ``relay`` and waits at a rendezvous point."""

    name: ClassVar[str] = "introduction"
    relay: str
    rendezvous_point: str


@dataclass(frozen=True)
class RendezvousJoined(ServiceEvent):
    """The service's circuit was joined to the client's; ``circuit`` names the joined circuit from now on.

    ``build_seconds``: the circuit to the rendezvous point; ``seconds``: everything since INTRODUCE2.
    """

    name: ClassVar[str] = "rendezvous"
    circuit: int
    rendezvous_point: str
    build_seconds: float
    seconds: float


@dataclass(frozen=True)
class RendezvousFailed(ServiceEvent):
    """The rendezvous point couldn't be reached; the client will try another."""

    name: ClassVar[str] = "rendezvous_failed"
    rendezvous_point: str
    reason: str


@dataclass(frozen=True)
class StreamBegun(ServiceEvent):
    """A client opened a stream to virtual ``port``."""

    name: ClassVar[str] = "stream"
    circuit: int
    port: int


@dataclass(frozen=True)
class ConnectionEnded(ServiceEvent):
    """A joined circuit is over."""

    name: ClassVar[str] = "connection_ended"
    circuit: int


@dataclass(frozen=True)
class EffortSuggested(ServiceEvent):
    """Clients are asked for proofs of work of another ``effort``, 0 for none; so many introductions wait."""

    name: ClassVar[str] = "effort"
    effort: int
    waiting: int


OnEvent = Callable[[ServiceEvent], None]
