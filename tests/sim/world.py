"""A network in one event loop: authorities, relays, onion services and clients, each on a host of its own.

It votes every hour like the public network; only the flags are given to every relay, as there are so few.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from contextvars import copy_context
from pathlib import Path
from typing import Any, TypeVar

import pelure
from pelure.streams import ByteStream
from pelure.tor.api import Tor
from pelure.tor.authority.config import AuthorityConfig
from pelure.tor.authority.flags import FlagOptions
from pelure.tor.authority.keys import AuthorityKeys
from pelure.tor.directory.consensus import Consensus
from pelure.tor.directory.network import Network as TorNetwork
from pelure.tor.directory.network import parse_network
from pelure.tor.embedded.authority_node import AuthorityNode
from pelure.tor.relay.config import RelayConfig
from pelure.tor.relay.keys import RelayKeys
from pelure.tor.relay.server import RelayServer
from pelure.tor.service.service import OnionService
from pelure.tor.service.targets import IncomingInfo
from sim.clock import EPOCH
from sim.network import HERE, Host, Network

OR_PORT, DIR_PORT = 9001, 9030
MEMORY_LIMIT = 64 << 20
BODY = random.Random("body").randbytes(300_000)
"""What the onion service answers with."""
FETCH_SECONDS = 120.0
Result = TypeVar("Result")


class World:
    """See the module; ``rng`` is for whoever decides what happens."""

    def __init__(
        self, folder: Path, network: Network, seed: int, *, authorities: int = 3, relays: int = 9
    ) -> None:
        self.rng = random.Random(f"world {seed}")
        self.network = network
        self._folder = folder
        self._stack = AsyncExitStack()
        names = [f"authority{n}" for n in range(authorities)] + [f"relay{n}" for n in range(relays)]
        self.relays = [network.host(name) for name in names]
        self._votes = set(self.relays[:authorities])
        lines = [self._authority_line(host) for host in self.relays[:authorities]]
        self.tor: TorNetwork = parse_network("\n".join(lines), "simulated")

    def _authority_line(self, host: Host) -> str:
        data, place = self._folder / host.name, f"{host.ip}:{DIR_PORT}"
        data.mkdir()
        keys = AuthorityKeys.create(data, place, EPOCH, identity_bits=2048)
        fingerprint = RelayKeys.load(data, self.rng.randbytes, EPOCH).rsa.public.identity.hex()
        return (
            f"DirAuthority {host.name} orport={OR_PORT} v3ident={keys.identity.hex()} {place} {fingerprint}"
        )

    async def at(self, host: Host, what: Coroutine[Any, Any, Result]) -> Result:
        """Let ``what`` happen on ``host``."""
        context = copy_context()
        context.run(HERE.set, host)
        return await asyncio.get_running_loop().create_task(what, context=context)

    async def start(self) -> None:
        """Start all nodes, and wait for the first consensus that has them all."""
        await asyncio.gather(*(self.at(host, self._run(host)) for host in self.relays))

    async def _run(self, host: Host) -> None:
        node = self._node(host)
        await node.start()
        self._stack.push_async_callback(self._end, host, node)
        cache = (node.relay if isinstance(node, AuthorityNode) else node).cache
        while not _lists(cache.consensus(), len(self.relays)):  # noqa: ASYNC110 - a relay's cache tells nobody
            await asyncio.sleep(60)

    async def _end(self, host: Host, node: RelayServer | AuthorityNode) -> None:
        await self.at(host, node.close())

    async def _leave(self, host: Host, client: AbstractAsyncContextManager[Tor]) -> None:
        await self.at(host, client.__aexit__(None, None, None))

    def _node(self, host: Host) -> RelayServer | AuthorityNode:
        data = self._folder / host.name
        config = RelayConfig(
            self.tor, data, nickname=host.name, address=host.ip, orport=OR_PORT, memory_limit=MEMORY_LIMIT,
            assume_reachable=len(self._votes) < 3,  # a relay needs three others to test whether it is
        )  # fmt: skip
        if host not in self._votes:
            return RelayServer(config)
        votes = AuthorityConfig(
            host.name, data, self.tor, host.ip, DIR_PORT, OR_PORT,
            flags=FlagOptions.for_testing(), expected_relays=len(self.relays),
        )  # fmt: skip
        return AuthorityNode(votes, config, test_reachability=True)

    async def connect(self, name: str, **options: Any) -> tuple[Host, Tor]:
        """A client, or what a service runs in, on a host of its own; its state outlives it."""
        known = {host.name: host for host in self.network.hosts.values()}
        host = known.get(name) or self.network.host(name)
        client = pelure.connect(self.tor, state=self._folder / name, **options)
        tor = await self.at(host, client.__aenter__())
        self._stack.push_async_callback(self._leave, host, client)
        return host, tor

    async def serve(self, host: Host, tor: Tor) -> OnionService:
        """Publish an onion service that answers with :data:`BODY`."""
        return await self.at(host, tor.serve_onion({80: answer}))

    async def fetch(self, host: Host, tor: Tor, address: str, isolation: object = None) -> bytes:
        """All that the service at ``address`` answers. Raises ``PelureError``, ``TimeoutError``."""

        async def get() -> bytes:
            async with asyncio.timeout(FETCH_SECONDS):
                stream = await tor.open_stream(address, 80, isolation)
                try:
                    await stream.write(b"?")
                    received = b""
                    while data := await stream.read():
                        received += data
                        assert BODY.startswith(received)
                    return received
                finally:
                    await stream.close()

        return await self.at(host, get())

    async def close(self) -> None:
        """End everything."""
        await self._stack.aclose()


def _lists(consensus: Consensus | None, relays: int) -> bool:
    """Whether so many relays run by ``consensus``."""
    return consensus is not None and sum("Running" in one.flags for one in consensus.routers) >= relays


async def answer(stream: ByteStream, info: IncomingInfo) -> None:
    """The onion service's page."""
    if await stream.read():
        await stream.write(BODY)
