"""Waiting by the wall clock, and noticing its jumps."""

from __future__ import annotations

import asyncio
import time

import pytest

from pelure.tor.net import wallclock
from pelure.tor.net.wallclock import sleep_until, watch_clock

PATIENCE = 30


@pytest.fixture(autouse=True)
def attentive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wallclock, "LOOK_SECONDS", 0.001)


def advance(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Set the wall clock."""
    before = time.time
    monkeypatch.setattr(time, "time", lambda: before() + seconds)


async def test_a_machine_that_slept_is_on_time_again(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = asyncio.create_task(sleep_until(time.time() + 3600))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    advance(monkeypatch, 4000)
    async with asyncio.timeout(PATIENCE):
        await waiting


async def test_what_is_due_already_is_not_waited_for() -> None:
    await sleep_until(time.time() - 1)


async def test_jumps_are_told_in_both_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    jumps: asyncio.Queue[float] = asyncio.Queue()
    watching = asyncio.create_task(watch_clock(jumps.put_nowait))
    await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE):
        for seconds in (3600, -7200):
            advance(monkeypatch, seconds)
            assert await jumps.get() == pytest.approx(seconds, abs=50)
    advance(monkeypatch, 50)  # an adjustment
    await asyncio.sleep(0.02)
    assert jumps.empty()
    watching.cancel()
