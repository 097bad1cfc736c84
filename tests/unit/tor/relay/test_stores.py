"""What a relay keeps: uploaded descriptors, measurements, answers of name servers."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import os
import threading

import pytest

from pelure.errors import CryptoError, DirectoryError, StreamError
from pelure.tor.cell.commands import EndReason
from pelure.tor.crypto.keys import Ed25519KeyPair
from pelure.tor.net.throttle import Bucket
from pelure.tor.relay import resolver as resolver_module
from pelure.tor.relay.bandwidth import LEAST_OBSERVED, BandwidthMeter
from pelure.tor.relay.hsdir import DescriptorStore
from pelure.tor.relay.resolver import Resolver

from .support import NOW, make_descriptor, name_of


def test_a_descriptor_is_given_back_until_it_expires() -> None:
    store = DescriptorStore()
    document = make_descriptor(1)
    name = name_of(store.store(document, NOW))
    assert store.fetch(name, NOW) == document
    assert store.fetch(name, NOW + 181 * 60) is None
    assert store.fetch("not base64!", NOW) is None and store.fetch("AAAA", NOW) is None
    store.expire(NOW + 181 * 60)
    assert len(store) == 0 and store.size == 0


def test_only_a_later_revision_replaces_a_descriptor() -> None:
    store = DescriptorStore()
    key = Ed25519KeyPair.generate(os.urandom)
    store.store(make_descriptor(5, key=key), NOW)
    for revision in (5, 4):
        with pytest.raises(DirectoryError):
            store.store(make_descriptor(revision, key=key), NOW)
    newer = make_descriptor(6, key=key)
    assert store.fetch(name_of(store.store(newer, NOW)), NOW) == newer
    assert len(store) == 1


def test_a_descriptor_that_has_expired_counts_for_nothing() -> None:
    store = DescriptorStore()
    key = Ed25519KeyPair.generate(os.urandom)
    name = name_of(store.store(make_descriptor(5, key=key), NOW))
    expires = NOW + 180 * 60
    assert store.fetch(name, expires - 1) is not None and store.fetch(name, expires) is None
    with pytest.raises(DirectoryError):
        store.store(make_descriptor(1, key=key), expires - 1)
    store.expire(expires - 1)
    assert len(store) == 1
    restarted = make_descriptor(1, key=key)  # the service has lost its counter, but waited
    assert store.fetch(name_of(store.store(restarted, expires)), expires) == restarted
    assert (len(store), store.stored, store.fetched) == (1, 2, 2)


def test_what_has_expired_goes_before_what_nobody_fetched() -> None:
    store = DescriptorStore()
    old = name_of(store.store(make_descriptor(1), NOW))
    assert store.fetch(old, NOW)
    young = name_of(store.store(make_descriptor(1), NOW + 60))
    size = store.size // 2
    assert store.make_room(store.size, NOW + 60) == 0
    assert store.make_room(size, NOW + 180 * 60) == pytest.approx(size, abs=5)
    assert store.fetch(young, NOW + 180 * 60) and not store.fetch(old, NOW)


def test_descriptors_that_lie_are_refused() -> None:
    store = DescriptorStore()
    document = make_descriptor(1)
    other = make_descriptor(2)
    lies = [
        b"",
        b"hs-descriptor 3\n",
        os.urandom(1000),
        document[:-20],
        document.replace(b"revision-counter 1", b"revision-counter 9"),
        document.replace(b"descriptor-lifetime 180", b"descriptor-lifetime 999999"),
        document.split(b"revision-counter")[0] + b"revision-counter" + other.split(b"revision-counter")[1],
        make_descriptor(1, b"x" * 60_000),
    ]
    for lie in lies:
        with pytest.raises((DirectoryError, CryptoError)):
            store.store(lie, NOW)
    with pytest.raises(CryptoError):
        store.store(document, NOW + 60 * 3600)  # its certificate has expired
    assert len(store) == 0 and store.size == 0


def test_descriptors_take_bounded_memory() -> None:
    store = DescriptorStore(capacity=20_000)
    for number in range(60):
        store.store(make_descriptor(1, b"x" * 500), NOW + number)
        assert store.size <= 20_000
    assert 5 < len(store) < 30
    assert store.make_room(0, NOW) > 0 and store.size == 0


def test_a_flood_of_uploads_does_not_displace_what_is_fetched() -> None:
    store = DescriptorStore(capacity=20_000)
    key = Ed25519KeyPair.generate(os.urandom)
    store.store(make_descriptor(1, key=key), NOW)
    name = base64.b64encode(key.public).decode()
    assert store.fetch(name, NOW) is not None
    store.store(make_descriptor(2, key=key), NOW)  # what was fetched counts for the new revision, too
    for number in range(60):
        store.store(make_descriptor(1, b"x" * 500), NOW + 1 + number)
    assert store.fetch(name, NOW + 100) is not None


@pytest.mark.parametrize("best", [(5_000_000, 3_000_000), (3_000_000, 5_000_000)])
def test_observed_bandwidth_is_the_best_ten_seconds_of_the_lesser_direction(best: tuple[int, int]) -> None:
    meter = BandwidthMeter()
    assert meter.observed == LEAST_OBSERVED
    read = written = 0
    for second in range(30):
        meter.note(NOW + second, read, written)
        more_read, more_written = best if 10 <= second < 21 else (10, 10)
        read, written = read + more_read, written + more_written
    assert meter.observed == pytest.approx(3_000_000, rel=0.01)
    copy = BandwidthMeter()
    copy.restore(meter.state(), NOW + 60)
    assert copy.observed == meter.observed
    copy.restore(meter.state(), NOW + 6 * 86400)
    assert copy.observed == LEAST_OBSERVED
    for damaged in (None, 5, [1, 2], [["a", 2, 3]], {"x": 1}):
        copy.restore(damaged, NOW)


def test_observed_bandwidth_is_forgotten_after_five_days() -> None:
    meter = BandwidthMeter()
    total = 0
    for hour in range(6 * 24):
        for second in range(0, 120, 10):
            meter.note(NOW + 3600 * hour + second, total, total)
            total += 50_000_000 if hour == 0 else 2_000_000
        assert meter.observed == (5_000_000 if hour < 5 * 24 else 200_000)
    assert len(meter.state()) <= 5 * 24 + 1, "one for each hour"


def test_a_clock_that_is_set_back_does_not_stop_the_measuring() -> None:
    meter = BandwidthMeter()
    total = 0
    for start, rate in ((NOW + 1e9, 9_000_000), (NOW, 1_000_000), (NOW + 5, 2_000_000)):
        for second in range(12):
            meter.note(start + second, total, total)
            total += rate
        assert meter.observed == rate
    copy = BandwidthMeter()
    copy.restore(meter.state(), NOW + 60)
    assert copy.observed == 2_000_000


def test_a_token_bucket_allows_a_burst_and_then_its_rate() -> None:
    bucket = Bucket(rate=2, burst=5, now=0.0)
    assert [bucket.take(0.0) for _ in range(6)] == [True] * 5 + [False]
    assert [bucket.take(1.0) for _ in range(3)] == [True, True, False]
    assert [bucket.take(100.0) for _ in range(6)] == [True] * 5 + [False]


async def test_look_ups_are_shared_and_cached() -> None:
    asked: list[str] = []

    def look_up(name: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
        asked.append(name)
        if name == "missing.test":
            raise OSError
        return [ipaddress.ip_address("192.0.2.1")]

    resolver = Resolver(look_up)
    answers = await asyncio.gather(*(resolver.resolve("Name.Test") for _ in range(5)))
    assert all(str(answer[0]) == "192.0.2.1" for answer in answers)
    await resolver.resolve("name.test.")
    assert asked == ["name.test"]
    assert str((await resolver.resolve("::1"))[0]) == "::1"
    for _ in range(2):
        with pytest.raises(StreamError):
            await resolver.resolve("missing.test")
    assert asked == ["name.test", "missing.test"]
    resolver.close()


async def test_a_dead_name_server_holds_a_few_threads_and_no_name_that_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resolver_module, "THREADS", 2)
    given_up = threading.Event()

    def look_up(name: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
        if name.startswith("dead") and not given_up.wait(60):
            raise TimeoutError
        return [ipaddress.ip_address("192.0.2.1")]

    async def reason(name: str) -> int | None:
        with pytest.raises(StreamError) as refused:
            await resolver.resolve(name)
        return refused.value.reason

    resolver = Resolver(look_up)
    known = await resolver.resolve("known.test")
    with monkeypatch.context() as short:
        short.setattr(resolver_module, "THREAD_SECONDS", 0.01)
        short.setattr(resolver_module, "LOOKUP_SECONDS", 0.01)
        for number in range(2):
            assert await reason(f"dead{number}.test") == EndReason.RESOLVEFAILED
        assert await reason("new.test") == EndReason.RESOURCELIMIT
        assert await resolver.resolve("known.test") == known
    given_up.set()
    assert await resolver.resolve("new.test") == known  # it was not taken for a name without address
    resolver.close()
