"""The seeds that a service gives out and accepts (proposal 327 sections 3.1, 3.4.1)."""

from __future__ import annotations

import random

import pytest

from pelure.errors import ProtocolError
from pelure.tor.onion.pow import ProofOfWork, Puzzle
from pelure.tor.onion.pow_seeds import PowSeeds

NOW = 1_800_000_000.0
BLINDED = b"b" * 32


def proof_for(seed: bytes, nonce: int = 0) -> ProofOfWork:
    return ProofOfWork(bytes([nonce]) * 16, 3, seed[:4], bytes(16))


@pytest.fixture
def seeds() -> PowSeeds:
    return PowSeeds(random.Random(7).randbytes, NOW)


def test_a_seed_lives_two_hours_or_a_little_less(seeds: PowSeeds) -> None:
    lifetimes = set()
    for _ in range(50):
        seeds.rotate(NOW)
        lifetimes.add(seeds.expires - NOW)
    assert len(lifetimes) == 50
    assert all(6300 <= lifetime <= 7200 for lifetime in lifetimes)


def test_the_seed_before_is_accepted_too_and_no_other(seeds: PowSeeds) -> None:
    first = seeds.current
    assert seeds.puzzle(proof_for(first), BLINDED) == Puzzle(BLINDED, first, 3)
    seeds.rotate(NOW)
    second = seeds.current
    assert seeds.puzzle(proof_for(first), BLINDED).seed == first
    assert seeds.puzzle(proof_for(second), BLINDED).seed == second
    seeds.rotate(NOW)
    with pytest.raises(ProtocolError, match="not known"):
        seeds.puzzle(proof_for(first), BLINDED)
    assert seeds.puzzle(proof_for(second), BLINDED).seed == second


def test_a_proof_is_used_once(seeds: PowSeeds) -> None:
    """Also when the same one comes again while the first is being checked, or after the seed changed."""
    proof, other = proof_for(seeds.current, 1), proof_for(seeds.current, 2)
    seeds.puzzle(proof, BLINDED)
    seeds.use(proof)
    for refused in (lambda: seeds.puzzle(proof, BLINDED), lambda: seeds.use(proof)):
        with pytest.raises(ProtocolError, match="before"):
            refused()
    seeds.rotate(NOW)
    with pytest.raises(ProtocolError, match="before"):
        seeds.puzzle(proof, BLINDED)
    seeds.use(other)
    seeds.use(proof_for(seeds.current, 1))


def test_two_seeds_in_a_row_begin_differently() -> None:
    answers = iter([b"a" * 32, b"a" * 32, b"aaaab" * 6 + b"xx", b"c" * 32, bytes(4)])
    assert PowSeeds(lambda n: next(answers), NOW).current == b"c" * 32
