"""Holders of private links who are up to no good, as a program: ``hostile.py NETWORK STATE LINKS COUNT``.

LINKS is a file with a link on each line. COUNT connections are opened and kept, spread over all links but the
last two: some say nothing after the handshake, the others ask for everything and read nothing, or a byte now
and then. With the link before the last others break the protocol, each in another way, again and again; with
the last the drive is downloaded on 16 circuits for ever. Whoever is hung up on comes again. A line is printed
when it begins and one when so many connections have been let in.

What this program itself computes is not the publisher's affair: it runs at the lowest priority.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from pelure.errors import PelureError
from pelure.hyper.wire import messages as m
from pelure.hyper.wire.noise import KeyPair
from pelure.hyper.wire.parts import BlockRequest, UpgradeRequest
from pelure.share.link import DEFAULT_PORT, PrivateLink
from pelure.share.reader import open_remote
from pelure.tor.api import Tor, connect
from pelure.tor.net.circuit_stream import CircuitStream

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from unit.hyper.replication.scripted import ScriptedPeer

AT_ONCE = 32
"""Connections that are being made at a time."""
CONNECT_SECONDS = 120.0
KEEPALIVE_SECONDS = 20.0
BREAKERS = 40
AGAIN_SECONDS = 1.0
LOWEST_PRIORITY = 19
TOP = 2**53 - 1


class LinkHolder(ScriptedPeer):
    """A scripted peer that the gate lets in, for a core of ``length`` blocks."""

    def __init__(self, stream: CircuitStream, private: PrivateLink, core: tuple[bytes, int]) -> None:
        assert isinstance(private.identity, KeyPair)
        key, self.length = core
        super().__init__(stream, key, True, private.identity)

    async def stay(self) -> None:
        """Keep the connection alive and read nothing."""
        while True:
            await asyncio.sleep(KEEPALIVE_SECONDS)
            self.mux.keep_alive()
            await self.flush()

    async def ask_for_everything(self) -> None:
        blocks = (BlockRequest(n % self.length, 0) for n in range(1, 2000))
        await self.send(m.Sync(0, 0, 0), *(m.Request(n, 0, block=block) for n, block in enumerate(blocks, 1)))


async def idle(peer: LinkHolder) -> None:
    """Nothing after the handshake."""
    staying = asyncio.ensure_future(peer.stay())
    try:
        await peer.pump()
    finally:
        await ended(staying)


async def ended(task: asyncio.Task[None]) -> None:
    """Cancel a task, whatever has become of it."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def deaf(peer: LinkHolder) -> None:
    """Asks for everything and reads nothing."""
    await peer.ask_for_everything()
    await peer.stay()


async def slow(peer: LinkHolder) -> None:
    """Asks for everything and reads a few bytes now and then."""
    await peer.ask_for_everything()
    staying = asyncio.ensure_future(peer.stay())
    try:
        while await peer.stream.read(500):  # noqa: ASYNC110 - the pause is the trick
            await asyncio.sleep(AGAIN_SECONDS)
    finally:
        await ended(staying)


async def huge(peer: LinkHolder) -> None:
    """Asks for what no drive can have."""
    await peer.send(
        m.Want(TOP, TOP),
        m.Range(0, TOP),
        m.Sync(TOP, TOP, TOP),
        *(m.Request(n, 0, upgrade=UpgradeRequest(0, TOP)) for n in range(1, 100)),
        *(m.Request(n, 0, block=BlockRequest(TOP, TOP)) for n in range(100, 200)),
    )
    await peer.pump()


async def flood(peer: LinkHolder) -> None:
    """More requests than anybody would queue."""
    await peer.send(m.Sync(0, 0, 0), *(m.Request(1, 0, block=BlockRequest(0, 0)) for _ in range(40_000)))
    await peer.pump()


async def garbage(peer: LinkHolder) -> None:
    """Bytes that no key sealed."""
    await peer.stream.write(bytes(range(256)) * 1000)
    await peer.pump()


async def oversized(peer: LinkHolder) -> None:
    """A frame longer than any may be."""
    await peer.stream.write(b"\xff\xff\xff" + bytes(4 << 20))
    await peer.pump()


HOLDING = [idle, deaf, slow]
BREAKING = [huge, flood, garbage, oversized]


class Hostile:
    """See the module."""

    def __init__(self, tor: Tor, core: tuple[bytes, int], count: int) -> None:
        """``core``: key and length of the one with the contents."""
        self.let_in = 0
        self.complete = asyncio.Event()
        self._tor = tor
        self._core = core
        self._count = count
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._turns = 0

    async def for_ever(self, work: Callable[[], Awaitable[None]]) -> None:
        """Whatever becomes of it, again."""
        while True:
            with contextlib.suppress(PelureError, OSError, EOFError):
                await work()
            await asyncio.sleep(AGAIN_SECONDS)

    async def _connected(self, private: PrivateLink) -> CircuitStream:
        """A stream on a circuit of its own."""
        async with self._gate, asyncio.timeout(CONNECT_SECONDS):
            self._turns += 1
            isolation = ("hostile", self._turns)
            return await self._tor.open_stream(private.address, DEFAULT_PORT, isolation=isolation)

    async def hold(self, private: PrivateLink, number: int) -> None:
        """One of the connections that stay."""
        stream = await self._connected(private)
        try:
            peer = LinkHolder(stream, private, self._core)
            await peer.connect()
            self.let_in += 1
            if self.let_in == self._count:
                self.complete.set()
            await HOLDING[number % len(HOLDING)](peer)
        finally:
            await stream.close()

    async def break_in(self, private: PrivateLink, number: int) -> None:
        """One that breaks the protocol; every fifth begins no handshake."""
        stream = await self._connected(private)
        try:
            if number % (len(BREAKING) + 1) == len(BREAKING):
                await stream.read()
                return
            peer = LinkHolder(stream, private, self._core)
            await peer.connect()
            await BREAKING[number % (len(BREAKING) + 1)](peer)
        finally:
            await stream.close()

    async def greed(self, private: PrivateLink, cache: Path) -> None:
        """Download the whole drive on 16 circuits."""
        self._turns += 1
        async with open_remote(private, self._tor, cache / str(self._turns), circuits=16) as remote:
            await remote.connected()
            await remote.drive.update(wait=True)
            await remote.drive.download()


async def contents(tor: Tor, private: PrivateLink, cache: Path) -> tuple[bytes, int]:
    """Key and length of the core with the drive's contents."""
    async with open_remote(private, tor, cache) as remote:
        await remote.connected()
        await remote.drive.update(wait=True)
        core = (await remote.drive.blobs()).core
        await core.update(wait=True)
        return core.key, core.length


def step_back() -> None:
    """Take only what others leave of the processors; Linux may weigh sessions against each other, too."""
    os.nice(LOWEST_PRIORITY)
    session = Path("/proc/self/autogroup")
    if session.exists():
        session.write_text(str(LOWEST_PRIORITY))


async def main(network: str, state: Path, links: list[PrivateLink], count: int) -> None:
    step_back()
    *holding, breaking, greedy = links
    async with connect(network, state=state) as tor:
        for private in links:
            tor.add_client_key(private.address, private.discovery_secret)
        hostile = Hostile(tor, await contents(tor, greedy, state / "caches" / "first"), count)

        def works() -> list[Callable[[], Awaitable[None]]]:
            return [
                lambda: hostile.greed(greedy, state / "caches"),
                *(lambda n=n: hostile.break_in(breaking, n) for n in range(BREAKERS)),
                *(lambda n=n: hostile.hold(holding[n % len(holding)], n) for n in range(count)),
            ]

        tasks = [asyncio.ensure_future(hostile.for_ever(work)) for work in works()]
        print("begun", flush=True)
        await hostile.complete.wait()
        print("complete", flush=True)
        await asyncio.gather(*tasks)


if __name__ == "__main__":
    texts = Path(sys.argv[3]).read_text().split()
    asyncio.run(
        main(sys.argv[1], Path(sys.argv[2]), [PrivateLink.decode(text) for text in texts], int(sys.argv[4]))
    )
