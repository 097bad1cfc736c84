"""Cores replicated between pelure peers over memory pipes: what should happen between honest ones."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pelure.errors import AccessDenied, DriveError
from pelure.hyper.core.core import Core
from pelure.hyper.core.corestore import Corestore
from pelure.hyper.core.replication import stream as stream_module
from pelure.hyper.core.replication import upgrades as upgrades_module
from pelure.hyper.core.replication.stream import Replication
from pelure.streams import memory_pipe

from .support import block, identity, until, within


def writer_with(store: Corestore, blocks: int, size: int = 100, name: str = "core") -> Core:
    writer = store.get(name=name)
    if blocks:
        writer.append([block(index, size) for index in range(blocks)])
    return writer


async def test_everything_arrives(stores, link) -> None:
    one, other = stores(), stores()
    writer, reader = writer_with(one, 1000), other.get(key=one.get(name="core").key)
    await link(one, other)
    assert await within(reader.update(wait=True))
    await within(reader.download([(0, 1000)]))
    assert reader.contiguous_length == 1000
    assert reader.batch().hash() == writer.batch().hash()
    assert all(reader.get_local(index) == block(index) for index in range(1000))
    assert not await within(reader.update())


async def test_a_stream_that_hangs_in_its_handshake_delays_no_update(stores, link) -> None:
    one, other = stores(), stores()
    reader = other.get(key=writer_with(one, 3).key)
    await link(one, other)
    assert await within(reader.update(wait=True))
    silent, _ = memory_pipe()
    async with Replication(silent, True, other, identity(9)):
        assert not await within(reader.update(wait=True))


async def test_blocks_of_all_sizes_arrive(stores, link) -> None:
    one, other = stores(), stores()
    writer = one.get(name="core")
    sizes = [0, 1, 1024, 4096, 65536, 1 << 20, 5 << 20]
    writer.append([block(size, size) for size in sizes])
    reader = other.get(key=writer.key)
    await link(one, other)
    await within(reader.update(wait=True))
    await within(reader.download([(0, len(sizes))]))
    assert [reader.get_local(index) for index in range(len(sizes))] == [block(size, size) for size in sizes]


async def test_appends_arrive_at_once(stores, link) -> None:
    one, other = stores(), stores()
    writer = writer_with(one, 0)
    reader = other.get(key=writer.key)
    await link(one, other)
    for index in range(20):
        waiting = asyncio.ensure_future(reader.get(index))
        writer.append([block(index)])
        assert await within(waiting) == block(index)


async def test_a_core_opened_later_is_replicated_on_the_same_stream(stores, link) -> None:
    one, other = stores(), stores()
    await link(one, other)
    for name in ("a", "b", "c"):
        writer = writer_with(one, 3, name=name)
        assert await within(other.get(key=writer.key).get(2)) == block(2)


async def test_a_stored_core_that_is_not_open_is_served(stores, link, tmp_path: Path) -> None:
    one, other = stores(), stores()
    key = writer_with(one, 3).key
    one.close()
    again = Corestore(one.path)
    try:
        await link(other, again)
        assert await within(other.get(key=key).get(1)) == block(1)
    finally:
        again.close()


async def test_news_travel_along_a_chain(stores, link) -> None:
    """The reader in the middle announces what it gets, and serves it."""
    one, middle, last = stores(), stores(), stores()
    writer = writer_with(one, 50)
    reader, final = middle.get(key=writer.key), last.get(key=writer.key)
    await link(one, middle)
    await link(middle, last)
    final_read = asyncio.ensure_future(final.get(20))
    assert await within(reader.get(20)) == block(20)
    assert await within(final_read) == block(20)
    writer.append([block(50)])
    final_read = asyncio.ensure_future(final.get(50))
    assert await within(reader.get(50)) == block(50)
    assert await within(final_read) == block(50)


async def test_two_halves_make_a_whole(stores, link) -> None:
    one, left, right, last = stores(), stores(), stores(), stores()
    writer = writer_with(one, 300)
    for store, span in ((left, (0, 150)), (right, (150, 300))):
        core = store.get(key=writer.key)
        pair = await link(one, store)
        await within(core.update(wait=True))
        await within(core.download([span]))
        await pair[0].close()
    final = last.get(key=writer.key)
    await link(last, left)
    await link(last, right)
    await within(final.update(wait=True))
    await within(final.download([(0, 300)]))
    assert final.contiguous_length == 300
    # What the one half lacked it now hears of, and can have from the reader.
    await within(left.get(key=writer.key).download([(0, 300)]))


async def test_several_peers_share_the_work(stores, link) -> None:
    one, last = stores(), stores()
    writer = writer_with(one, 400)
    seeders = []
    for _ in range(3):
        store = stores()
        core = store.get(key=writer.key)
        pair = await link(one, store)
        await within(core.update(wait=True))
        await within(core.download([(0, 400)]))
        await pair[0].close()
        seeders.append(store)
    final = last.get(key=writer.key)
    for store in seeders:
        await link(last, store)
    await within(final.update(wait=True))
    await until(lambda: len(final.replicator.peers) == 3 and all(p.synced for p in final.replicator.peers))
    await within(final.download([(0, 400)]))
    received = [peer.stats.blocks_received for peer in final.replicator.peers]
    assert all(received) and sum(received) == 400


async def test_a_download_goes_on_over_a_new_stream(stores, link) -> None:
    one, other = stores(), stores()
    writer = writer_with(one, 2000)
    reader = other.get(key=writer.key)
    first, _ = await link(one, other)
    download = asyncio.ensure_future(reader.download([(0, 2000)]))
    await until(lambda: reader.contiguous_length > 100)
    await first.close()
    held = reader.contiguous_length
    assert held < 2000 and not download.done()
    await link(one, other)
    await within(download)
    assert reader.contiguous_length == 2000


async def test_single_blocks_come_before_a_running_download(stores, link) -> None:
    one, other = stores(), stores()
    writer = writer_with(one, 3000, size=4000)
    reader = other.get(key=writer.key)
    await link(one, other)
    await within(reader.update(wait=True))
    download = asyncio.ensure_future(reader.download([(0, 2900)]))
    await until(lambda: reader.contiguous_length > 0)
    assert await within(reader.get(2950)) == block(2950, 4000)
    assert not download.done()
    await within(download)


async def test_reads_given_up_are_taken_back(stores, link) -> None:
    one, other = stores(), stores()
    writer = writer_with(one, 10)
    writer.clear(5, 6)
    reader = other.get(key=writer.key)
    await link(one, other)
    await within(reader.update(wait=True))
    with pytest.raises(DriveError):
        await reader.get(5, timeout=0.05)
    assert await within(reader.get(4)) == block(4)
    assert not reader.replicator._blocks and not reader.replicator._claims


async def test_truncation_while_replicating(stores, link) -> None:
    one, other = stores(), stores()
    writer = writer_with(one, 100)
    reader = other.get(key=writer.key)
    await link(one, other)
    await within(reader.update(wait=True))
    await within(reader.download([(0, 100)]))
    writer.truncate(60)
    writer.append([block(1000 + index) for index in range(60, 80)])
    await until(lambda: (reader.fork, reader.length) == (1, 80))
    await within(reader.download([(0, 80)]))
    assert [reader.get_local(index) for index in (59, 60, 79)] == [block(59), block(1060), block(1079)]


async def test_truncation_during_a_download(stores, link) -> None:
    one, other = stores(), stores()
    writer = writer_with(one, 3000)
    reader = other.get(key=writer.key)
    await link(one, other)
    await within(reader.update(wait=True))
    download = asyncio.ensure_future(reader.download([(0, 2000)]))
    await until(lambda: reader.contiguous_length > 50)
    writer.truncate(2500)
    writer.append([block(9)])
    await within(download)
    await until(lambda: (reader.fork, reader.length) == (1, 2501))
    assert await within(reader.get(2500)) == block(9)


async def test_an_old_fork_is_caught_up_on_connecting(stores, link) -> None:
    one, other = stores(), stores()
    writer = writer_with(one, 20)
    reader = other.get(key=writer.key)
    first, _ = await link(one, other)
    assert await within(reader.get(15)) == block(15)
    await first.close()
    for length in (10, 5):
        writer.truncate(length)
        writer.append([block(100 + length)])
    await link(one, other)
    await until(lambda: (reader.fork, reader.length) == (2, 6))
    assert await within(reader.get(5)) == block(105)


async def test_cleared_blocks_are_withdrawn_and_found_elsewhere(stores, link) -> None:
    one, middle, last = stores(), stores(), stores()
    writer = writer_with(one, 20)
    keeper = middle.get(key=writer.key)
    reader = last.get(key=writer.key)
    await link(one, middle)
    await within(keeper.update(wait=True))
    await within(keeper.download([(0, 20)]))
    await link(one, last)
    await within(reader.update(wait=True))
    peer = reader.replicator.peers[0]
    await until(lambda: 7 in peer.blocks)
    writer.clear(5, 10)
    await until(lambda: 7 not in peer.blocks)
    waiting = asyncio.ensure_future(reader.get(7))
    await link(middle, last)
    assert await within(waiting) == block(7)


async def test_seek_in_a_sparse_core(stores, link) -> None:
    one, other = stores(), stores()
    writer = one.get(name="core")
    sizes = [index % 37 for index in range(800)]
    writer.append([block(index, size) for index, size in enumerate(sizes)])
    reader = other.get(key=writer.key)
    await link(one, other)
    await within(reader.update(wait=True))
    for index in (0, 1, 500, 799):
        position = sum(sizes[: index + 1]) - 1
        if position >= 0 and sizes[index]:
            assert await within(reader.seek(position)) == (index, sizes[index] - 1)
    assert reader.contiguous_length == 0


async def test_update_is_over_when_no_peer_has_more(stores, link) -> None:
    one, other = stores(), stores()
    key = writer_with(one, 0).key
    reader = other.get(key=key)
    await link(one, other)
    assert not await within(reader.update(wait=True))


async def test_unknown_cores_are_not_spoken_of(stores, link) -> None:
    one, other = stores(), stores()
    writer_with(one, 3)
    reader = other.get(key=writer_with(one, 1, name="second").key)
    stranger = other.get(key=writer_with(stores(), 1).key)
    await link(one, other)
    assert await within(reader.get(0)) == block(0)
    assert not await within(stranger.update(wait=True))
    assert stranger.replicator.peers == []


async def test_only_allowed_identities_get_in(stores) -> None:
    one, other = stores(), stores()
    writer = writer_with(one, 3)
    other.get(key=writer.key)
    left, right = memory_pipe()
    serving = Replication(left, False, one, identity(1), allow=lambda public: public == identity(2).public)
    asking = Replication(right, True, other, identity(3))
    async with serving, asking:
        assert isinstance(await within(serving.wait_closed()), AccessDenied)
        await within(asking.wait_closed())
    assert writer.replicator is None
    left, right = memory_pipe()
    serving = Replication(left, False, one, identity(1), allow=lambda public: public == identity(2).public)
    asking = Replication(right, True, other, identity(2))
    async with serving, asking:
        await within(serving.opened())
        assert serving.remote_public == identity(2).public
        assert await within(other.get(key=writer.key).get(1)) == block(1)


async def test_idle_channels_close_and_open_again(stores, link) -> None:
    """Idle rule: channels close when neither side downloads; wanting data opens them again."""
    one, other = stores(), stores()
    writer = writer_with(one, 3)
    reader = other.get(key=writer.key)
    await link(one, other)
    assert await within(reader.get(0)) == block(0)
    writer.replicator.downloading = False
    reader.replicator.downloading = False
    await until(lambda: not writer.replicator.peers and not reader.replicator.peers)
    reader.replicator.downloading = True
    assert await within(reader.get(1)) == block(1)


async def test_extension_messages(stores, link) -> None:
    one, other = stores(), stores()
    writer = writer_with(one, 1)
    reader = other.get(key=writer.key)
    await link(one, other)
    await within(reader.get(0))
    got: list[tuple[str, bytes]] = []
    extensions = {}
    for name in ("first", "second"):
        extensions[name] = writer.replicator.extension(name, lambda data, peer: None)
        reader.replicator.extension(name, lambda data, peer, name=name: got.append((name, data)))
    for name, data in (("first", b"1"), ("first", b"2"), ("second", b"3"), ("first", b"4")):
        extensions[name].broadcast(data)
    await until(lambda: len(got) == 4)
    assert got == [("first", b"1"), ("first", b"2"), ("second", b"3"), ("first", b"4")]
    extensions["first"].destroy()
    assert set(writer.replicator.extensions) == {"second"}


async def test_purging_a_core_closes_its_channels(stores, link) -> None:
    one, other = stores(), stores()
    writer = writer_with(one, 3)
    reader = other.get(key=writer.key)
    pair = await link(one, other)
    assert await within(reader.get(0)) == block(0)
    writer.purge()
    await until(lambda: not reader.replicator.peers)
    assert pair[0].error is None
    second = writer_with(one, 2, name="second")
    assert await within(other.get(key=second.key).get(1)) == block(1)


async def test_the_end_of_the_last_stream_takes_the_replicator_away(stores, link) -> None:
    one, other = stores(), stores()
    writer = writer_with(one, 3)
    reader = other.get(key=writer.key)
    first = await link(one, other)
    second = await link(one, other)
    assert await within(reader.get(0)) == block(0)
    await first[0].close()
    assert writer.replicator is not None
    await second[0].close()
    await within(second[1].wait_closed())
    assert writer.replicator is None and reader.replicator is None
    assert first[0].error is None and second[1].error is None


async def test_keep_alives_pass_unnoticed(stores, link, monkeypatch) -> None:
    monkeypatch.setattr(stream_module, "KEEPALIVE_SECONDS", 0.0)
    monkeypatch.setattr(stream_module, "_TICK_SECONDS", 0.01)
    one, other = stores(), stores()
    writer = writer_with(one, 3)
    pair = await link(one, other)
    before = pair[0].bytes_written
    await until(lambda: pair[0].bytes_written > before + 200)
    assert await within(other.get(key=writer.key).get(0)) == block(0)


async def test_a_peer_that_stopped_answering_is_passed_by(stores, link, monkeypatch) -> None:
    monkeypatch.setattr(stream_module, "_TICK_SECONDS", 0.02)
    monkeypatch.setattr(upgrades_module, "STALL_SECONDS", 0.1)
    one, last = stores(), stores()
    writer = writer_with(one, 200)
    slow = stores()
    core = slow.get(key=writer.key)
    pair = await link(one, slow)
    await within(core.update(wait=True))
    await within(core.download([(0, 200)]))
    await pair[0].close()
    reader = last.get(key=writer.key)
    _, stuck = await link(last, slow)
    await within(reader.update(wait=True))
    stuck._uploads._serve = lambda peer, request: None  # takes requests, answers none
    download = asyncio.ensure_future(reader.download([(0, 200)]))
    await until(lambda: len(reader.replicator._claims) > 0)
    await link(last, one)
    await within(download)
    assert reader.contiguous_length == 200
