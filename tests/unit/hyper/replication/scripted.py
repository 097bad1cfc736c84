"""A peer under a test's control: it speaks the secret stream and protomux truly, and the rest as told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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

from .support import within

SECONDS = 30.0


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
