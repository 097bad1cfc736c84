"""A holder of one private link who is up to no good, as a program: ``hostile.py NETWORK STATE LINK COUNT``.

It downloads on 16 circuits, again and again, and opens COUNT more connections, each with another trick. It
prints a line when the tricks begin and one when they are through.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

from pelure.errors import PelureError
from pelure.hyper.wire import messages as m
from pelure.hyper.wire.noise import KeyPair
from pelure.hyper.wire.parts import BlockRequest, UpgradeRequest
from pelure.share.link import DEFAULT_PORT, PrivateLink
from pelure.share.reader import open_remote
from pelure.tor.api import Tor, connect

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from unit.hyper.replication.scripted import ScriptedPeer

AT_ONCE = 8
TRICK_SECONDS = 20.0
TRICKS = 6


class LinkHolder(ScriptedPeer):
    """A scripted peer that the gate lets in."""

    def __init__(self, stream: object, private: PrivateLink) -> None:
        super().__init__(stream, private.drive_key, True, private.identity)  # type: ignore[arg-type]


async def trick(tor: Tor, private: PrivateLink, number: int) -> None:
    """One connection; every sixth is slow, huge, a flood, garbage, an oversized frame or silence."""
    stream = await tor.open_stream(private.address, DEFAULT_PORT, isolation=("trick", number))
    kind = number % TRICKS
    if kind == 0:
        await asyncio.sleep(TRICK_SECONDS)  # a handshake that never begins
        return
    peer = LinkHolder(stream, private)
    await peer.connect()
    assert peer.channel is not None
    peer.channel.send(0, m.Sync(0, 0, 0).encode())
    if kind == 1:  # asks for everything and reads nothing
        await peer.send(*(m.Request(n, 0, block=BlockRequest(n % 50, 0)) for n in range(1, 2000)))
        await asyncio.sleep(TRICK_SECONDS)
    elif kind == 2:
        top = 2**53 - 1
        await peer.send(
            m.Want(top, top),
            m.Range(0, top),
            m.Sync(top, top, top),
            *(m.Request(n, 0, upgrade=UpgradeRequest(0, top)) for n in range(1, 100)),
            *(m.Request(n, 0, block=BlockRequest(top, top)) for n in range(100, 200)),
        )
    elif kind == 3:
        await peer.send(*(m.Request(1, 0, block=BlockRequest(0, 0)) for _ in range(40_000)))
    elif kind == 4:
        await stream.write(bytes(range(256)) * 1000)
    else:
        await stream.write(b"\xff\xff\xff" + bytes(4 << 20))
    await peer.pump()


async def tricks(tor: Tor, private: PrivateLink, count: int) -> None:
    """All connections, some at a time; what happens to them is the publisher's affair."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        with contextlib.suppress(PelureError, OSError, TimeoutError):
            async with gate, asyncio.timeout(TRICK_SECONDS):
                await trick(tor, private, number)

    await asyncio.gather(*(one(number) for number in range(count)))


async def greed(tor: Tor, private: PrivateLink, cache: Path) -> None:
    """Download the whole drive on 16 circuits for ever."""
    number = 0
    while True:
        number += 1
        async with open_remote(private, tor, cache / str(number), circuits=16) as remote:
            await remote.connected()
            await remote.drive.update(wait=True)
            await remote.drive.download()


async def main(network: str, state: Path, link: str, count: int) -> None:
    private = PrivateLink.decode(link)
    assert isinstance(private.identity, KeyPair)
    async with connect(network, state=state) as tor:
        greedy = asyncio.ensure_future(greed(tor, private, state / "caches"))
        print("begun", flush=True)
        await tricks(tor, private, count)
        print("through", flush=True)
        await greedy


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
