"""Nobody is told of a block before it is on the disk for good: after a crash it would be missing (§13)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pelure.errors import ProtocolError
from pelure.hyper.core.core import Core
from pelure.hyper.core.corestore import Corestore
from pelure.hyper.core.replication import telling
from pelure.hyper.wire import messages as m
from pelure.hyper.wire.parts import HashRequest

from .scripted import ScriptedPeer, scripted
from .support import Links, block, within

BLOCKS = 40
HELD = [*range(10), 20]


@contextmanager
def slow_disk(core: Core) -> Iterator[None]:
    """Nothing that changes in the core's store reaches the disk until the block ends."""
    lock = core.storage.store._commit_lock
    with lock:
        yield


async def durable(core: Core) -> None:
    """Wait until all that ``core`` holds is on the disk."""
    written = asyncio.Event()
    core.when_durable(written.set)
    await within(written.wait())


async def told(peer: ScriptedPeer, until_kind: type[m.Message]) -> list[m.Message]:
    """What a peer was told of blocks before the first message of a kind."""
    news: list[m.Message] = []
    while not isinstance(message := await within(peer.received.get()), until_kind):
        if isinstance(message, m.Range | m.Bitfield):
            news.append(message)
    return news


@pytest.fixture
def cores(stores: Callable[[], Corestore]) -> tuple[Corestore, Core, Corestore, Core]:
    source, store = stores(), stores()
    writer = source.get(name="core")
    writer.append([block(index) for index in range(BLOCKS)])
    return source, writer, store, store.get(key=writer.key)


async def until_told_what_is_held(peer: ScriptedPeer) -> None:
    """Wait for the bits of all blocks: they are those of ``HELD``."""
    told_now = await within(peer.expect(m.Bitfield))
    assert isinstance(told_now, m.Bitfield)
    assert int.from_bytes(told_now.words, "little") == sum(1 << index for index in HELD)


async def test_a_stream_opened_in_mid_transfer(
    cores: tuple[Corestore, Core, Corestore, Core], link: Links
) -> None:
    source, writer, store, reader = cores
    await link(source, store)
    with slow_disk(reader):
        await within(asyncio.gather(*(reader.get(index) for index in HELD)))
        async with scripted(store, writer.key) as (_, peer):
            await within(peer.opened.wait())
            await peer.send(m.Sync(0, BLOCKS, BLOCKS), m.Want(0, 32), m.Want(32, 32))
            await peer.send(m.Request(1, 0, hash=HashRequest(0, 0)))
            assert await told(peer, m.Data) == []
    await durable(reader)
    async with scripted(store, writer.key) as (_, peer):
        await within(peer.opened.wait())
        first = await within(peer.expect(m.Range))
        assert isinstance(first, m.Range)
        assert (first.start, first.length) == (0, 10)
        await peer.send(m.Sync(0, BLOCKS, BLOCKS), m.Want(0, 32))
        await until_told_what_is_held(peer)


async def test_told_as_soon_as_the_disk_has_it(
    cores: tuple[Corestore, Core, Corestore, Core], link: Links
) -> None:
    source, writer, store, reader = cores
    await link(source, store)
    async with scripted(store, writer.key) as (_, peer):
        await within(peer.opened.wait())
        with slow_disk(reader):
            await within(asyncio.gather(*(reader.get(index) for index in HELD)))
            await peer.send(m.Sync(0, BLOCKS, BLOCKS), m.Want(0, 32))
            await peer.send(m.Request(1, 0, hash=HashRequest(0, 0)))
            assert await told(peer, m.Data) == []
        # The answer to the question from before.
        await until_told_what_is_held(peer)


async def test_all_is_told_once_all_is_on_the_disk(
    cores: tuple[Corestore, Core, Corestore, Core], link: Links
) -> None:
    """That a core is complete is said when its last blocks are durable, not when earlier ones are."""
    source, writer, store, reader = cores
    await link(source, store)
    await within(asyncio.gather(*(reader.get(index) for index in range(BLOCKS - 1))))
    await durable(reader)
    async with scripted(store, writer.key) as (_, peer):
        await within(peer.opened.wait())
        with slow_disk(reader):
            await within(reader.get(BLOCKS - 1))
            await peer.send(m.Sync(0, BLOCKS, BLOCKS), m.Request(1, 0, hash=HashRequest(0, 0)))
            ranges = await told(peer, m.Data)
            assert all(isinstance(one, m.Range) and one.length < BLOCKS for one in ranges)
        while (await within(peer.expect(m.Range))) != m.Range(0, BLOCKS):
            pass


async def test_a_flood_of_questions_while_the_disk_is_slow(
    cores: tuple[Corestore, Core, Corestore, Core], link: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is asked again waits once; too many different ones end the stream."""
    monkeypatch.setattr(telling, "MAX_WAITING", 1)
    source, writer, store, reader = cores
    await link(source, store)
    async with scripted(store, writer.key) as (replication, peer):
        await within(peer.opened.wait())
        with slow_disk(reader):
            await within(asyncio.gather(*(reader.get(index) for index in (3, 35))))
            await peer.send(m.Sync(0, BLOCKS, BLOCKS), *(m.Want(0, 32) for _ in range(100)))
            await peer.send(m.Request(1, 0, hash=HashRequest(6, 0)))
            assert await told(peer, m.Data) == []
        await durable(reader)
        await peer.send(m.Request(2, 0, hash=HashRequest(6, 0)))
        news = await told(peer, m.Data)
        assert [one for one in news if isinstance(one, m.Bitfield)] == [m.Bitfield(0, b"\x08\0\0\0")]
        with slow_disk(reader):
            await within(reader.get(4))
            await peer.send(m.Want(0, 32), m.Want(32, 8))
            assert isinstance(await within(replication.wait_closed()), ProtocolError)
