"""What an onion client tells while it connects: the steps of the rendezvous with their times, in seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from pelure.tor.net.told import Told


class ClientEvent(Told):
    """What all events of a client are."""


@dataclass(frozen=True)
class DescriptorOpened(ClientEvent):
    """The descriptor is there and open; it names so many introduction points."""

    name: ClassVar[str] = "descriptor"
    intro_points: int
    seconds: float


@dataclass(frozen=True)
class RendezvousEstablished(ClientEvent):
    """A rendezvous point keeps our cookie; ``relay`` is its nickname."""

    name: ClassVar[str] = "rendezvous_established"
    relay: str
    seconds: float


@dataclass(frozen=True)
class PuzzleBegun(ClientEvent):
    """The service lets clients pass first that prove work: a puzzle of this effort is being solved."""

    name: ClassVar[str] = "puzzle"
    effort: int


@dataclass(frozen=True)
class PuzzleSolved(ClientEvent):
    """The proof is there."""

    name: ClassVar[str] = "puzzle_solved"
    effort: int
    seconds: float


@dataclass(frozen=True)
class Introduced(ClientEvent):
    """Introduction point ``relay`` passed our introduction on."""

    name: ClassVar[str] = "introduced"
    relay: str
    seconds: float


@dataclass(frozen=True)
class RendezvousJoined(ClientEvent):
    """The service came to the rendezvous point: ``circuit`` leads to it."""

    name: ClassVar[str] = "rendezvous"
    circuit: int
    rendezvous_point: str
    seconds: float


OnClientEvent = Callable[[ClientEvent], None]
