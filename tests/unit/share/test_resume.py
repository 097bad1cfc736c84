"""A reader that is killed and begins again: what it had acknowledged is not sent to it a second time."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from pelure.hyper.core.corestore import Corestore
from pelure.hyper.core.replication.stream import Replication
from pelure.hyper.drive.drive import Drive
from pelure.hyper.wire import messages as m
from pelure.hyper.wire.noise import KeyPair
from pelure.streams import SocketStream

SIZE = 12_000_000
RATE = 10_000_000
"""Bytes a second that a reader is sent: so it is killed before it has everything."""
SMALL = 30
SECONDS = 100.0


class SlowStream(SocketStream):
    """Sends as fast as ``RATE``."""

    async def write(self, data: bytes | memoryview) -> None:
        await super().write(data)
        await asyncio.sleep(len(data) / RATE)  # there is nothing else that takes time on 127.0.0.1


class Publisher:
    """Serves a drive and keeps account of its contents: which blocks were sent, which acknowledged."""

    def __init__(self, store: Corestore, drive: Drive) -> None:
        self.drive = drive
        self.sent: list[int] = []
        self.acknowledged: set[int] = set()
        self._store = store
        self._server: asyncio.Server | None = None
        self._replications: list[Replication] = []
        """Those that have ended, too: they know what came with a reader's last words."""

    async def start(self) -> int:
        """Listen; the port."""
        core = (await self.drive.blobs()).core
        proof = core.proof

        def counted(request: m.Request) -> m.Data | None:
            if request.block is not None:
                self.sent.append(request.block.index)
            return proof(request)

        core.proof = counted  # type: ignore[method-assign]
        self._server = await SlowStream.listen(self._serve, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    def _note(self) -> None:
        core = self.drive.local_blobs().core  # type: ignore[union-attr]
        for replication in self._replications:
            peer = replication.peers.get(core.key)
            if peer is not None:
                self.acknowledged |= {index for index in range(core.length) if index in peer.blocks}

    async def _serve(self, stream: SlowStream) -> None:
        async with Replication(stream, False, self._store, KeyPair.from_seed(bytes(32))) as replication:
            self._replications.append(replication)
            await replication.wait_closed()

    async def until_acknowledged(self, count: int) -> None:
        """Wait until readers have said that they have so many blocks."""
        async with asyncio.timeout(SECONDS):
            while len(self.acknowledged) < count:
                await asyncio.sleep(0.001)
                self._note()

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()


@pytest.fixture
async def publisher(tmp_path: Path) -> AsyncIterator[Publisher]:
    store = Corestore(tmp_path / "published")
    drive = Drive(store)
    source = random.Random(3)
    await drive.put("/big.bin", source.randbytes(SIZE))
    for number in range(SMALL):
        await drive.put(f"/small/{number}", source.randbytes(5000))
    made = Publisher(store, drive)
    yield made
    await made.close()
    store.close()


async def test_what_was_acknowledged_is_not_sent_again(publisher: Publisher, tmp_path: Path) -> None:
    port = await publisher.start()
    folder = tmp_path / "got"

    async def fetching() -> Process:
        program = Path(__file__).with_name("fetching.py")
        key = publisher.drive.key.hex()
        return await asyncio.create_subprocess_exec(
            sys.executable, str(program), str(port), key, str(tmp_path / "store"), str(folder)
        )

    blocks = (await publisher.drive.blobs()).core.length
    known: set[int] = set()
    for part in (0.3, 0.6):
        reader = await fetching()
        await publisher.until_acknowledged(int(blocks * part))
        with suppress(ProcessLookupError):  # a slow disk: it acknowledged nothing before it had all
            reader.kill()
        await reader.wait()
        again = known & set(publisher.sent)
        assert not again, f"{len(again)} of {len(known)} blocks were sent although they had been acknowledged"
        known = set(publisher.acknowledged)
        publisher.sent.clear()
    reader = await fetching()
    async with asyncio.timeout(SECONDS):
        assert await reader.wait() == 0
    assert not known & set(publisher.sent)
    assert (folder / "big.bin").read_bytes() == await publisher.drive.get("/big.bin")
    assert len(os.listdir(folder / "small")) == SMALL
