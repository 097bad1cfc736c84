"""Bandwidth limits: token buckets by a virtual clock, and links that keep to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.tor.net.throttle import LEAST_SHARE, PARTS, TICK_SECONDS, Bucket, Throttle

RATE, BURST = 100_000, 200_000


class VirtualLoop:
    """The clock and timers of an event loop, driven by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> mock.Mock:
        self.timers.append((self.now + delay, callback))
        return mock.Mock()

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [timer for timer in self.timers if timer[0] <= end]:
            timer = min(due, key=lambda one: one[0])
            self.timers.remove(timer)
            self.now = timer[0]
            timer[1]()
        self.now = end


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> VirtualLoop:
    virtual = VirtualLoop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: virtual)
    return virtual


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 100_000)), max_size=50))
def test_no_more_than_the_burst_and_the_rate_is_given(steps: list[tuple[float, int]]) -> None:
    bucket = Bucket(RATE, BURST, 0.0)
    now = taken = 0.0
    for passed, wanted in steps:
        now += passed
        bucket.fill(now)
        took = min(wanted, max(0, int(bucket.tokens)))
        bucket.tokens -= took
        taken += took
        assert taken <= BURST + RATE * now + 1


def test_an_idle_bucket_holds_its_burst_and_no_more() -> None:
    bucket = Bucket(RATE, BURST, 0.0)
    bucket.tokens = -50_000.0
    bucket.fill(1.0)
    assert bucket.tokens == 50_000
    bucket.fill(1000.0)
    assert bucket.tokens == BURST


class Greedy:
    """A link that always has something to write."""

    def __init__(self, throttle: Throttle) -> None:
        self.sent = 0
        self._direction = throttle.writing
        self.go()

    def go(self) -> None:
        while share := self._direction.share(50_000):
            self._direction.spend(share)
            self.sent += share
        self._direction.wait(self.go)


def test_links_together_have_the_rate_and_none_starves(loop: VirtualLoop) -> None:
    throttle = Throttle(RATE, BURST)
    links = [Greedy(throttle) for _ in range(10)]
    assert BURST <= sum(link.sent for link in links) < BURST + 50_000
    started = sum(link.sent for link in links)
    loop.advance(60.0)
    rate = (sum(link.sent for link in links) - started) / 60
    assert rate == pytest.approx(RATE, rel=0.02)
    least = min(link.sent for link in links[1:])
    assert least > 0.5 * RATE * 60 / 10, "all had their turns"
    assert throttle.reading.share(1000) == 1000, "reading has a bucket of its own"


def test_a_link_that_was_quiet_may_take_what_has_accrued(loop: VirtualLoop) -> None:
    throttle = Throttle(RATE, BURST)
    throttle.reading.spend(BURST)
    assert throttle.reading.share(50_000) == 0
    loop.advance(1.0)
    assert throttle.reading.share(50_000) == RATE // PARTS


def test_readers_are_woken_by_as_many_as_there_are_bytes_for(loop: VirtualLoop) -> None:
    throttle = Throttle(RATE, BURST)
    throttle.reading.spend(BURST)
    woken: list[int] = []
    for number in range(100):
        throttle.reading.wait(lambda number=number: woken.append(number))  # type: ignore[misc]
    loop.advance(TICK_SECONDS)
    assert woken == list(range(-(-int(RATE * TICK_SECONDS) // LEAST_SHARE)))
    loop.advance(100.0)
    assert woken == list(range(100))
    assert not loop.timers, "nobody waits: no timer runs"
