"""SipHash, HashX and Equi-X against published known answers, and what must hold for any challenge."""

from __future__ import annotations

import json
import struct
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import CryptoError
from pelure.tor.crypto import equix, hashx
from pelure.tor.crypto.hashx import HashX
from pelure.tor.crypto.hashx_program import PROGRAM_LEN, Op, generate_program

VECTORS = Path(__file__).parents[3] / "vectors" / "crypto"
HASHX = json.loads((VECTORS / "hashx.json").read_text())
EQUIX = json.loads((VECTORS / "equix.json").read_text())["vectors"]


@pytest.mark.parametrize("vector", HASHX["hashes"])
def test_hashx(vector: dict[str, str]) -> None:
    """Some of these seeds make the generator look for a register twice."""
    hashed = HashX(bytes.fromhex(vector["seed"])).hash(np.array([int(vector["input"])], np.uint64))
    assert hashed.astype("<u8").tobytes() == bytes.fromhex(vector["hash"])[:8]


@pytest.mark.parametrize("seed", HASHX["unusable_seeds"])
def test_a_seed_may_give_no_function(seed: str) -> None:
    with pytest.raises(CryptoError):
        HashX(bytes.fromhex(seed))


def test_many_inputs_hash_as_each_does_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever runs beside an input, and whoever takes the branch: its hash stays the same."""
    function = HashX(b"lanes")
    inputs = np.arange(100, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    together = function.hash(inputs)
    alone = np.concatenate([function.hash(inputs[i : i + 1]) for i in range(len(inputs))])
    monkeypatch.setattr(hashx, "_LANES", 7)
    assert together.tolist() == alone.tolist() == function.hash(inputs).tolist()


def test_program_shape() -> None:
    program = generate_program((1, 2, 3, 4))
    assert len(program) == PROGRAM_LEN
    assert sum(one.op in (Op.UMULH, Op.SMULH, Op.MUL) for one in program) == 192
    assert all(one.imm.bit_count() == 4 for one in program if one.op == Op.BRANCH)


@pytest.mark.parametrize("vector", EQUIX, ids=lambda vector: vector["challenge"] or "empty")
def test_equix(vector: dict[str, Any]) -> None:
    challenge = bytes.fromhex(vector["challenge"])
    if vector["solutions"] is None:
        with pytest.raises(CryptoError):
            equix.solve(challenge)
        return
    solutions = equix.solve(challenge)
    assert sorted(one.hex() for one in solutions) == sorted(vector["solutions"])
    for solution in solutions:
        equix.verify(challenge, solution)
        swapped = solution[2:4] + solution[:2] + solution[4:]
        with pytest.raises(CryptoError, match="order"):
            equix.verify(challenge, swapped)
        other = (int.from_bytes(solution[:2], "little") + 1).to_bytes(2, "little") + solution[2:]
        with pytest.raises(CryptoError, match="add up"):
            equix.verify(challenge, other)


def test_a_solution_has_one_form() -> None:
    """Of all orders of its indices, 315 are in order (as in the reference's test) and one is right."""
    [solution] = equix.solve(bytes(4))
    in_order = [
        one
        for indices in permutations(struct.unpack("<8H", solution))
        if equix._in_order(one := struct.pack("<8H", *indices))
    ]
    assert len(in_order) == 315
    assert solution in in_order
    for one in in_order[::20]:
        if one != solution:
            with pytest.raises(CryptoError, match="add up"):
                equix.verify(bytes(4), one)


@settings(deadline=None, max_examples=20)
@given(st.binary(max_size=100), st.binary(min_size=16, max_size=16))
def test_random_bytes_are_no_solution(challenge: bytes, solution: bytes) -> None:
    with pytest.raises(CryptoError):
        equix.verify(challenge, solution)


def test_a_challenge_with_too_many_pairs_costs_bounded_memory() -> None:
    one, other = equix._complements(np.zeros(1 << 16, np.uint16))
    assert 0 < len(one) == len(other) <= equix._MAX_PAIRS
