"""The hash ring of hidden service directories: which relays hold a descriptor (rend-spec-v3 2.2.3)."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from pelure.tor.crypto.digests import sha3_256
from pelure.tor.onion.time_periods import PeriodSlot, TimePeriod


class HasEd25519Identity(Protocol):
    """A relay as the ring sees it: its 32-byte Ed25519 identity, if it has one."""

    @property
    def ed_id(self) -> bytes | None: ...


R = TypeVar("R", bound=HasEd25519Identity)


def service_index(blinded_key: bytes, replica: int, period: TimePeriod) -> bytes:
    """Return the 32-byte point of the ring where ``replica`` (1, 2, …) of a descriptor starts."""
    return sha3_256(
        b"store-at-idx"
        + blinded_key
        + replica.to_bytes(8, "big")
        + period.length.to_bytes(8, "big")
        + period.number.to_bytes(8, "big")
    )


def relay_index(ed_id: bytes, slot: PeriodSlot) -> bytes:
    """Return the 32-byte point of the ring where a directory with this Ed25519 identity sits."""
    return sha3_256(b"node-idx" + ed_id + slot.srv + slot.period.encode())


@dataclass(frozen=True)
class RingParams:
    """The ring's consensus parameters: replicas, and how many directories store and answer for each."""

    replicas: int = 2
    spread_store: int = 4
    spread_fetch: int = 3

    @classmethod
    def from_params(cls, params: Mapping[str, int]) -> RingParams:
        """Read the parameters from a consensus, each clamped to its permitted range."""

        def clamped(name: str, default: int, highest: int) -> int:
            return min(max(params.get(name, default), 1), highest)

        return cls(
            clamped("hsdir_n_replicas", 2, 16),
            clamped("hsdir_spread_store", 4, 128),
            clamped("hsdir_spread_fetch", 3, 128),
        )


class HsDirRing(Generic[R]):
    """The ring of one period: directories sorted by their index."""

    def __init__(self, directories: Iterable[R], slot: PeriodSlot, params: RingParams) -> None:
        self.slot = slot
        self.params = params
        placed = sorted(
            ((relay_index(relay.ed_id, slot), relay) for relay in directories if relay.ed_id is not None),
            key=lambda entry: entry[0],
        )
        self._indices = [index for index, _ in placed]
        self._relays = [relay for _, relay in placed]

    def __len__(self) -> int:
        return len(self._relays)

    def _responsible(self, blinded_key: bytes, spread: int) -> list[R]:
        chosen: set[int] = set()
        responsible: list[R] = []
        size = len(self._relays)
        for replica in range(1, self.params.replicas + 1):
            start = bisect.bisect_left(self._indices, service_index(blinded_key, replica, self.slot.period))
            following = ((start + step) % size for step in range(size))
            fresh = [place for place in following if place not in chosen][:spread]
            chosen.update(fresh)
            responsible += [self._relays[place] for place in fresh]
        return responsible

    def stores(self, blinded_key: bytes) -> list[R]:
        """Return the directories a service uploads this blinded key's descriptor to, replica by replica."""
        return self._responsible(blinded_key, self.params.spread_store)

    def fetches(self, blinded_key: bytes) -> list[R]:
        """Return the directories a client may ask for this blinded key's descriptor, replica by replica."""
        return self._responsible(blinded_key, self.params.spread_fetch)
