"""The replay cache (rend-spec-v3 3.3)."""

from __future__ import annotations

from pelure.tor.onion.replay import ReplayCache


def test_only_new_data_is_accepted() -> None:
    cache = ReplayCache()
    assert cache.accept(b"one")
    assert cache.accept(b"two")
    assert not cache.accept(b"one")
    assert len(cache) == 2


def test_a_full_cache_accepts_nothing() -> None:
    cache = ReplayCache(capacity=2)
    assert [cache.accept(bytes([n])) for n in range(3)] == [True, True, False]
    assert cache.full
    assert len(cache) == 2
