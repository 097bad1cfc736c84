"""Peers that talk but never answer, or leave in the middle: they keep nobody from what others have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from pelure.hyper.core.replication import replicator as replicator_module
from pelure.hyper.core.replication import stream as stream_module
from pelure.hyper.core.replication import upgrades as upgrades_module
from pelure.hyper.wire import messages as m

from .scripted import BLOCKS, Case, ScriptedPeer, scripted
from .support import block, within


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrades_module, "STALL_SECONDS", 0.5)
    monkeypatch.setattr(replicator_module, "STALL_SECONDS", 0.5)
    monkeypatch.setattr(stream_module, "_TICK_SECONDS", 0.05)


@asynccontextmanager
async def talkative(case: Case, *claims: m.Message) -> AsyncIterator[ScriptedPeer]:
    """A peer of the reader that makes ``claims``, answers nothing, and is heard of all the time."""
    async with scripted(case.store, case.writer.key) as (_, peer):
        await within(peer.opened.wait())
        await peer.send(*claims)

        async def talk() -> None:
            while True:
                await peer.send(m.Extension("unknown", b"news"))
                await asyncio.sleep(0.02)

        talking = asyncio.ensure_future(talk())
        try:
            yield peer
        finally:
            talking.cancel()


@pytest.mark.parametrize("fork", [0, 9])
async def test_growth_and_forks_come_from_others(case: Case, fork: int) -> None:
    if fork:
        case.writer.truncate(BLOCKS // 2)
    claim = m.Sync(fork, 10**6, 0, has_manifest=True)
    async with talkative(case, claim) as peer, AsyncExitStack() as stack:
        assert (await peer.expect(m.Request)).upgrade is not None
        await case.from_an_honest_peer(stack)
        await within(case.reader.wait_length(case.writer.length))
        assert case.reader.fork == case.writer.fork


async def test_an_answer_that_comes_when_it_was_given_up_is_ignored(case: Case) -> None:
    case.writer.truncate(BLOCKS // 2)
    claim = m.Sync(1, BLOCKS // 2, 0, has_manifest=True)
    async with talkative(case, claim) as slow:
        given_up = await slow.expect(m.Request)
        async with talkative(case, claim) as other:
            asked = await other.expect(m.Request)
            assert given_up.upgrade == asked.upgrade
            await slow.send(case.answer(given_up))

            async def answer(request: m.Request) -> None:
                while True:
                    await other.send(case.answer(request))
                    request = await other.expect(m.Request)

            answering = asyncio.ensure_future(answer(asked))
            await within(case.reader.wait_length(BLOCKS // 2))
            answering.cancel()
            assert case.reader.fork == 1
            assert all(peer.suspected is None for peer in case.reader.replicator.peers)


async def bring_up_to_date(case: Case) -> None:
    async with AsyncExitStack() as stack:
        await case.from_an_honest_peer(stack)
        await within(case.reader.update(wait=True))
    assert case.reader.length == BLOCKS


async def test_blocks_come_from_others_however_many_do_not_answer(case: Case) -> None:
    await bring_up_to_date(case)
    claims = m.Sync(0, BLOCKS, BLOCKS), m.Range(0, BLOCKS)
    async with talkative(case, *claims) as one, talkative(case, *claims) as other:
        reading = asyncio.ensure_future(case.reader.get(7))
        for peer in (one, other):
            assert (await peer.expect(m.Request)).block.index == 7
        async with AsyncExitStack() as stack:
            await case.from_an_honest_peer(stack)
            assert await within(reading) == block(7)


async def test_where_a_byte_is_comes_from_others(case: Case) -> None:
    await bring_up_to_date(case)
    async with talkative(case, m.Sync(0, BLOCKS, BLOCKS), m.Range(0, BLOCKS)) as peer:
        seeking = asyncio.ensure_future(case.reader.seek(750))
        assert (await peer.expect(m.Request)).seek is not None
        async with AsyncExitStack() as stack:
            await case.from_an_honest_peer(stack)
            assert await within(seeking) == (7, 50)


async def test_a_fork_whose_peer_left_in_the_middle_is_followed_with_another(case: Case) -> None:
    async with AsyncExitStack() as stack:
        await case.from_an_honest_peer(stack)
        await within(case.reader.update(wait=True))
        await within(case.reader.download([(0, BLOCKS)]))
    case.writer.truncate(25)
    case.writer.append([b"another"] * 5)
    async with talkative(case, m.Sync(1, 30, 0)) as peer:
        request = await peer.expect(m.Request)
        assert request.upgrade is not None
        await peer.send(case.answer(request))
        assert (await peer.expect(m.Request)).hash is not None
    async with AsyncExitStack() as stack:
        await case.from_an_honest_peer(stack)
        while case.reader.fork == 0:
            await within(case.reader.changed())
        assert [case.reader.has(index) for index in (24, 25)] == [True, False]
