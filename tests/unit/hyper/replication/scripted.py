"""A peer under a test's control: it speaks the secret stream and protomux truly, and the rest as told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import shake_256

from pelure.hyper.core.corestore import Corestore
from pelure.hyper.core.replication.stream import Replication
from pelure.hyper.encoding.compact import Reader
from pelure.hyper.wire import messages as m
from pelure.hyper.wire.capability import capability, discovery_key
from pelure.hyper.wire.noise import KeyPair
from pelure.hyper.wire.protomux import Channel, Mux
from pelure.hyper.wire.secretstream import SecretStream
from pelure.streams import ByteStream, memory_pipe

from .support import block, within

SECONDS = 30.0
BLOCKS = 40


class ScriptedPeer:
    """The other end of ``stream``, with a channel for the core of ``key``; received messages queue up."""

    def __init__(
        self, stream: ByteStream, key: bytes, initiator: bool = False, identity: KeyPair | None = None
    ) -> None:
        count = iter(range(1000))
        rng = lambda size: shake_256(bytes([next(count)])).digest(size)  # noqa: E731
        self.key = key
        self.stream = stream
        self.secret = SecretStream(initiator, identity or KeyPair.generate(rng), rng)
        self.mux = Mux(lambda name: None, {})
        self.received: asyncio.Queue[m.Message] = asyncio.Queue()
        self.opened = asyncio.Event()
        self.closed = asyncio.Event()
        self.channel: Channel | None = None
        self.proves_nothing = True
        """Suspected, because something did not verify, it says that it has no proof of its tree."""

    async def connect(self, secret: bytes | None = None) -> None:
        """Complete the handshake and open the channel, with a capability made from ``secret`` if given."""
        await self.flush()
        while not self.secret.opened:
            data = await self.stream.read()
            if not data:
                raise EOFError("the other side ended the stream in the handshake")
            self._take(data)
            await self.flush()
        proof = capability(secret or self.key, self.secret.handshake_hash, self.secret.initiator)
        name = (m.PROTOCOL, discovery_key(self.key))
        self.channel = self.mux.open(name, m.Handshake(proof).encode(), self)
        await self.flush()

    def _take(self, data: bytes) -> None:
        for message in self.secret.receive(data):
            self.mux.receive(message)

    async def flush(self) -> None:
        out = self.secret.take_output()
        if self.secret.ready:
            out += self.secret.seal(self.mux.take_output())
        if out:
            await self.stream.write(out)

    async def send(self, *messages: m.Message) -> None:
        assert self.channel is not None
        for message in messages:
            self.channel.send(message.TYPE, message.encode())
        await self.flush()

    async def pump(self) -> None:
        """Read until the other side ends the stream."""
        while data := await self.stream.read():
            self._take(data)
            await self.flush()
        self.closed.set()

    async def expect(self, kind: type[m.Message]) -> m.Message:
        """The next received message of a kind; others are passed over."""
        while True:
            message = await asyncio.wait_for(self.received.get(), SECONDS)
            if isinstance(message, kind):
                return message

    def on_open(self, handshake: Reader) -> None:
        self.opened.set()

    def on_message(self, kind: int, body: Reader) -> None:
        message = m.decode(kind, body)
        if isinstance(message, m.Request) and message.id == 0 and self.proves_nothing:
            assert self.channel is not None
            self.channel.send(m.NoData.TYPE, m.NoData(0).encode())
        elif message is not None:
            self.received.put_nowait(message)

    def on_close(self) -> None:
        self.closed.set()


@asynccontextmanager
async def scripted(
    store: Corestore, key: bytes, secret: bytes | None = None
) -> AsyncIterator[tuple[Replication, ScriptedPeer]]:
    """``store`` replicating with a scripted peer whose channel for ``key`` is open."""
    left, right = memory_pipe()
    replication = Replication(left, True, store, KeyPair.from_seed(bytes(32)))
    async with replication:
        peer = ScriptedPeer(right, key)
        await within(peer.connect(secret))
        reading = asyncio.ensure_future(peer.pump())
        try:
            yield replication, peer
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


class Case:
    """A writer with blocks, and the key of its core in a second store."""

    def __init__(self, stores: Callable[[], Corestore]) -> None:
        self.source = stores()
        self.writer = self.source.get(name="core")
        self.writer.append([block(index) for index in range(BLOCKS)])
        self.store = stores()
        self.reader = self.store.get(key=self.writer.key)

    def answer(self, request: m.Request) -> m.Data:
        answer = self.writer.proof(request)
        assert answer is not None
        return answer

    def sync(self, length: int = BLOCKS) -> m.Sync:
        return m.Sync(0, length, 0, has_manifest=True)

    async def bring_up(self, peer: ScriptedPeer) -> None:
        """Let the reader know the tree, and what the scripted peer claims to have."""
        await within(peer.opened.wait())
        await peer.send(self.sync())
        await peer.send(self.answer(await peer.expect(m.Request)))
        await peer.send(m.Sync(0, BLOCKS, BLOCKS, has_manifest=True), m.Range(0, BLOCKS))

    async def from_an_honest_peer(self, stack: AsyncExitStack) -> None:
        left, right = memory_pipe()
        for stream, store, initiator in ((left, self.source, True), (right, self.store, False)):
            identity = KeyPair.from_seed(bytes([initiator + 1]) * 32)
            await stack.enter_async_context(Replication(stream, initiator, store, identity))
