"""Peers that break the protocol: their stream ends, nothing of theirs is kept, and nobody else notices."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pelure import streams
from pelure.errors import CryptoError, PelureError, ProtocolError
from pelure.hyper.core.replication import answers as answers_module
from pelure.hyper.core.replication import replicator as replicator_module
from pelure.hyper.core.replication import stream as stream_module
from pelure.hyper.core.replication import upgrades as upgrades_module
from pelure.hyper.core.replication import uploads as uploads_module
from pelure.hyper.core.replication.conflicts import MAX_POINTLESS_PROOFS
from pelure.hyper.core.replication.stream import WRITE_SIZE, Replication
from pelure.hyper.wire import messages as m
from pelure.hyper.wire import protomux as protomux_module
from pelure.hyper.wire.noise import KeyPair
from pelure.hyper.wire.parts import BlockRequest, HashRequest, Node, SeekRequest, UpgradeRequest
from pelure.streams import SocketStream, memory_pipe

from .scripted import BLOCKS, Case, ScriptedPeer, scripted
from .support import block, until, within


async def ended(replication: Replication, kind: type[Exception] = ProtocolError) -> None:
    error = await within(replication.wait_closed())
    assert isinstance(error, kind), error


async def test_not_knowing_the_key(case: Case) -> None:
    async with scripted(case.source, case.writer.key, secret=bytes(32)) as (replication, peer):
        await ended(replication, CryptoError)
        assert peer.received.empty()  # nothing was said about the core


async def test_a_block_that_is_not_the_one(case: Case) -> None:
    async with scripted(case.store, case.writer.key) as (replication, peer):
        await case.bring_up(peer)
        reading = asyncio.ensure_future(case.reader.get(7))
        answer = case.answer(await peer.expect(m.Request))
        answer.block.value = b"a lie"
        await peer.send(answer)
        await ended(replication)
    assert not case.reader.has(7) and not reading.done()
    async with AsyncExitStack() as stack:
        await case.from_an_honest_peer(stack)
        assert await within(reading) == block(7)


@pytest.mark.parametrize("what", ["hash", "size", "index", "missing", "extra"])
async def test_a_proof_that_is_wrong(case: Case, what: str) -> None:
    async with scripted(case.store, case.writer.key) as (replication, peer):
        await case.bring_up(peer)
        reading = asyncio.ensure_future(case.reader.get(7))
        answer = case.answer(await peer.expect(m.Request))
        node = answer.block.nodes[0]
        changed = {
            "hash": [Node(node.index, node.size, bytes(32)), *answer.block.nodes[1:]],
            "size": [Node(node.index, node.size + 1, node.hash), *answer.block.nodes[1:]],
            "index": [Node(node.index + 2, node.size, node.hash), *answer.block.nodes[1:]],
            "missing": answer.block.nodes[:-1],
            "extra": [*answer.block.nodes, node],
        }
        answer.block.nodes = changed[what]
        await peer.send(answer)
        await ended(replication)
    assert not case.reader.has(7)
    reading.cancel()


@pytest.mark.parametrize("what", ["signature", "no signature", "length", "nodes", "manifest"])
async def test_an_upgrade_that_is_wrong(case: Case, what: str) -> None:
    async with scripted(case.store, case.writer.key) as (replication, peer):
        await within(peer.opened.wait())
        await peer.send(case.sync())
        answer = case.answer(await peer.expect(m.Request))
        upgrade = answer.upgrade
        if what == "signature":
            upgrade.signature = upgrade.signature[:10] + bytes(len(upgrade.signature) - 10)
        elif what == "no signature":
            upgrade.signature = None
        elif what == "length":
            upgrade.length -= 8
        elif what == "nodes":
            upgrade.nodes = upgrade.nodes[::-1]
        else:
            answer.manifest = answer.manifest[:-1] + bytes([answer.manifest[-1] ^ 1])
        await peer.send(answer)
        await ended(replication)
    assert (case.reader.length, case.reader.manifest) == (0, None)


async def test_a_whole_other_core_s_answers(case: Case, stores) -> None:
    other = stores().get(name="another")
    other.append([b"x"] * BLOCKS)
    async with scripted(case.store, case.writer.key) as (replication, peer):
        await within(peer.opened.wait())
        await peer.send(case.sync())
        await peer.send(other.proof(await peer.expect(m.Request)))
        await ended(replication)
    assert case.reader.length == 0


async def test_answers_that_were_not_asked_for_are_ignored(case: Case) -> None:
    async with scripted(case.store, case.writer.key) as (replication, peer):
        await case.bring_up(peer)
        unasked = case.answer(m.Request(99, 0, block=BlockRequest(3, 5)))
        reading = asyncio.ensure_future(case.reader.get(7))
        request = await peer.expect(m.Request)
        other = case.answer(m.Request(request.id, 0, block=BlockRequest(4, 5)))
        await peer.send(unasked, other, m.NoData(500), m.Cancel(77))
        again = await peer.expect(m.Request)
        assert again.block.index == 7 and again.id != request.id
        await peer.send(case.answer(again))
        assert await within(reading) == block(7)
        assert [index for index in range(BLOCKS) if case.reader.has(index)] == [7]
        assert replication.error is None


async def test_answers_in_any_order_are_taken(case: Case) -> None:
    """Requests rely on the tree nodes that earlier ones bring; answers that overtake them wait."""
    async with scripted(case.store, case.writer.key) as (replication, peer):
        await case.bring_up(peer)
        download = asyncio.ensure_future(case.reader.download([(0, 16)]))
        requests = [await peer.expect(m.Request) for _ in range(16)]
        assert sum(request.block.nodes for request in requests) < 40
        for request in reversed(requests):
            await peer.send(case.answer(request))
        await within(download)
        assert replication.error is None
    assert case.reader.contiguous_length == 16


async def test_blocks_refused_are_asked_of_others_with_the_nodes_they_would_have_brought(
    case: Case,
) -> None:
    async with scripted(case.store, case.writer.key) as (_, peer), AsyncExitStack() as stack:
        await case.bring_up(peer)
        download = asyncio.ensure_future(case.reader.download([(0, 8)]))
        requests = [await peer.expect(m.Request) for _ in range(8)]
        await peer.send(m.NoData(requests[0].id, m.NoData.NOT_AVAILABLE))
        for request in requests[1:]:
            await peer.send(case.answer(request))
        await case.from_an_honest_peer(stack)
        await within(download)
    assert case.reader.contiguous_length == 8


async def test_refusing_everything_announced(case: Case) -> None:
    async with scripted(case.store, case.writer.key) as (_, peer), AsyncExitStack() as stack:
        await case.bring_up(peer)
        download = asyncio.ensure_future(case.reader.download([(0, BLOCKS)]))

        async def refuse() -> None:
            while True:
                message = await peer.expect(m.Message)
                if isinstance(message, m.Request):
                    await peer.send(m.NoData(message.id), m.Range(0, BLOCKS))

        refusing = asyncio.ensure_future(refuse())
        await case.from_an_honest_peer(stack)
        await within(download)
        refusing.cancel()


@pytest.mark.parametrize("fork", [0, 9])
@pytest.mark.parametrize("answer", ["no data", "nothing in it"])
async def test_claims_of_news_without_proof_keep_nobody_from_the_news(
    case: Case, fork: int, answer: str
) -> None:
    if fork:
        case.writer.truncate(BLOCKS // 2)
    async with scripted(case.store, case.writer.key) as (_, peer), AsyncExitStack() as stack:
        await within(peer.opened.wait())
        claim = m.Sync(fork, 10**6, 0, has_manifest=True)
        await peer.send(claim)

        async def refuse() -> None:
            while True:
                message = await peer.expect(m.Message)
                if isinstance(message, m.Request):
                    empty = m.Data(message.id, message.fork)
                    await peer.send(m.NoData(message.id) if answer == "no data" else empty, claim)

        refusing = asyncio.ensure_future(refuse())
        await until(lambda: case.reader.replicator.peers[0].unavailable > 0)
        await case.from_an_honest_peer(stack)
        await within(case.reader.wait_length(case.writer.length))
        assert case.reader.fork == case.writer.fork
        refusing.cancel()


async def test_asking_for_too_much_that_makes_no_sense(case: Case) -> None:
    async with scripted(case.source, case.writer.key) as (replication, peer):
        await within(peer.opened.wait())
        await peer.send(m.Sync(0, 0, 0))
        for number in range(1, 1 + uploads_module.MAX_INVALID_REQUESTS):
            await peer.send(m.Request(number, 0, upgrade=UpgradeRequest(5, 10**9)))
            assert (await peer.expect(m.NoData)).reason == m.NoData.INVALID_REQUEST
        await peer.send(m.Request(number + 1, 0, upgrade=UpgradeRequest(5, 10**9)))
        await ended(replication)


async def test_odd_requests_get_an_answer(case: Case) -> None:
    requests = [
        m.Request(1, 9, block=BlockRequest(0, 0)),
        m.Request(2, 0, block=BlockRequest(10**12, 0)),
        m.Request(3, 0, block=BlockRequest(1, 10**6)),
        m.Request(4, 0, hash=HashRequest(2**53 - 1, 2**53 - 1)),
        m.Request(5, 0, hash=HashRequest(0, 1), seek=SeekRequest(2**53 - 1, 2**53 - 1)),
        m.Request(6, 0, upgrade=UpgradeRequest(0, 0)),
        m.Request(7, 0, seek=SeekRequest(5, 0)),
        m.Request(8, 0),
    ]
    async with scripted(case.source, case.writer.key) as (replication, peer):
        await within(peer.opened.wait())
        await peer.send(m.Sync(0, 0, 0), *requests)
        answered = {(await peer.expect(m.NoData | m.Data)).request for _ in requests}
        assert answered == set(range(1, 9))
        assert replication.error is None


async def test_a_flood_of_requests(case: Case, monkeypatch) -> None:
    monkeypatch.setattr(uploads_module, "MAX_QUEUED_REQUESTS", 500)
    async with scripted(case.source, case.writer.key) as (replication, peer):
        await within(peer.opened.wait())
        for number in range(1, 2000):
            peer.channel.send(1, m.Request(number, 0, block=BlockRequest(number % BLOCKS, 0)).encode())
        try:
            await within(peer.flush())
        except ConnectionResetError:
            pass
        await ended(replication)


async def test_a_peer_that_asks_and_does_not_read_costs_no_memory(stores) -> None:
    store = stores()
    writer = store.get(name="core")
    writer.append([bytes(65536) for _ in range(64)])
    left, right = memory_pipe()
    async with Replication(left, True, store, KeyPair.from_seed(bytes(32))) as replication:
        peer = ScriptedPeer(right, writer.key)
        await within(peer.connect())
        for number in range(1, 513):
            peer.channel.send(1, m.Request(number, 0, block=BlockRequest(number % 64, 0)).encode())
        await within(peer.flush())
        await within(until_stuck(replication))
        assert replication.bytes_written < 4 * WRITE_SIZE
        assert replication.mux.queued_bytes < 2 * WRITE_SIZE


async def test_a_peer_that_does_not_read_can_be_left(stores, monkeypatch) -> None:
    monkeypatch.setattr(streams, "LINGER_SECONDS", 0.1)
    store = stores()
    writer = store.get(name="core")
    writer.append([bytes(1 << 20) for _ in range(16)])
    accepted: asyncio.Queue[SocketStream] = asyncio.Queue()
    server = await SocketStream.listen(accepted.put, "127.0.0.1", 0)
    client = await SocketStream.connect(*server.sockets[0].getsockname()[:2])
    replication = Replication(await accepted.get(), True, store, KeyPair.from_seed(bytes(32)))
    async with replication:
        peer = ScriptedPeer(client, writer.key)
        await within(peer.connect())
        requests = [m.Request(number, 0, block=BlockRequest(number % 16, 0)) for number in range(1, 200)]
        await within(peer.send(*requests))
        await within(until_stuck(replication))
        await within(replication.close())
    await client.close()
    server.close()


async def until_stuck(replication: Replication) -> None:
    """Wait until a stream no longer sends anything, because nobody reads."""
    before = -1
    while replication.bytes_written != before:
        before = replication.bytes_written
        await asyncio.sleep(0.1)


async def test_cancelled_requests_are_not_answered(case: Case) -> None:
    async with scripted(case.source, case.writer.key) as (_, peer):
        await within(peer.opened.wait())
        peer.channel.send(0, m.Sync(0, 0, 0).encode())
        for number in (1, 2, 3):
            peer.channel.send(1, m.Request(number, 0, block=BlockRequest(number, 0)).encode())
        peer.channel.send(2, m.Cancel(2).encode())
        await peer.flush()
        assert [(await peer.expect(m.Data)).request for _ in range(2)] == [1, 3]


async def test_claims_beyond_reason_are_harmless(case: Case, monkeypatch) -> None:
    monkeypatch.setattr(upgrades_module, "STALL_SECONDS", 0.1)
    monkeypatch.setattr(stream_module, "_TICK_SECONDS", 0.05)
    top = 2**53 - 1
    async with scripted(case.store, case.writer.key) as (replication, peer), AsyncExitStack() as stack:
        await within(peer.opened.wait())
        await peer.send(
            m.Sync(top, top, top),
            m.Sync(0, top, 0),
            m.Range(0, top),
            m.Range(top, top),
            m.Range(5, top, drop=True),
            m.Want(top, top),
            m.Unwant(0, 1),
            m.Bitfield(32 * 2**40, b"\xff" * 64),
            m.Extension("unknown", b"x"),
        )
        await case.from_an_honest_peer(stack)
        assert await within(case.reader.get(3)) == block(3)
        assert replication.error is None


async def test_a_bitfield_longer_than_any_want(case: Case) -> None:
    async with scripted(case.store, case.writer.key) as (replication, peer):
        await within(peer.opened.wait())
        await peer.send(m.Bitfield(0, bytes(4 * 70_000)))
        await ended(replication)


async def test_silence_instead_of_a_handshake(case: Case, monkeypatch) -> None:
    monkeypatch.setattr(stream_module, "HANDSHAKE_SECONDS", 0.1)
    monkeypatch.setattr(stream_module, "_TICK_SECONDS", 0.02)
    left, _right = memory_pipe()
    async with Replication(left, False, case.source, KeyPair.from_seed(bytes(32))) as replication:
        with pytest.raises(ProtocolError):
            await within(replication.opened())


async def test_silence_where_answers_are_due(case: Case, monkeypatch) -> None:
    monkeypatch.setattr(stream_module, "DEAD_SECONDS", 0.2)
    monkeypatch.setattr(stream_module, "_TICK_SECONDS", 0.02)
    async with scripted(case.store, case.writer.key) as (replication, peer):
        await case.bring_up(peer)
        reading = asyncio.ensure_future(case.reader.get(7))
        await ended(replication)
        reading.cancel()


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(garbage=st.binary(min_size=1, max_size=200))
async def test_garbage_instead_of_a_handshake(case: Case, garbage: bytes) -> None:
    left, right = memory_pipe()
    async with Replication(left, False, case.source, KeyPair.from_seed(bytes(32))) as replication:
        await right.write(garbage)
        await right.close()
        error = await within(replication.wait_closed())
        assert error is None or isinstance(error, PelureError | OSError)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=st.lists(st.tuples(st.integers(0, 10), st.binary(max_size=60)), min_size=1, max_size=10))
async def test_garbage_on_the_channel(case: Case, messages: list[tuple[int, bytes]]) -> None:
    async with scripted(case.source, case.writer.key) as (replication, peer):
        await within(peer.opened.wait())
        for kind, body in messages:
            peer.channel.send(kind, body)
        try:
            await peer.flush()
            await peer.stream.write_eof()
        except ConnectionResetError:
            pass
        error = await within(replication.wait_closed())
        assert error is None or isinstance(error, ProtocolError)
    assert case.writer.contiguous_length == case.writer.length == BLOCKS


async def test_a_flood_of_requests_with_one_number(case: Case, monkeypatch) -> None:
    monkeypatch.setattr(uploads_module, "MAX_QUEUED_REQUESTS", 500)
    async with scripted(case.source, case.writer.key) as (replication, peer):
        await within(peer.opened.wait())
        await peer.send(*(m.Request(1, 0, block=BlockRequest(0, 0)) for _ in range(501)))
        await ended(replication)


async def test_a_flood_of_questions_whose_answers_nobody_reads(case: Case, monkeypatch) -> None:
    monkeypatch.setattr(protomux_module, "MAX_ANSWERS", 100)
    async with scripted(case.source, case.writer.key) as (replication, peer):
        await within(peer.opened.wait())
        await peer.send(*(m.Want(0, 32) for _ in range(200)))
        await ended(replication)


async def test_many_requests_that_come_to_nothing_are_all_answered(case: Case) -> None:
    async with scripted(case.source, case.writer.key) as (_, peer):
        await within(peer.opened.wait())
        count = 3 * uploads_module.SERVED_AT_ONCE
        await peer.send(m.Sync(0, 0, 0))
        requests = [m.Request(number, 0, block=BlockRequest(1, 0)) for number in range(1, count + 1)]
        await peer.send(*requests, *(m.Cancel(number) for number in range(1, count)))
        assert (await peer.expect(m.Data)).request == count


async def test_a_message_longer_than_is_taken(case: Case) -> None:
    left, right = memory_pipe()
    identity = KeyPair.from_seed(bytes(32))
    async with Replication(left, False, case.source, identity, max_message=1000) as replication:
        peer = ScriptedPeer(right, case.writer.key, initiator=True)
        await within(peer.connect())
        await peer.send(m.Extension("unknown", bytes(900)))
        await peer.send(m.Extension("unknown", bytes(1000)))
        await ended(replication)


async def test_a_peer_that_says_nothing_keeps_nobody_waiting(stores, link, monkeypatch) -> None:
    """Somebody who is up to date is told so by the others."""
    monkeypatch.setattr(stream_module, "_TICK_SECONDS", 0.02)
    monkeypatch.setattr(replicator_module, "SYNC_SECONDS", 0.05)
    source, store = stores(), stores()
    writer = source.get(name="core")
    writer.append([block(0)])
    reader = store.get(key=writer.key)
    async with scripted(store, writer.key) as (_, silent):
        await within(silent.opened.wait())
        await link(source, store)
        assert await within(reader.update(wait=True))
        assert not await within(reader.update(wait=True))
        writer.append([block(1)])
        await within(reader.wait_length(2))


async def test_answers_that_wait_for_others_have_a_bound(case: Case, monkeypatch) -> None:
    """Each is as long as the peer likes, and what it waits for need never come."""
    monkeypatch.setattr(answers_module, "MAX_HELD_BYTES", 250)
    async with scripted(case.store, case.writer.key) as (replication, peer):
        await case.bring_up(peer)
        download = asyncio.ensure_future(case.reader.download([(0, 16)]))
        requests = [await peer.expect(m.Request) for _ in range(16)]
        for request in reversed(requests[1:]):
            await peer.send(case.answer(request))
        again = await peer.expect(m.Request)
        held = case.reader.replicator.peers[0].held
        assert 0 < sum(len(data.block.value) for _, data in held) <= 250
        await peer.send(case.answer(requests[0]), case.answer(again))

        async def answer() -> None:
            while True:
                await peer.send(case.answer(await peer.expect(m.Request)))

        answering = asyncio.ensure_future(answer())
        await within(download)
        answering.cancel()
        assert replication.error is None


async def test_proofs_of_the_tree_that_nobody_asked_for(case: Case) -> None:
    async with scripted(case.source, case.writer.key) as (replication, peer):
        await within(peer.opened.wait())
        proof = case.answer(m.Request(0, 0, upgrade=UpgradeRequest(0, BLOCKS)))
        await peer.send(m.Sync(0, BLOCKS, 0), *(MAX_POINTLESS_PROOFS * [proof]))
        await peer.send(m.Request(1, 0, block=BlockRequest(0, 0)))
        assert (await peer.expect(m.Data)).request == 1
        assert replication.error is None
        await peer.send(proof)
        await ended(replication)
