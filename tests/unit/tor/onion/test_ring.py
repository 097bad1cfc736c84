"""The HSDir ring (rend-spec-v3 2.2.3); known answers from C tor's hs_indexes.py."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.tor.onion.ring import HsDirRing, RingParams, relay_index, service_index
from pelure.tor.onion.time_periods import PeriodSlot, TimePeriod

PERIOD = TimePeriod(42, 1440)
SLOT = PeriodSlot(PERIOD, b"\x43" * 32, 0.0)


@dataclass(frozen=True)
class Node:
    ed_id: bytes | None


def nodes(count: int) -> list[Node]:
    return [Node(number.to_bytes(32, "big")) for number in range(count)]


def test_indices_match_c_tor() -> None:
    assert service_index(b"\x42" * 32, 1, PERIOD).hex() == (
        "37e5cbbd56a22823714f18f1623ece5983a0d64c78495a8cfab854245e5f9a8a"
    )
    assert relay_index(b"\x42" * 32, SLOT).hex() == (
        "db475361014a09965e7e5e4d4a25b8f8d4b8f16cb1d8a7e95eed50249cc1a2d5"
    )


def test_parameters_are_clamped() -> None:
    assert RingParams.from_params({}) == RingParams(2, 4, 3)
    assert RingParams.from_params({"hsdir_n_replicas": 99, "hsdir_spread_store": 0}) == RingParams(16, 1, 3)


def test_relays_without_ed25519_identity_are_left_out() -> None:
    assert len(HsDirRing([Node(None), Node(b"x" * 32)], SLOT, RingParams())) == 1
    assert HsDirRing([Node(None)], SLOT, RingParams()).stores(b"k" * 32) == []


def test_relays_follow_the_service_index_and_wrap_around() -> None:
    ring = HsDirRing(nodes(20), SLOT, RingParams(replicas=1, spread_store=20))
    key = b"k" * 32
    start = service_index(key, 1, PERIOD)
    indices = [relay_index(node.ed_id or b"", SLOT) for node in ring.stores(key)]
    after = sorted(index for index in indices if index >= start)
    before = sorted(index for index in indices if index < start)
    assert indices == after + before


@settings(deadline=None, max_examples=50)
@given(count=st.integers(0, 40), key=st.binary(min_size=32, max_size=32))
def test_replicas_never_share_a_directory_and_fetching_finds_stored(count: int, key: bytes) -> None:
    ring = HsDirRing(nodes(count), SLOT, RingParams())
    stores = ring.stores(key)
    assert len(stores) == len(set(stores)) == min(count, 8)
    if count >= 14:  # enough that the replicas' spreads can't run into each other's leftovers
        first_stored, second_stored = stores[:4], stores[4:]
        fetches = ring.fetches(key)
        assert fetches[:3] == first_stored[:3]
        assert set(fetches[3:]) & set(second_stored)
