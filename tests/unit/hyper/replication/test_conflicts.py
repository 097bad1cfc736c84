"""One key used in two places: two signed histories of a core (HYPER-FACTS §12), and those who claim it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from pelure.errors import ConflictError, DriveError, ProtocolError
from pelure.hyper.core.core import Core
from pelure.hyper.core.corestore import Corestore
from pelure.hyper.core.replication import conflicts
from pelure.hyper.core.replication import stream as stream_module
from pelure.hyper.wire import messages as m
from pelure.hyper.wire.parts import Node, UpgradeRequest

from .scripted import scripted
from .support import Links, block, until, within

SAME = 5
"""Blocks that both histories begin with."""


class Twice:
    """Two writers with one key, whose histories part after ``SAME`` blocks, and a reader of the first."""

    def __init__(self, stores: Callable[..., Corestore], first: int, second: int) -> None:
        self.stores = [stores(bytes(32)), stores(bytes(32)), stores()]
        self.first, self.second = (store.get(name="core") for store in self.stores[:2])
        shared = [block(index) for index in range(SAME)]
        self.first.append(shared + [b"one %d" % index for index in range(SAME, first)])
        self.second.append(shared + [b"two %d" % index for index in range(SAME, second)])
        self.reader = self.stores[2].get(key=self.first.key)

    async def read_first(self, link: Links) -> None:
        one, _ = await link(self.stores[2], self.stores[0])
        await within(self.reader.update(wait=True))
        await within(self.reader.download([(0, self.reader.length)]))
        await one.close()

    def holds_the_first(self, core: Core) -> bool:
        return all(core.get_local(index) == self.first.get_local(index) for index in range(core.length))


@pytest.mark.parametrize("second", [SAME + 1, 12, 20])
async def test_a_reader_notices_and_tells_the_writer(stores, link, second: int) -> None:
    case = Twice(stores, 12, second)
    await case.read_first(link)
    case.reader.clear(SAME, SAME + 1)
    pair = await link(case.stores[2], case.stores[1])
    with pytest.raises(ConflictError, match="used in two places"):
        await within(case.reader.get(SAME))
    await until(lambda: case.second.conflict is not None)
    for core in (case.reader, case.second):
        with pytest.raises(ConflictError):
            await within(core.update())
    with pytest.raises(ConflictError):
        case.second.append([b"more"])
    with pytest.raises(ConflictError):
        case.second.truncate(1)
    assert case.reader.length == 12 and not case.reader.has(SAME)
    assert case.reader.get_local(SAME + 1) == case.first.get_local(SAME + 1)
    assert [replication.error for replication in pair] == [None, None]  # other cores go on over the stream


async def test_all_who_wait_are_told(stores, link) -> None:
    case = Twice(stores, 12, 20)
    await case.read_first(link)
    case.reader.clear(0, 12)
    waiting = [
        asyncio.ensure_future(wait)
        for wait in (
            case.reader.get(30),
            case.reader.download([(0, 12)]),
            case.reader.wait_length(40),
        )
    ]
    await link(case.stores[2], case.stores[1])
    for found in await within(asyncio.gather(*waiting, return_exceptions=True)):
        assert isinstance(found, ConflictError)


async def test_both_writers_learn_of_it_from_one_reader(stores, link) -> None:
    case = Twice(stores, 12, 20)
    await case.read_first(link)
    await link(case.stores[2], case.stores[0])
    await until(lambda: case.reader.replicator is not None and len(case.reader.replicator.peers) == 1)
    await within(case.reader.update())
    await link(case.stores[2], case.stores[1])
    await until(lambda: None not in (case.reader.conflict, case.first.conflict, case.second.conflict))


async def test_it_stays_so_and_nothing_is_served(stores, link, tmp_path) -> None:
    case = Twice(stores, 12, 20)
    await case.read_first(link)
    await link(case.stores[2], case.stores[1])
    await until(lambda: case.reader.conflict is not None)
    case.stores[2].close()
    again = Corestore(case.stores[2].path)
    try:
        core = again.get(key=case.first.key)
        assert core.conflict == case.reader.conflict and case.holds_the_first(core)
        fresh = stores()
        newcomer = fresh.get(key=case.first.key)
        await link(fresh, again)
        assert not await within(newcomer.update(wait=True))
        assert newcomer.length == 0
        with pytest.raises(ConflictError):
            await within(core.get(12))
    finally:
        again.close()


async def test_a_damaged_tree_of_one_s_own_is_no_conflict(stores, link) -> None:
    case = Twice(stores, 12, 12)
    await case.read_first(link)
    case.reader.storage.put_nodes([Node(1, 200, bytes(32))])
    proof = case.first.proof(m.Request(0, 0, upgrade=UpgradeRequest(0, 3)))
    assert proof is not None and not case.reader.check_conflict(proof)


async def test_proofs_that_agree_or_can_t_be_compared(stores, link) -> None:
    case = Twice(stores, 12, 12)
    await case.read_first(link)
    proof = case.first.proof(m.Request(0, 0, upgrade=UpgradeRequest(0, 12)))
    same = case.second.proof(m.Request(0, 0, upgrade=UpgradeRequest(0, 4)))
    case.first.truncate(3)
    forked = case.first.proof(m.Request(0, 1, upgrade=UpgradeRequest(0, 3)))
    grown = case.second.proof(m.Request(0, 0, upgrade=UpgradeRequest(4, 8)))
    for harmless in (proof, forked, grown):
        assert harmless is not None and not case.reader.check_conflict(harmless)
    assert same is not None and case.reader.check_conflict(same)  # alike so far, but signed on top of it


async def test_a_claim_of_conflict_that_is_false(stores, link) -> None:
    case = Twice(stores, 12, 20)
    await case.read_first(link)
    false = case.second.proof(m.Request(0, 0, upgrade=UpgradeRequest(0, 12)))
    assert false is not None and false.upgrade is not None and false.upgrade.signature is not None
    false.upgrade.signature = false.upgrade.signature[:-1] + bytes([false.upgrade.signature[-1] ^ 1])
    async with scripted(case.stores[2], case.reader.key) as (replication, peer):
        await within(peer.opened.wait())
        await peer.send(m.Sync(0, 12, 12), false)
        assert isinstance(await within(replication.wait_closed()), ProtocolError)
    assert case.reader.conflict is None


async def test_a_suspect_that_does_not_answer_is_dropped(stores, link, monkeypatch) -> None:
    monkeypatch.setattr(conflicts, "ANSWER_SECONDS", 0.0)
    monkeypatch.setattr(stream_module, "_TICK_SECONDS", 0.02)
    case = Twice(stores, 12, 12)
    await case.read_first(link)
    case.reader.clear(0, 12)
    async with scripted(case.stores[2], case.reader.key) as (replication, peer):
        peer.proves_nothing = False
        await within(peer.opened.wait())
        await peer.send(m.Sync(0, 12, 12), m.Range(0, 12))
        reading = asyncio.ensure_future(case.reader.get(7))
        answer = case.second.proof(await peer.expect(m.Request))
        await peer.send(answer)
        assert isinstance(await within(replication.wait_closed()), ProtocolError)
    reading.cancel()
    assert case.reader.conflict is None and not case.reader.has(7)


async def test_what_a_liar_was_asked_for_comes_from_another_peer_meanwhile(stores, link) -> None:
    case = Twice(stores, 12, 12)
    await case.read_first(link)
    case.reader.clear(0, 12)
    async with scripted(case.stores[2], case.reader.key) as (_, peer), AsyncExitStack():
        peer.proves_nothing = False
        await within(peer.opened.wait())
        await peer.send(m.Sync(0, 12, 12), m.Range(0, 12))
        reading = asyncio.ensure_future(case.reader.get(7))
        request = await peer.expect(m.Request)
        await link(case.stores[2], case.stores[0])
        await until(lambda: len(case.reader.replicator.peers) == 2)
        await peer.send(case.second.proof(request))
        assert await within(reading) == b"one 7"


async def test_a_purged_core_lets_nobody_wait(stores) -> None:
    core = stores().get(key=stores().get(name="core").key)
    waiting = [asyncio.ensure_future(wait) for wait in (core.get(3), core.changed(), core.update(wait=True))]
    await asyncio.sleep(0)
    core.purge()
    for found in await within(asyncio.gather(*waiting, return_exceptions=True)):
        assert isinstance(found, DriveError) and "purged" in str(found)
