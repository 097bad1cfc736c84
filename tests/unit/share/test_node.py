"""When a share is over."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import pytest

from pelure.share.node import _until_over
from pelure.share.record import ShareRecord


class FakePublication:
    """What decides about the end of a share."""

    def __init__(self, **settings: Any) -> None:
        self.record = ShareRecord("docs", "docs", ["/docs"], "", **settings)
        self.completed = asyncio.Event()
        self.given_up = asyncio.Event()


async def over(publication: FakePublication) -> None:
    async with asyncio.timeout(30):
        await _until_over(cast(Any, publication))


async def test_once_somebody_has_all_of_it() -> None:
    publication = FakePublication(once=True)
    ending = asyncio.ensure_future(over(publication))
    await asyncio.sleep(0)
    assert not ending.done()
    publication.completed.set()
    await ending


async def test_at_its_time_by_the_clock_on_the_wall(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timers stand still while a machine sleeps; the time at which a share is to end does not."""
    monkeypatch.setattr("pelure.tor.net.wallclock.LOOK_SECONDS", 0.01)
    now = time.time()
    publication = FakePublication(stop_at=now + 3600)
    publication.completed.set()
    ending = asyncio.ensure_future(over(publication))
    await asyncio.sleep(0.05)
    assert not ending.done()
    monkeypatch.setattr(time, "time", lambda: now + 3601)
    await ending
