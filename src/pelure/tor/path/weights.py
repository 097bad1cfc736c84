"""Picking relays at random by bandwidth, weighted for their position (dir-spec 3.8.3, path-spec 2.2)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from itertools import accumulate

from pelure.tor.crypto.keys import Rng
from pelure.tor.directory.relay import Relay

DEFAULT_SCALE = 10_000
_QUICK_DRAWS = 12


class Position(Enum):
    """Where in a path a relay is to stand; the values are the letters of the weights' names."""

    GUARD = "g"
    MIDDLE = "m"
    EXIT = "e"


def position_weight(relay: Relay, position: Position, weights: Mapping[str, int]) -> int:
    """``relay``'s bandwidth times the consensus's ``W..`` weight; no ``weights``: bandwidth alone counts."""
    guard, exits = "Guard" in relay.flags, "Exit" in relay.flags and "BadExit" not in relay.flags
    kind = "d" if guard and exits else "g" if guard else "e" if exits else "m"
    return relay.bandwidth * weights.get(f"W{position.value}{kind}", DEFAULT_SCALE)


def random_below(limit: int, rng: Rng) -> int:
    """A uniform random integer from 0 to ``limit`` - 1 (bias below 2**-60)."""
    return int.from_bytes(rng(16), "big") % limit


def random_fraction(rng: Rng) -> float:
    """A uniform random number, 0 <= x < 1."""
    return random_below(1 << 53, rng) / (1 << 53)


class Sampler:
    """Relays with weights, from which one is drawn at random; built once a consensus, drawn from often."""

    def __init__(self, relays: Sequence[Relay], weights: Sequence[int]) -> None:
        self.relays = relays
        self._weights = weights
        self._cumulative = list(accumulate(weights))

    @classmethod
    def for_position(cls, relays: Sequence[Relay], position: Position, weights: Mapping[str, int]) -> Sampler:
        """Weigh ``relays`` for ``position``."""
        return cls(relays, [position_weight(relay, position, weights) for relay in relays])

    def draw(self, rng: Rng, accept: Callable[[Relay], bool]) -> Relay | None:
        """A relay that ``accept`` takes, by weight; None if there is none.

        Where every acceptable relay has weight zero (as on a new small network) all are equally likely.
        """
        total = self._cumulative[-1] if self._cumulative else 0
        for _ in range(_QUICK_DRAWS if total else 0):
            relay = self.relays[bisect_right(self._cumulative, random_below(total, rng))]
            if accept(relay):
                return relay
        # Few are acceptable: look at each of them rather than go on trying.
        pairs = [pair for pair in zip(self.relays, self._weights, strict=True) if accept(pair[0])]
        if not pairs:
            return None
        cumulative = list(accumulate(weight for _, weight in pairs))
        if cumulative[-1] == 0:
            return pairs[random_below(len(pairs), rng)][0]
        return pairs[bisect_right(cumulative, random_below(cumulative[-1], rng))][0]
