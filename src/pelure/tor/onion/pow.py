"""Proof of work at introductions, version 1: Equi-X puzzles of adjustable effort (proposal 327, hspow-spec).

A service's descriptor has a seed and the effort that clients should make. A client solves Equi-X for one
nonce after another until the hash of challenge and solution is small enough for its effort, and puts the
proof into INTRODUCE1; a service answers those of more effort first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

from pelure.errors import CryptoError, ProtocolError
from pelure.tor.cell.codec import Reader
from pelure.tor.cell.extensions import Extension
from pelure.tor.crypto import equix
from pelure.tor.directory.tokenizer import (
    Item,
    decode_base64,
    encode_base64,
    format_time,
    parse_int,
    parse_time,
)

SEED_LEN = 32
SEED_HEAD_LEN = 4
NONCE_LEN = 16
EFFORT_MAX = 0xFFFFFFFF

CLIENT_EFFORT_MAX = 10_000
"""More is not solved for, whatever a service suggests (C tor's limit too)."""
_RETRY_EFFORT_MIN = 8
_DOUBLE_UNTIL = 1000

_PERSONALIZATION = b"Tor hs intro v1\0"
_VERSION = 1
_SCHEME = "v1"


@dataclass(frozen=True)
class PowParams:
    """The line ``pow-params v1``: the effort a service suggests and the seed it accepts until ``expires``.

    ``seed`` is 32 bytes, ``expires`` in seconds since the epoch.
    """

    seed: bytes
    effort: int
    expires: float

    def encode(self) -> str:
        """The line."""
        expires = format_time(self.expires).replace(" ", "T")
        return f"pow-params {_SCHEME} {encode_base64(self.seed)} {self.effort} {expires}\n"

    @classmethod
    def parse(cls, items: Iterable[Item]) -> PowParams | None:
        """The first of these ``pow-params`` items that is of version 1. Raises :class:`DirectoryError`."""
        for item in items:
            if item.arg(0) == _SCHEME:
                return cls(
                    decode_base64(item.arg(1), SEED_LEN),
                    parse_int(item.arg(2), 0, EFFORT_MAX),
                    parse_time(item.arg(3).replace("T", " ")),
                )
        return None


@dataclass(frozen=True)
class ProofOfWork:
    """The extension PROOF_OF_WORK of INTRODUCE1's encrypted part (proposal 327 section 3.3).

    ``nonce`` and ``solution`` are 16 bytes each, ``seed_head`` the first 4 bytes of the seed.
    """

    TYPE: ClassVar[int] = 2

    nonce: bytes
    effort: int
    seed_head: bytes
    solution: bytes

    def extension(self) -> Extension:
        """As an extension of INTRODUCE1."""
        body = (
            bytes([_VERSION]) + self.nonce + self.effort.to_bytes(4, "big") + self.seed_head + self.solution
        )
        return Extension(self.TYPE, body)

    @classmethod
    def decode(cls, body: bytes) -> ProofOfWork:
        """Read an extension's body. Raises :class:`ProtocolError`, for other versions too."""
        reader = Reader(body, "a proof of work")
        if reader.u8() != _VERSION:
            raise ProtocolError("a proof of work of an unknown version")
        proof = cls(
            reader.take(NONCE_LEN), reader.u32(), reader.take(SEED_HEAD_LEN), reader.take(equix.SOLUTION_LEN)
        )
        if reader.remaining:
            raise ProtocolError("bytes behind a proof of work")
        return proof


@dataclass(frozen=True)
class Puzzle:
    """What a proof is for: the service's blinded key (32 bytes), a seed of its (32 bytes), and an effort."""

    blinded_key: bytes
    seed: bytes
    effort: int

    def challenge(self, nonce: bytes) -> bytes:
        """The Equi-X challenge of a nonce: 100 bytes."""
        return _PERSONALIZATION + self.blinded_key + self.seed + nonce + self.effort.to_bytes(4, "big")

    def attempt(self, nonce: bytes) -> ProofOfWork | None:
        """Search for a proof with one nonce (16 bytes); one of ``effort / 2`` nonces has one on average."""
        challenge = self.challenge(nonce)
        try:
            solutions = equix.solve(challenge)
        except CryptoError:  # no function comes of this challenge: as good as no solution
            return None
        for solution in solutions:
            if self._suffices(challenge, solution):
                return ProofOfWork(nonce, self.effort, self.seed[:SEED_HEAD_LEN], solution)
        return None

    def solve(self, nonce: bytes, go_on: Callable[[], bool]) -> ProofOfWork | None:
        """Search from ``nonce`` on, while ``go_on``, which is asked before each attempt."""
        number = int.from_bytes(nonce, "little")
        while go_on():
            proof = self.attempt(number.to_bytes(NONCE_LEN, "little"))
            if proof is not None:
                return proof
            number = (number + 1) % (1 << 8 * NONCE_LEN)
        return None

    def check_effort(self, proof: ProofOfWork) -> None:
        """The quick half of :meth:`check`: raises :class:`CryptoError` if the effort is less than claimed."""
        if (proof.effort, proof.seed_head) != (self.effort, self.seed[:SEED_HEAD_LEN]):
            raise CryptoError("a proof of work is for another puzzle")
        if not self._suffices(self.challenge(proof.nonce), proof.solution):
            raise CryptoError("a proof of work is of less effort than it claims")

    def check(self, proof: ProofOfWork) -> None:
        """Raises :class:`CryptoError` if it is no proof of this effort for this seed; takes milliseconds."""
        self.check_effort(proof)
        equix.verify(self.challenge(proof.nonce), proof.solution)

    def _suffices(self, challenge: bytes, solution: bytes) -> bool:
        """Whether the hash is small enough for the effort."""
        hashed = hashlib.blake2b(challenge + solution, digest_size=4).digest()
        return int.from_bytes(hashed, "big") * self.effort <= EFFORT_MAX


def client_effort(suggested: int, failures: int) -> int:
    """The effort a client makes after so many introductions that the service did not answer (section 4.1)."""
    effort = min(suggested, CLIENT_EFFORT_MAX)
    for _ in range(failures):
        if effort >= CLIENT_EFFORT_MAX:
            break
        effort = 2 * effort if effort < _DOUBLE_UNTIL else effort * 3 // 2
        effort = min(max(effort, _RETRY_EFFORT_MIN), CLIENT_EFFORT_MAX)
    return effort
