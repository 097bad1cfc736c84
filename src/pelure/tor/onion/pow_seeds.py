"""The seeds for proofs of work that a service gives out and accepts (proposal 327 sections 3.1, 3.4.1).

The seed before the current one goes on being accepted, for clients that have an older descriptor. Each proof
is accepted once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pelure.errors import ProtocolError
from pelure.tor.crypto.keys import Rng
from pelure.tor.onion.pow import SEED_HEAD_LEN, SEED_LEN, ProofOfWork, Puzzle
from pelure.tor.onion.replay import ReplayCache

LIFETIME_SECONDS_MIN = 6300.0
LIFETIME_SECONDS_MAX = 7200.0
PROOFS_MAX = 1 << 20
"""Proofs accepted for one seed: far more than can be checked while it is current."""


@dataclass
class _Seed:
    value: bytes
    used: ReplayCache = field(default_factory=lambda: ReplayCache(PROOFS_MAX))

    @property
    def head(self) -> bytes:
        return self.value[:SEED_HEAD_LEN]


class PowSeeds:
    """See the module; times are seconds since the epoch."""

    def __init__(self, rng: Rng, now: float) -> None:
        self._rng = rng
        self._previous = _Seed(rng(SEED_LEN))
        self._change(now)

    @property
    def current(self) -> bytes:
        """The seed for the descriptor."""
        return self._current.value

    def rotate(self, now: float) -> None:
        """Replace the current seed: its time is over."""
        self._previous = self._current
        self._change(now)

    def _change(self, now: float) -> None:
        seed = _Seed(self._rng(SEED_LEN))
        while seed.head == self._previous.head:
            seed = _Seed(self._rng(SEED_LEN))
        self._current = seed
        fraction = int.from_bytes(self._rng(4), "big") / (1 << 32)
        self.expires = now + LIFETIME_SECONDS_MIN + (LIFETIME_SECONDS_MAX - LIFETIME_SECONDS_MIN) * fraction

    def puzzle(self, proof: ProofOfWork, blinded_key: bytes) -> Puzzle:
        """The puzzle that ``proof`` has to solve. Raises :class:`ProtocolError`: unknown seed, replay."""
        seed = self._seed(proof)
        if proof.nonce in seed.used:
            raise ProtocolError("a proof of work was used before")
        return Puzzle(blinded_key, seed.value, proof.effort)

    def use(self, proof: ProofOfWork) -> None:
        """Take a proof that was checked. Raises :class:`ProtocolError` if it was taken before."""
        if not self._seed(proof).used.accept(proof.nonce):
            raise ProtocolError("a proof of work was used before")

    def _seed(self, proof: ProofOfWork) -> _Seed:
        for seed in (self._current, self._previous):
            if proof.seed_head == seed.head:
                return seed
        raise ProtocolError("a proof of work is for a seed that is not known")
