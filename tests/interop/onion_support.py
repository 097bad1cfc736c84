"""What the onion interop tests share: a pelure node in a C tor network, with circuits over random relays."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from interop.ctor import CTorNetwork
from pelure.errors import PathError, PelureError
from pelure.tor.circuit.params import CircuitParams
from pelure.tor.client.dirclient import DirectoryClient
from pelure.tor.client.hs import OnionClient
from pelure.tor.directory.network import parse_network
from pelure.tor.directory.relay import Relay
from pelure.tor.net.circuit_stream import CircuitStream
from pelure.tor.net.links import LinkManager
from pelure.tor.net.netdir_source import current_netdir
from pelure.tor.net.origin import Circuit
from pelure.tor.net.statefile import StateFolder
from pelure.tor.service.events import OnEvent
from pelure.tor.service.keys import ServiceKeys
from pelure.tor.service.service import OnionService
from pelure.tor.service.targets import TcpTarget

ATTEMPTS = 6
BUILD_SECONDS = 20.0
PUBLISH_SECONDS = 90.0


@dataclass
class RandomCircuits:
    """A ``CircuitSource`` without guards: every circuit takes other relays, but none of ``avoid``."""

    links: LinkManager
    directory: DirectoryClient
    built: int = 0
    avoid: set[str] = field(default_factory=set)
    """Fingerprints."""

    async def internal_circuit(
        self, last: Relay | None, *, length: int, purpose: str, exclude: Collection[Relay] = ()
    ) -> Circuit:
        netdir = current_netdir(self.directory)
        params = CircuitParams.from_consensus(netdir.params)
        failure: PelureError = PathError("no path")
        for _ in range(ATTEMPTS):
            usable = [
                relay
                for relay in netdir.relays
                if relay not in exclude and relay != last and relay.fingerprint not in self.avoid
            ]
            wanted = length - (last is not None)
            if len(usable) < wanted:
                raise PathError("too few relays")
            path = random.sample(usable, wanted) + ([last] if last is not None else [])
            try:
                circuit = await Circuit.build(self.links, path, params=params, timeout=BUILD_SECONDS)
            except PelureError as error:
                failure = error
            else:
                self.built += 1
                return circuit
        raise failure


@dataclass
class PelureNode:
    """Links, directory and circuits of one pelure process in a test network."""

    links: LinkManager
    directory: DirectoryClient
    circuits: RandomCircuits


@contextlib.asynccontextmanager
async def pelure_node(network: CTorNetwork, folder: Path) -> AsyncIterator[PelureNode]:
    """A bootstrapped node; ``folder`` is its state folder."""
    links = LinkManager()
    state = StateFolder(folder)
    directory = DirectoryClient(parse_network(network.network_torrc), links, state)
    refreshing: asyncio.Task[None] | None = None
    try:
        await directory.bootstrap()
        refreshing = asyncio.create_task(directory.refresh_loop())
        yield PelureNode(links, directory, RandomCircuits(links, directory))
    finally:
        if refreshing is not None:
            refreshing.cancel()
            await asyncio.gather(refreshing, return_exceptions=True)
        await links.close()
        state.close()


async def http_get(stream: CircuitStream, size: int) -> str:
    """GET ``/<size>`` of the payload server; return the body's SHA-256 in hex. Raises on a short answer."""
    await stream.write(f"GET /{size} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    head = b""
    while b"\r\n\r\n" not in head:
        data = await stream.read()
        assert data, "the answer ended in its header"
        head += data
    body = head.partition(b"\r\n\r\n")[2]
    digest, received = hashlib.sha256(body), len(body)
    while received < size and (body := await stream.read()):
        digest.update(body)
        received += len(body)
    assert received == size, f"the answer ended after {received} of {size} bytes"
    return digest.hexdigest()


@contextlib.asynccontextmanager
async def pelure_service(
    node: PelureNode,
    keys: ServiceKeys,
    port: int,
    on_event: OnEvent | None = None,
    **options: Any,
) -> AsyncIterator[OnionService]:
    """A published onion service whose port 80 is TCP ``port`` of 127.0.0.1."""
    service = OnionService(
        node.circuits, node.directory, keys, {80: TcpTarget("127.0.0.1", port)}, on_event=on_event, **options
    )
    await service.start()
    try:
        async with asyncio.timeout(PUBLISH_SECONDS):
            await service.published.wait()
        yield service
    finally:
        await service.close()


async def fetch(client: OnionClient, address: str, size: int) -> str:
    """Connect anew and GET ``size`` bytes from port 80; returns their SHA-256 in hex."""
    circuit = await client.connect(address)
    try:
        return await http_get(await circuit.begin("", 80), size)
    finally:
        circuit.close()
