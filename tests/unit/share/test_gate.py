"""The gate of a share: who gets in, who is cut off, what hostile readers get."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from pelure.errors import AccessDenied
from pelure.hyper.core.corestore import Corestore
from pelure.hyper.core.replication.stream import Crowded, Replication
from pelure.hyper.drive.drive import Drive
from pelure.hyper.wire.noise import KeyPair
from pelure.share import gate as gate_module
from pelure.share.contents import Contents
from pelure.share.fairness import SHARE_STREAMS, FairUpload, Lane
from pelure.share.fetch import Fetch
from pelure.share.gate import MAX_HANDSHAKES_PER_CIRCUIT, MAX_STREAMS_PER_LINK, Gate
from pelure.streams import MemoryStream, memory_pipe
from pelure.tor.service.targets import IncomingInfo

SECONDS = 30.0
T = TypeVar("T")


class World:
    """A gate before a drive with one file, and readers that come through memory pipes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Corestore(folder / "store")
        self.drive = Drive(self.store)
        self.events: list[tuple[str, dict[str, object]]] = []
        self.upload = FairUpload()
        self.gate = Gate(Contents(self.drive), KeyPair.generate(os.urandom), self.upload, self.note)
        self.hung_up: list[int] = []
        self.gate.hang_up = self.hung_up.append
        self.tasks: list[asyncio.Task[None]] = []
        self.readers = 0

    def note(self, event: str, **fields: object) -> None:
        self.events.append((event, fields))

    def knock(self, circuit: int = 1) -> MemoryStream:
        """A new stream to the gate."""
        mine, theirs = memory_pipe()
        self.tasks.append(asyncio.ensure_future(self.serve(theirs, circuit)))
        return mine

    async def serve(self, stream: MemoryStream, circuit: int) -> None:
        """What an onion service does with a stream."""
        try:
            await self.gate.accept(stream, IncomingInfo(4282, circuit))
        finally:
            await stream.close()

    @asynccontextmanager
    async def reader(
        self, identity: KeyPair, circuit: int = 1, number: int = 0
    ) -> AsyncIterator[tuple[Drive, Replication]]:
        """``number``: whose store is used; 0: of somebody new."""
        self.readers += 1
        store = Corestore(self.folder / f"reader-{number or self.readers}")
        drive = Drive(store, self.drive.key)
        async with Replication(self.knock(circuit), True, store, identity) as replication:
            yield drive, replication
        store.close()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what only shows in the gate's state."""
        async with asyncio.timeout(SECONDS):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    def waiting(self) -> int:
        """Streams that the gate has not finished with."""
        return sum(not task.done() for task in self.tasks)

    async def close(self) -> None:
        await self.gate.close()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.store.close()


async def within(work: Awaitable[T]) -> T:
    """The result of ``work``, in good time. (``wait_for`` can swallow a cancellation.)"""
    async with asyncio.timeout(SECONDS):
        return await work


async def fetch_all(drive: Drive) -> None:
    """What a reader does to have the newest version."""
    await within(drive.update(wait=True))
    await within(drive.download())


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.drive.put("/a.txt", b"hello")
    yield made
    await made.close()


async def test_links_are_let_in_and_named(world: World) -> None:
    alice = KeyPair.generate(os.urandom)
    world.gate.admit(7, "alice", alice.public)
    async with world.reader(alice) as (drive, replication):
        await within(replication.accepted())
        await within(drive.update(wait=True))
        assert await within(drive.get("/a.txt")) == b"hello"
        assert [(v.link_id, v.name, v.circuit) for v in world.gate.visitors()] == [(7, "alice", 1)]
    assert world.events[0] == ("connected", {"link_id": 7, "name": "alice", "streams": 1})


async def test_an_unknown_key_is_refused_before_anything_is_said(world: World) -> None:
    world.gate.admit(7, "alice", KeyPair.generate(os.urandom).public)
    async with world.reader(KeyPair.generate(os.urandom)) as (drive, replication):
        with pytest.raises(AccessDenied):
            await within(replication.accepted())
        assert drive.core.length == 0
    assert not world.events


async def test_barring_cuts_that_link_alone(world: World) -> None:
    alice, bob = KeyPair.generate(os.urandom), KeyPair.generate(os.urandom)
    world.gate.admit(1, "alice", alice.public)
    world.gate.admit(2, "bob", bob.public)
    async with world.reader(alice, 11) as (_, first), world.reader(bob, 12) as (drive, second):
        await within(first.accepted())
        await within(second.accepted())
        await within(drive.update(wait=True))
        assert await within(drive.get("/a.txt")) == b"hello"
        await world.until(lambda: len(world.gate.visitors()) == 2)
        assert world.gate.bar(1) == [11]
        await within(first.wait_closed())
        await world.drive.put("/b.txt", b"later")
        async with asyncio.timeout(SECONDS):
            while await drive.get("/b.txt") != b"later":
                await drive.core.changed()
    async with world.reader(alice) as (_, again):
        with pytest.raises(AccessDenied):
            await within(again.accepted())


async def test_a_link_that_is_barred_in_the_moment_it_is_let_in(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = KeyPair.generate(os.urandom)
    world.gate.admit(1, "alice", alice.public)
    opened = Replication.opened

    async def opened_too_late(replication: Replication) -> None:
        await opened(replication)
        if not replication.initiator:
            world.gate.bar(1)

    monkeypatch.setattr(Replication, "opened", opened_too_late)
    async with world.reader(alice, 11) as (_, replication):
        await within(replication.wait_closed())
    await world.until(lambda: world.hung_up == [11])
    assert not world.events and not world.gate.visitors()


async def test_a_complete_download_is_noticed(world: World) -> None:
    alice = KeyPair.generate(os.urandom)
    world.gate.admit(1, "alice", alice.public)
    async with world.reader(alice) as (drive, _):
        await fetch_all(drive)
        await world.until(lambda: any(event == "transfer" and f["complete"] for event, f in world.events))
    told = [fields for event, fields in world.events if event == "transfer"]
    assert set(told[0]) == {"link_id", "name", "sent", "total", "rate", "complete"}
    total = world.drive.core.byte_length + len(b"hello")
    assert told[-1]["total"] == total <= told[-1]["sent"]
    assert any(fields["rate"] for fields in told)


async def test_a_reader_who_leaves_as_soon_as_all_is_there_is_known_to_have_it(world: World) -> None:
    alice = KeyPair.generate(os.urandom)
    world.gate.admit(1, "alice", alice.public)
    async with world.reader(alice) as (drive, _):
        await fetch_all(drive)
        await within(drive.core.storage.store.durable())
    await world.until(lambda: world.events[-1][0] == "disconnected")
    (event, told), (_, gone) = world.events[-2:]
    assert (event, told["complete"]) == ("transfer", True)
    assert gone["sent"] == told["sent"]


async def test_older_versions_are_not_needed_to_have_all(world: World) -> None:
    await world.drive.put("/a.txt", b"hello again")
    await world.drive.put("/b.txt", b"gone")
    await world.drive.delete("/b.txt")
    alice = KeyPair.generate(os.urandom)
    world.gate.admit(1, "alice", alice.public)
    for _ in range(2):  # the second time all is there already
        async with world.reader(alice, number=1) as (drive, _):
            await within(Fetch(drive, world.folder / "got").run())
        await world.until(lambda: world.events[-1][0] == "disconnected")
        assert world.events[-2][1]["complete"]
        world.events.clear()


async def test_nothing_was_ever_shared(tmp_path: Path) -> None:
    world = World(tmp_path)
    alice = KeyPair.generate(os.urandom)
    world.gate.admit(1, "alice", alice.public)
    async with world.reader(alice) as (drive, _):
        fetched = await asyncio.wait_for(Fetch(drive, world.folder / "got").run(), SECONDS)
        assert (fetched.files, fetched.problems) == (0, [])
    await world.close()


async def test_part_of_it_is_not_all(world: World) -> None:
    await world.drive.put("/b.txt", b"second")
    alice = KeyPair.generate(os.urandom)
    world.gate.admit(1, "alice", alice.public)
    async with world.reader(alice) as (drive, _):
        await within(Fetch(drive, world.folder / "got", ["b.txt"]).run())
    await world.until(lambda: world.events[-1][0] == "disconnected")
    assert not world.events[-2][1]["complete"]


async def test_handshakes_that_never_end_make_room_for_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "MAX_HANDSHAKES", 10)
    monkeypatch.setattr(gate_module, "HANG_UP_SECONDS", 0.01)
    silent = [world.knock(circuit) for circuit in range(10)]
    await world.until(lambda: world.waiting() == 10)
    alice = KeyPair.generate(os.urandom)
    world.gate.admit(1, "alice", alice.public)
    async with world.reader(alice, 10) as (_, replication):
        await within(replication.accepted())
        await ends(silent[0])
        await world.until(lambda: world.hung_up == [0])
        assert world.waiting() == 10


async def test_who_has_one_handshake_on_a_circuit_does_not_make_room_for_who_has_several(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "MAX_HANDSHAKES", 5)
    single = [world.knock(circuit) for circuit in (1, 2)]
    await world.until(lambda: world.waiting() == 2)
    several = [world.knock(3) for _ in range(3)]
    await world.until(lambda: world.waiting() == 5)
    world.knock(4)
    await ends(several[0])
    world.knock(5)
    await ends(several[1])
    world.knock(6)
    await ends(single[0])


async def test_two_who_come_in_one_moment_take_the_room_of_two(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "MAX_HANDSHAKES", 3)
    silent = [world.knock(circuit) for circuit in range(3)]
    await world.until(lambda: world.waiting() == 3)
    for circuit in (3, 4):
        world.knock(circuit)
    await ends(silent[0])
    await ends(silent[1])
    await world.until(lambda: world.waiting() == 3)


async def test_what_a_reader_is_sent_waits_for_the_turn_of_its_link(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[Lane] = []
    turn = FairUpload.turn

    def noted(upload: FairUpload, lane: Lane) -> AbstractAsyncContextManager[None]:
        turns.append(lane)
        return turn(upload, lane)

    monkeypatch.setattr(FairUpload, "turn", noted)
    alice, bob = KeyPair.generate(os.urandom), KeyPair.generate(os.urandom)
    world.gate.admit(1, "alice", alice.public)
    world.gate.admit(2, "bob", bob.public)
    await world.drive.put("/large", os.urandom(300_000))
    async with (
        world.reader(alice) as (one, _),
        world.reader(alice) as (two, _),
        world.reader(bob) as (other, _),
    ):
        for drive in (one, two, other):
            await within(drive.update(wait=True))
            data = await within(drive.get("/large"))
            assert data is not None and len(data) == 300_000
    assert len(set(turns)) == 2


async def test_one_circuit_has_a_few_handshakes_at_once(world: World) -> None:
    silent = [world.knock() for _ in range(MAX_HANDSHAKES_PER_CIRCUIT)]
    await world.until(lambda: world.waiting() == len(silent))
    await ends(world.knock())
    assert world.waiting() == len(silent)


async def ends(stream: MemoryStream) -> None:
    """Read a stream to its end."""
    async with asyncio.timeout(SECONDS):
        while await stream.read():
            pass


async def test_circuits_of_those_not_let_in_are_closed_unless_others_are_on_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "HANG_UP_SECONDS", 0.01)
    alice = KeyPair.generate(os.urandom)
    world.gate.admit(1, "alice", alice.public)
    async with world.reader(alice, 1) as (_, inside):
        await within(inside.accepted())
        for circuit in (1, 2):
            async with world.reader(KeyPair.generate(os.urandom), circuit) as (_, replication):
                with pytest.raises(AccessDenied):
                    await within(replication.accepted())
        await world.until(lambda: world.hung_up == [2])
    await world.until(lambda: world.hung_up == [2, 1])


async def test_who_failed_on_a_circuit_is_hung_up_on_whatever_else_is_begun_there(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "HANG_UP_SECONDS", 0.01)
    silent = world.knock(1)
    await world.until(lambda: world.waiting() == 1)
    async with world.reader(KeyPair.generate(os.urandom), 1) as (_, replication):
        with pytest.raises(AccessDenied):
            await within(replication.accepted())
    await world.until(lambda: world.hung_up == [1])
    await silent.close()


async def test_who_was_let_in_and_leaves_takes_no_handshake_along(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "HANG_UP_SECONDS", 0.01)
    alice = KeyPair.generate(os.urandom)
    world.gate.admit(1, "alice", alice.public)
    begun = world.knock(1)
    async with world.reader(alice, 1) as (_, replication):
        await within(replication.accepted())
    await world.until(lambda: world.waiting() == 1)
    await asyncio.sleep(0.02)  # it ends after the time that was set before
    assert not world.hung_up
    await begun.close()
    await world.until(lambda: world.hung_up == [1])


async def test_who_comes_again_is_told_of_anew(world: World) -> None:
    alice = KeyPair.generate(os.urandom)
    world.gate.admit(1, "alice", alice.public)
    for _ in range(2):
        async with world.reader(alice, number=1) as (drive, _):
            await fetch_all(drive)
        await world.until(lambda: world.events[-1][0] == "disconnected")
    first, second = (fields["sent"] for event, fields in world.events if event == "disconnected")
    assert second < first  # all was there already
    told = [(fields["sent"], fields["complete"]) for event, fields in world.events if event == "transfer"]
    assert all(one != after for one, after in itertools.pairwise(told))
    assert world.upload.streams == 0


async def test_one_link_may_not_open_streams_without_end(world: World) -> None:
    alice, bob = KeyPair.generate(os.urandom), KeyPair.generate(os.urandom)
    world.gate.admit(1, "alice", alice.public)
    world.gate.admit(2, "bob", bob.public)
    async with AsyncExitStack() as stack, asyncio.timeout(SECONDS):
        stores = Corestore(world.folder / "greedy")
        stack.callback(stores.close)
        streams = []
        for _ in range(MAX_STREAMS_PER_LINK):
            replication = Replication(world.knock(), True, stores, alice)
            streams.append(await stack.enter_async_context(replication))
            await replication.accepted()
        async with Replication(world.knock(), True, stores, alice) as one_too_many:
            with pytest.raises(Crowded):
                await one_too_many.accepted()
        assert len(world.gate.visitors()) == MAX_STREAMS_PER_LINK
        async with world.reader(bob) as (_, other):
            await other.accepted()
        await streams[0].close()
        await world.until(lambda: len(world.gate.visitors()) < MAX_STREAMS_PER_LINK)
        async with Replication(world.knock(), True, stores, alice) as again:
            await again.accepted()


async def test_streams_opened_in_one_moment_are_bounded_too(world: World) -> None:
    alice = KeyPair.generate(os.urandom)
    world.gate.admit(1, "alice", alice.public)
    stores = Corestore(world.folder / "greedy")
    streams = []
    for circuit in range(MAX_STREAMS_PER_LINK + 3):
        replication = Replication(world.knock(circuit), True, stores, alice)
        replication.start()
        streams.append(replication)
    await world.until(lambda: world.waiting() == MAX_STREAMS_PER_LINK)
    for replication in streams:
        await replication.close()
    stores.close()


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 70_000, b"\x20\x00\x00" + bytes(32)]
)
async def test_garbage_ends_its_own_stream_only(world: World, garbage: bytes) -> None:
    alice = KeyPair.generate(os.urandom)
    world.gate.admit(1, "alice", alice.public)
    stream = world.knock()
    try:
        await stream.write(garbage)
    except OSError:
        pass
    await stream.write_eof()
    async with asyncio.timeout(SECONDS):
        while await stream.read():
            pass
    async with world.reader(alice) as (_, replication):
        await within(replication.accepted())


async def test_while_there_are_many_streams_each_link_has_its_share_of_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "MAX_STREAMS", 6)
    alice, bob = (KeyPair.generate(os.urandom) for _ in range(2))
    world.gate.admit(1, "alice", alice.public)
    world.gate.admit(2, "bob", bob.public)
    stores = Corestore(world.folder / "many")
    async with AsyncExitStack() as stack, asyncio.timeout(SECONDS):
        stack.callback(stores.close)

        async def come(identity: KeyPair) -> None:
            replication = Replication(world.knock(), True, stores, identity)
            await stack.enter_async_context(replication)
            await replication.accepted()

        for _ in range(6):
            await come(alice)
        for _ in range(SHARE_STREAMS):
            await come(bob)
        for identity in (alice, bob):
            with pytest.raises(Crowded):
                await come(identity)
