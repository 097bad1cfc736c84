"""Revision counters (rend-spec-v3 App. F.2); known answers from C tor's ope_ref.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import ProtocolError
from pelure.tor.onion.revision import OPE_INPUT_MAX, encrypt_order_preserving, revision_counter, revision_key

VECTORS = json.loads((Path(__file__).parents[3] / "vectors/onion/ope.json").read_text())
KEY = bytes.fromhex(VECTORS["key"])


def test_known_answers() -> None:
    for value, encrypted in VECTORS["values"]:
        assert encrypt_order_preserving(KEY, value) == encrypted


@settings(deadline=None, max_examples=30)
@given(one=st.integers(1, OPE_INPUT_MAX), other=st.integers(1, OPE_INPUT_MAX))
def test_order_is_preserved(one: int, other: int) -> None:
    encrypted = encrypt_order_preserving(KEY, one), encrypt_order_preserving(KEY, other)
    assert (one < other) == (encrypted[0] < encrypted[1])


@pytest.mark.parametrize("value", [0, -1, OPE_INPUT_MAX + 1])
def test_out_of_range_is_refused(value: int) -> None:
    with pytest.raises(ProtocolError):
        encrypt_order_preserving(KEY, value)


def test_a_wrong_clock_gives_the_ends_of_the_range() -> None:
    key = revision_key(b"s" * 64)
    assert revision_counter(key, 1000.0, 0.0) == encrypt_order_preserving(key, 1)
    assert revision_counter(key, 0.0, 1e9) == encrypt_order_preserving(key, OPE_INPUT_MAX)
    assert revision_counter(key, 1000.0, 1000.9) == encrypt_order_preserving(key, 1)
    assert revision_counter(key, 1000.0, 1001.0) == encrypt_order_preserving(key, 2)
