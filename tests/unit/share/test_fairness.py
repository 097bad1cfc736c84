"""Turns of links at the publisher's upload, and how much is taken in from one."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from pelure.share import fairness
from pelure.share.fairness import (
    HEARD_BURST,
    HEARD_RATE,
    SHARE_STREAMS,
    SMALL,
    UNANSWERED,
    FairStream,
    FairUpload,
    Lane,
)
from pelure.streams import memory_pipe


class Clock:
    """Seconds as a test tells them."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lanes(upload: FairUpload, streams: int) -> Lane:
    """A lane with ``streams`` streams; its link's number is that too."""
    for _ in range(streams - 1):
        upload.join(streams)
    return upload.join(streams)


async def test_a_link_that_is_alone_has_no_limit() -> None:
    upload = FairUpload()
    lane = lanes(upload, 16)
    lanes(upload, 4)
    async with AsyncExitStack() as stack, asyncio.timeout(10):
        for _ in range(16):
            await stack.enter_async_context(upload.turn(lane))


async def test_while_others_are_served_a_greedy_link_has_one_turn_at_a_time() -> None:
    clock = Clock()
    upload = FairUpload(clock)
    greedy, modest = lanes(upload, 16), lanes(upload, SHARE_STREAMS)
    order: list[str] = []

    async def take(name: str) -> None:
        async with upload.turn(greedy):
            order.append(name)
            await asyncio.sleep(0)

    async with upload.turn(modest):
        assert upload.limit(greedy) == 1
        first = upload.turn(greedy)
        await first.__aenter__()
        waiting = [asyncio.ensure_future(take(name)) for name in "abc"]
        async with upload.turn(modest), upload.turn(modest), upload.turn(modest):
            assert upload.limit(modest) == SHARE_STREAMS
        assert not order
        waiting[0].cancel()
        await first.__aexit__(None, None, None)
        await asyncio.gather(*waiting, return_exceptions=True)
        assert order == ["b", "c"]
    clock.now += fairness.ACTIVE_SECONDS
    assert upload.limit(greedy) == 16


async def test_a_stalled_reader_keeps_its_turn_for_a_while_only(monkeypatch) -> None:
    monkeypatch.setattr(fairness, "STALL_SECONDS", 0.01)
    upload = FairUpload()
    greedy, modest = lanes(upload, 16), lanes(upload, 1)
    async with asyncio.timeout(10), upload.turn(modest), upload.turn(greedy), upload.turn(greedy):
        pass


async def test_a_link_is_forgotten_with_its_last_stream() -> None:
    upload = FairUpload()
    lane = upload.join(7)
    assert upload.join(7) is lane
    upload.part(7)
    upload.part(7)
    assert upload.join(7) is not lane


def test_what_a_link_says_is_taken_in_at_a_rate() -> None:
    clock = Clock()
    lane = Lane(clock)
    assert lane.debt(HEARD_BURST) == 0
    assert lane.debt(HEARD_RATE) == 1.0
    clock.now += 1.0
    assert lane.debt(0) == 0
    assert lane.debt(HEARD_RATE // 2) == 0.5


async def test_a_fair_stream_is_a_stream() -> None:
    left, right = memory_pipe(1 << 20)
    upload = FairUpload()
    stream = FairStream(left, upload)
    for lane in (None, upload.join(1)):
        if lane is not None:
            stream.assign(lane)
        await stream.write(b"x")
        await stream.write(bytes(100_000))
        await right.write(b"answer")
        received = 0
        while received < 100_001:
            received += len(await right.read())
        assert await stream.read() == b"answer"
    await stream.write_eof()
    assert await right.read() == b""
    await stream.close()


async def test_of_too_many_stalled_readers_the_link_that_has_most_loses_one(monkeypatch) -> None:
    monkeypatch.setattr(fairness, "STALL_SECONDS", 0.01)
    monkeypatch.setattr(fairness, "MAX_STALLED", 3)
    upload = FairUpload()
    many, few = lanes(upload, 8), lanes(upload, 1)
    ended: list[str] = []

    async def stall(name: str, lane: Lane) -> None:
        try:
            async with upload.turn(lane):
                await asyncio.Event().wait()
        except TimeoutError:
            ended.append(name)

    async with asyncio.timeout(10):
        stalled = [asyncio.ensure_future(stall("the only one", few))]
        for number in range(3):
            while len(upload._stalled) <= number:  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.005)
            stalled.append(asyncio.ensure_future(stall(f"number {number}", many)))
        await stalled[1]
    assert ended == ["number 0"]
    for task in stalled:
        task.cancel()
    await asyncio.gather(*stalled, return_exceptions=True)
    assert not upload._stalled


async def test_little_is_taken_in_while_an_answer_waits() -> None:
    left, right = memory_pipe(1)
    upload = FairUpload()
    stream = FairStream(left, upload)
    stream.assign(upload.join(1))
    async with asyncio.timeout(10):
        await stream.write(bytes(SMALL))  # all that the pipe holds
        answering = asyncio.ensure_future(stream.write(bytes(SMALL)))
        await asyncio.sleep(0)
        asked = asyncio.ensure_future(right.write(bytes(3 * UNANSWERED)))
        assert len(await stream.read()) == UNANSWERED
        more = asyncio.ensure_future(stream.read())
        await asyncio.sleep(0.05)
        assert not more.done() and not answering.done()
        while not answering.done():
            await right.read()
        assert len(await more) == UNANSWERED
        await asked
    await stream.close()
