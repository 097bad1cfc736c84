"""Cores replicated with real npm hypercore over loopback TCP, both ways (HYPER-FACTS sections 5 to 13)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path

import pytest

from interop.npm import AVAILABLE, NpmCores, NpmError, seeded_block
from pelure.errors import ConflictError
from pelure.hyper.core.core import Core
from pelure.hyper.core.corestore import Corestore
from pelure.hyper.core.replication.stream import Replication
from pelure.hyper.wire.noise import KeyPair
from pelure.streams import SocketStream

pytestmark = [
    pytest.mark.npm,
    pytest.mark.skipif(not AVAILABLE, reason="npm packages are not installed"),
]

SIZE = 1000


@pytest.fixture
async def npm(tmp_path: Path) -> AsyncIterator[NpmCores]:
    async with NpmCores(tmp_path / "npm") as cores:
        yield cores


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Corestore]:
    store = Corestore(tmp_path / "pelure")
    yield store
    store.close()


@asynccontextmanager
async def linked(store: Corestore, npm: NpmCores, initiator: bool = True) -> AsyncIterator[Replication]:
    """Replicate ``store`` with ``npm``; ``initiator``: pelure connects to npm, else the other way round."""
    if initiator:
        port = (await npm.call("listen"))["port"]
        stream = await SocketStream.connect("127.0.0.1", port)
    else:
        accepted: asyncio.Future[SocketStream] = asyncio.get_running_loop().create_future()

        async def accept(stream: SocketStream) -> None:
            accepted.set_result(stream)

        server = await SocketStream.listen(accept, "127.0.0.1", 0)
        await npm.call("connect", port=server.sockets[0].getsockname()[1])
        stream = await accepted
        server.close()
    async with Replication(stream, initiator, store, KeyPair.generate(os.urandom)) as replication:
        await within(replication.opened())
        yield replication


async def within(awaitable, seconds: float = 60.0):
    async with asyncio.timeout(seconds):
        return await awaitable


async def until_length(core: Core, length: int, fork: int = 0) -> None:
    while core.length < length or core.fork < fork:
        await core.changed()


async def until_conflict(core: Core) -> None:
    with pytest.raises(ConflictError):
        while True:
            await core.changed()


def digest(core: Core, start: int, end: int) -> str:
    out = sha256()
    for index in range(start, end):
        out.update(core.get_local(index))
    return out.hexdigest()


@pytest.mark.parametrize("initiator", [True, False])
async def test_npm_writer_to_pelure_reader(store: Corestore, npm: NpmCores, initiator: bool) -> None:
    state = await npm.call("open", id="w", name="core")
    state = await npm.call("appendSeeded", id="w", seed="a", **{"from": 0}, count=777, size=SIZE, batch=50)
    reader = store.get(key=bytes.fromhex(state["key"]))
    async with linked(store, npm, initiator):
        assert await within(reader.update(wait=True))
        await within(reader.download([(0, 777)]))
    assert reader.contiguous_length == reader.length == 777
    assert reader.byte_length == state["byteLength"]
    assert reader.batch().hash().hex() == state["treeHash"]
    assert (await npm.call("hashes", id="w", start=0, end=777))["sha256"] == digest(reader, 0, 777)


@pytest.mark.parametrize("initiator", [True, False])
async def test_pelure_writer_to_npm_reader(store: Corestore, npm: NpmCores, initiator: bool) -> None:
    writer = store.get(name="core")
    writer.append([seeded_block("b", index, SIZE) for index in range(777)])
    await npm.call("open", id="r", key=writer.key.hex())
    async with linked(store, npm, initiator):
        assert (await npm.call("update", id="r", wait=True))["updated"]
        state = await npm.call("download", id="r", start=0, end=777)
        hashes = await npm.call("hashes", id="r", start=0, end=777)
    assert state["contiguousLength"] == state["length"] == 777
    assert state["treeHash"] == writer.batch().hash().hex()
    assert hashes["sha256"] == digest(writer, 0, 777)


async def test_live_updates_from_npm(store: Corestore, npm: NpmCores) -> None:
    state = await npm.call("open", id="w", name="core")
    reader = store.get(key=bytes.fromhex(state["key"]))
    async with linked(store, npm):
        for index in range(10):
            waiting = asyncio.create_task(reader.get(index))
            await npm.call("append", id="w", blocks=[seeded_block("l", index, 40).hex()])
            assert await within(waiting) == seeded_block("l", index, 40)


async def test_live_updates_to_npm(store: Corestore, npm: NpmCores) -> None:
    writer = store.get(name="core")
    await npm.call("open", id="r", key=writer.key.hex())
    async with linked(store, npm):
        for index in range(10):
            writer.append([seeded_block("l", index, 40)])
            await npm.call("waitLength", id="r", length=index + 1)
            block = (await npm.call("get", id="r", index=index))["block"]
            assert block == seeded_block("l", index, 40).hex()


async def test_sparse_read_and_seek_of_an_npm_core(store: Corestore, npm: NpmCores) -> None:
    state = await npm.call("open", id="w", name="core")
    await npm.call("appendSeeded", id="w", seed="s", **{"from": 0}, count=5000, size=100, batch=500)
    reader = store.get(key=bytes.fromhex(state["key"]))
    async with linked(store, npm):
        await within(reader.update(wait=True))
        assert await within(reader.seek(321_055)) == (3210, 55)
        await within(reader.download([(2000, 2011)]))
    assert [index for index in range(5000) if reader.has(index)] == list(range(2000, 2011))
    assert reader.get_local(2005) == seeded_block("s", 2005, 100)


async def test_sparse_read_and_seek_by_npm(store: Corestore, npm: NpmCores) -> None:
    writer = store.get(name="core")
    writer.append([seeded_block("s", index, 100) for index in range(5000)])
    await npm.call("open", id="r", key=writer.key.hex())
    async with linked(store, npm):
        await npm.call("update", id="r", wait=True)
        assert (await npm.call("seek", id="r", bytes=321_055))["at"] == [3210, 55]
        await npm.call("download", id="r", start=2000, end=2011)
        held = (await npm.call("has", id="r", start=1990, end=2020))["held"]
    assert [index for index, has in enumerate(held, 1990) if has] == list(range(2000, 2011))


async def test_a_sparse_pelure_peer_seeds_its_part_to_npm(
    store: Corestore, npm: NpmCores, tmp_path: Path
) -> None:
    async with NpmCores(tmp_path / "npm-writer") as source:
        state = await source.call("open", id="w", name="core")
        await source.call("appendSeeded", id="w", seed="t", **{"from": 0}, count=500, size=SIZE, batch=100)
        middle = store.get(key=bytes.fromhex(state["key"]))
        async with linked(store, source):
            await within(middle.update(wait=True))
            await within(middle.download([(100, 150), (300, 301)]))
    await npm.call("open", id="r", key=state["key"])
    async with linked(store, npm):
        await npm.call("update", id="r", wait=True)
        await npm.call("download", id="r", start=100, end=150)
        block = (await npm.call("get", id="r", index=300))["block"]
    assert block == seeded_block("t", 300, SIZE).hex()


async def test_a_sparse_npm_peer_seeds_its_part_to_pelure(
    store: Corestore, npm: NpmCores, tmp_path: Path
) -> None:
    source = Corestore(tmp_path / "source")
    writer = source.get(name="core")
    writer.append([seeded_block("t", index, SIZE) for index in range(500)])
    await npm.call("open", id="r", key=writer.key.hex())
    async with linked(source, npm):
        await npm.call("update", id="r", wait=True)
        await npm.call("download", id="r", start=100, end=150)
        await npm.call("get", id="r", index=300)
    source.close()
    reader = store.get(key=writer.key)
    async with linked(store, npm):
        await within(reader.update(wait=True))
        await within(reader.download([(100, 150), (300, 301)]))
        # Blocks that the peer gets only now are announced to this side.
    assert reader.get_local(300) == seeded_block("t", 300, SIZE)
    assert reader.has_range(100, 150)


async def test_two_sources_complete_one_reader(store: Corestore, npm: NpmCores, tmp_path: Path) -> None:
    """One peer holds the first half, another the second; what one brings is announced to the other."""
    source = Corestore(tmp_path / "source")
    writer = source.get(name="core")
    writer.append([seeded_block("h", index, SIZE) for index in range(400)])
    async with NpmCores(tmp_path / "npm-2") as other:
        for peer, start, end in ((npm, 0, 200), (other, 200, 400)):
            await peer.call("open", id="r", key=writer.key.hex())
            async with linked(source, peer):
                await peer.call("update", id="r", wait=True)
                await peer.call("download", id="r", start=start, end=end)
        source.close()
        reader = store.get(key=writer.key)
        async with linked(store, npm), linked(store, other):
            await within(reader.update(wait=True))
            await within(reader.download([(0, 400)]))
            assert reader.contiguous_length == 400
            await npm.call("download", id="r", start=0, end=400)
            await other.call("download", id="r", start=0, end=400)


async def test_npm_core_truncated_while_replicating(store: Corestore, npm: NpmCores) -> None:
    state = await npm.call("open", id="w", name="core")
    await npm.call("appendSeeded", id="w", seed="f", **{"from": 0}, count=100, size=SIZE, batch=100)
    reader = store.get(key=bytes.fromhex(state["key"]))
    async with linked(store, npm):
        await within(reader.update(wait=True))
        await within(reader.download([(0, 100)]))
        await npm.call("truncate", id="w", length=90)
        state = await npm.call("append", id="w", blocks=[b"after the fork".hex()])
        await within(until_length(reader, 91, fork=1))
        assert await within(reader.get(90)) == b"after the fork"
    assert (reader.fork, reader.length) == (1, 91)
    assert reader.has_range(0, 90)
    assert reader.batch().hash().hex() == state["treeHash"]


async def test_pelure_core_truncated_while_replicating(store: Corestore, npm: NpmCores) -> None:
    writer = store.get(name="core")
    writer.append([seeded_block("f", index, SIZE) for index in range(100)])
    await npm.call("open", id="r", key=writer.key.hex())
    async with linked(store, npm):
        await npm.call("update", id="r", wait=True)
        await npm.call("download", id="r", start=0, end=100)
        writer.truncate(90)
        writer.append([b"after the fork"])
        state = await npm.call("waitFork", id="r", fork=1, length=91)
        assert state["treeHash"] == writer.batch().hash().hex()
        assert (await npm.call("get", id="r", index=90))["block"] == b"after the fork".hex()
        assert (await npm.call("has", id="r", start=0, end=90))["held"] == [True] * 90


async def test_npm_core_truncated_and_grown_while_the_reader_was_away(
    store: Corestore, npm: NpmCores
) -> None:
    """No root of the old tree is one of the new: what is shared is found by asking, and kept."""
    state = await npm.call("open", id="w", name="core")
    await npm.call("appendSeeded", id="w", seed="f", **{"from": 0}, count=1000, size=SIZE, batch=1000)
    reader = store.get(key=bytes.fromhex(state["key"]))
    async with linked(store, npm):
        await within(reader.update(wait=True))
        await within(reader.download([(0, 1000)]))
    await npm.call("truncate", id="w", length=777)
    await npm.call("appendSeeded", id="w", seed="g", **{"from": 777}, count=1300, size=SIZE, batch=1300)
    async with linked(store, npm):
        await within(until_length(reader, 2077, fork=1))
        assert reader.has_range(0, 777) and not reader.has(777)
        assert reader.replicator is not None
        [peer] = reader.replicator.peers
        await within(reader.download([(0, 2077)]))
        assert peer.stats.blocks_received == 1300
    assert digest(reader, 0, 2077) == (await npm.call("hashes", id="w", start=0, end=2077))["sha256"]


async def test_pelure_core_truncated_and_grown_while_the_npm_reader_was_away(
    store: Corestore, npm: NpmCores
) -> None:
    writer = store.get(name="core")
    writer.append([seeded_block("f", index, SIZE) for index in range(1000)])
    await npm.call("open", id="r", key=writer.key.hex())
    async with linked(store, npm):
        await npm.call("update", id="r", wait=True)
        await npm.call("download", id="r", start=0, end=1000)
    writer.truncate(777)
    writer.append([seeded_block("g", index, SIZE) for index in range(777, 2077)])
    async with linked(store, npm):
        await npm.call("waitFork", id="r", fork=1, length=2077)
        assert (await npm.call("has", id="r", start=0, end=1000))["held"] == [True] * 777 + [False] * 223
        await npm.call("download", id="r", start=0, end=2077)
    assert digest(writer, 0, 2077) == (await npm.call("hashes", id="r", start=0, end=2077))["sha256"]


async def test_npm_core_lost_and_made_again(store: Corestore, tmp_path: Path) -> None:
    """A new reader gets the second core. One of the first sees the two, and keeps what it has."""
    primary_key = os.urandom(32)
    async with NpmCores(tmp_path / "npm-1", primary_key) as npm:
        state = await npm.call("open", id="w", name="core")
        await npm.call("append", id="w", blocks=[b"first".hex()])
        old = store.get(key=bytes.fromhex(state["key"]))
        async with linked(store, npm):
            assert await within(old.get(0)) == b"first"
    async with NpmCores(tmp_path / "npm-2", primary_key) as npm:
        again = await npm.call("open", id="w", name="core")
        assert (again["key"], again["length"]) == (state["key"], 0)
        await npm.call("append", id="w", blocks=[b"second".hex(), b"third".hex()])
        fresh_store = Corestore(tmp_path / "fresh")
        fresh = fresh_store.get(key=bytes.fromhex(state["key"]))
        async with linked(fresh_store, npm):
            assert await within(fresh.get(0)) == b"second"
            assert await within(fresh.get(1)) == b"third"
        fresh_store.close()
        async with linked(store, npm):
            with pytest.raises(ConflictError):
                await within(old.get(1))
            assert await npm.call("waitConflict", id="w") == {"length": 1, "fork": 0}
        assert (old.length, old.get_local(0)) == (1, b"first")


@pytest.mark.parametrize("ours, theirs", [(8, 12), (12, 8)])
async def test_an_npm_reader_of_another_history_convinces_the_writer(
    store: Corestore, npm: NpmCores, tmp_path: Path, ours: int, theirs: int
) -> None:
    """Two pelure stores write with one key; an npm reader of the one, or this writer, sees it first."""
    primary_key = (store.path / "primary-key").read_bytes()
    copy = Corestore(tmp_path / "copy", primary_key)
    other = copy.get(name="core")
    other.append([b"other %d" % index for index in range(theirs)])
    await npm.call("open", id="r", key=other.key.hex())
    async with linked(copy, npm):
        await npm.call("update", id="r", wait=True)
        await npm.call("download", id="r", start=0, end=theirs)
    copy.close()
    writer = store.get(name="core")
    writer.append([b"own %d" % index for index in range(ours)])
    async with linked(store, npm):
        with suppress(NpmError):  # it may be closed already
            await npm.call("update", id="r")
        assert await npm.call("waitConflict", id="r") == {"length": 8, "fork": 0}
        await within(until_conflict(writer))
    with pytest.raises(ConflictError):
        writer.append([b"more"])


async def test_two_npm_writers_with_one_key(store: Corestore, tmp_path: Path) -> None:
    """A pelure reader that replicates with both takes the one history, and shows it to the other writer."""
    primary_key = os.urandom(32)
    async with (
        NpmCores(tmp_path / "1", primary_key) as first,
        NpmCores(tmp_path / "2", primary_key) as second,
    ):
        for npm, seed in ((first, "a"), (second, "b")):
            state = await npm.call("open", id="w", name="core")
            await npm.call("appendSeeded", id="w", seed=seed, **{"from": 0}, count=20, size=SIZE, batch=20)
        reader = store.get(key=bytes.fromhex(state["key"]))
        async with linked(store, first):
            await within(reader.update(wait=True))
            await within(reader.download([(0, 10)]))
        async with linked(store, second):
            with pytest.raises(ConflictError):
                await within(reader.download([(0, 20)]))
            assert await second.call("waitConflict", id="w") == {"length": 20, "fork": 0}
        held = [reader.get_local(index) for index in range(20)]
        assert held == [seeded_block("a", index, SIZE) for index in range(10)] + [None] * 10
        fresh_store = Corestore(tmp_path / "fresh")
        fresh = fresh_store.get(key=bytes.fromhex(state["key"]))
        async with linked(fresh_store, first):  # which has not heard of it
            assert await within(fresh.get(19)) == seeded_block("a", 19, SIZE)
        fresh_store.close()


async def test_encrypted_npm_core(store: Corestore, npm: NpmCores) -> None:
    secret = os.urandom(32)
    state = await npm.call("open", id="w", name="core", encryptionKey=secret.hex())
    await npm.call("appendSeeded", id="w", seed="e", **{"from": 0}, count=50, size=SIZE, batch=7)
    reader = store.get(key=bytes.fromhex(state["key"]), encryption_key=secret)
    async with linked(store, npm):
        await within(reader.update(wait=True))
        for index in (0, 13, 49):
            assert await within(reader.get(index)) == seeded_block("e", index, SIZE)
        assert await within(reader.seek(20_500)) == (20, 500)


async def test_encrypted_pelure_core(store: Corestore, npm: NpmCores) -> None:
    secret = os.urandom(32)
    writer = store.get(name="core", encryption_key=secret)
    writer.append([seeded_block("e", index, SIZE) for index in range(50)])
    await npm.call("open", id="r", key=writer.key.hex(), encryptionKey=secret.hex())
    async with linked(store, npm):
        await npm.call("update", id="r", wait=True)
        for index in (0, 13, 49):
            block = (await npm.call("get", id="r", index=index))["block"]
            assert block == seeded_block("e", index, SIZE).hex()
        assert (await npm.call("seek", id="r", bytes=20_500))["at"] == [20, 500]


async def test_many_cores_on_one_stream(store: Corestore, npm: NpmCores) -> None:
    writers = []
    for number in range(20):
        writer = store.get(name=f"core {number}")
        writer.append([f"{number}/{index}".encode() for index in range(5)])
        writers.append(writer)
    async with linked(store, npm):
        for number, writer in enumerate(writers):
            await npm.call("open", id=number, key=writer.key.hex())
            block = (await npm.call("get", id=number, index=4))["block"]
            assert bytes.fromhex(block) == f"{number}/4".encode()


async def test_a_core_without_the_wanted_block_gets_it_later(store: Corestore, npm: NpmCores) -> None:
    """A read of a block that no peer has waits, and ends when a peer that has it comes."""
    state = await npm.call("open", id="w", name="core")
    await npm.call("appendSeeded", id="w", seed="x", **{"from": 0}, count=10, size=SIZE, batch=10)
    reader = store.get(key=bytes.fromhex(state["key"]))
    async with linked(store, npm):
        await within(reader.update(wait=True))
    waiting = asyncio.create_task(reader.get(5))
    async with linked(store, npm):
        assert await within(waiting) == seeded_block("x", 5, SIZE)
