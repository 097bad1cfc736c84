"""Proof of work (proposal 327): C tor's and Arti's known answers, codecs, the client's choice of effort."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import CryptoError, DirectoryError, ProtocolError
from pelure.tor.cell.extensions import Extension
from pelure.tor.directory.tokenizer import tokenize
from pelure.tor.onion.pow import PowParams, ProofOfWork, Puzzle, client_effort

VECTORS = json.loads((Path(__file__).parents[3] / "vectors" / "crypto" / "pow_v1.json").read_text())


def puzzle_of(vector: dict[str, Any]) -> Puzzle:
    seed, blinded_key = bytes.fromhex(vector["seed"]), bytes.fromhex(vector["blinded_id"])
    return Puzzle(blinded_key, seed, vector["effort"])


@pytest.mark.parametrize("vector", VECTORS["solve"], ids=lambda one: f"{one['effort']}-{one['nonce'][:4]}")
def test_solving(vector: dict[str, Any]) -> None:
    """From the first nonce given the same nonce is found; of its solutions, any is good."""
    puzzle = puzzle_of(vector)
    proof = puzzle.solve(bytes.fromhex(vector["first_nonce"]), lambda: True)
    assert proof is not None
    assert proof.nonce.hex() == vector["nonce"]
    puzzle.check(proof)
    known = ProofOfWork(proof.nonce, proof.effort, proof.seed_head, bytes.fromhex(vector["solution"]))
    puzzle.check(known)


@pytest.mark.parametrize("vector", [one for one in VECTORS["verify"] if one["what"] != "Reject replays"])
def test_checking(vector: dict[str, Any]) -> None:
    body = bytes.fromhex(vector["extension"])
    proof = ProofOfWork.decode(body)
    assert proof.extension() == Extension(ProofOfWork.TYPE, body)
    assert (proof.nonce.hex(), proof.effort) == (vector["nonce"], vector["effort"])
    assert proof.solution.hex() == vector["solution"]
    if vector["valid"]:
        puzzle_of(vector).check(proof)
    else:
        with pytest.raises(CryptoError):
            puzzle_of(vector).check(proof)


def test_a_proof_is_for_one_puzzle() -> None:
    vector = VECTORS["verify"][1]
    proof = ProofOfWork.decode(bytes.fromhex(vector["extension"]))
    puzzle = puzzle_of(vector)
    for other in (
        Puzzle(puzzle.blinded_key, puzzle.seed, puzzle.effort + 1),
        Puzzle(puzzle.blinded_key, bytes(32), puzzle.effort),
        Puzzle(bytes(32), puzzle.seed, puzzle.effort),
    ):
        with pytest.raises(CryptoError):
            other.check(proof)


def test_giving_up() -> None:
    asked = iter([True, True, False])
    assert Puzzle(bytes(32), bytes(32), 0xFFFFFFFF).solve(b"\xff" * 16, lambda: next(asked)) is None


@given(st.binary(max_size=60))
def test_decoding_anything(body: bytes) -> None:
    try:
        assert ProofOfWork.decode(body).extension().body == body
    except ProtocolError:
        pass


def test_only_version_1_is_known() -> None:
    body = bytes.fromhex(VECTORS["verify"][1]["extension"])
    for wrong in (b"\2" + body[1:], body + b"x", body[:-1], b""):
        with pytest.raises(ProtocolError):
            ProofOfWork.decode(wrong)


@given(
    st.binary(min_size=32, max_size=32),
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 4_000_000_000),
)
def test_params_round_trip(seed: bytes, effort: int, expires: int) -> None:
    params = PowParams(seed, effort, float(expires))
    assert PowParams.parse(tokenize(params.encode())) == params


@settings(max_examples=50)
@given(st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=80))
def test_parsing_any_params(rest: str) -> None:
    try:
        params = PowParams.parse(tokenize(f"pow-params v1 {rest}\n"))
    except (DirectoryError, ProtocolError):
        return
    assert params is not None


def test_params_of_other_schemes_are_passed_over() -> None:
    params = PowParams(b"s" * 32, 7, 1_800_000_000.0)
    lines = "pow-params v9 whatever\n" + params.encode()
    assert params.encode().endswith(" 7 2027-01-15T08:00:00\n")
    assert PowParams.parse(tokenize(lines)) == params
    assert PowParams.parse(tokenize("pow-params v9 whatever\n")) is None


@pytest.mark.parametrize(
    ("suggested", "failures", "effort"),
    [
        (0, 0, 0),
        (0, 1, 8),
        (0, 2, 16),
        (1, 1, 8),
        (100, 0, 100),
        (100, 3, 800),
        (999, 1, 1998),
        (1000, 1, 1500),
        (9000, 1, 10_000),
        (20_000, 0, 10_000),
        (0, 1000, 10_000),
    ],
)
def test_the_clients_effort(suggested: int, failures: int, effort: int) -> None:
    assert client_effort(suggested, failures) == effort
