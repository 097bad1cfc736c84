"""Background work that fails is told and begun anew."""

from __future__ import annotations

import asyncio

import pytest

from pelure.tor.net import supervision
from pelure.tor.net.supervision import supervised


async def test_failures_are_told_once_and_the_work_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervision, "RESTART_SECONDS_FIRST", 0.0)
    outcomes = [ValueError("one"), ValueError("one"), ValueError("another"), None]

    async def job() -> None:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    async with asyncio.timeout(30):
        await supervised(job, "the job")
    assert not outcomes
    assert caplog.text.count("bug: the job has failed") == caplog.text.count("Traceback") == 2
    assert caplog.text.count("in the same way") == 1


async def test_it_waits_longer_and_longer_and_can_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 8:
            raise asyncio.CancelledError

    async def job() -> None:
        raise ValueError

    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await supervised(job, "the job")
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
