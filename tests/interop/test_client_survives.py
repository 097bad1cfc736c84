"""The pelure client when relays die and the network is restarted under it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import pelure
from interop.ctor import CTorNetwork, FileServer, curl, payload
from pelure.tor.api import Tor
from pelure.tor.directory.relay import Relay

pytestmark = [pytest.mark.ctor, pytest.mark.soak, pytest.mark.timeout(900)]

SIZE = 300_000
BIG = 30_000_000
MUCH = 1_000_000
PATIENCE = 240.0


async def fetch(url: str, socks: int, size: int, user: str) -> bool:
    """Whether a download works; each ``user`` has circuits of its own."""
    try:
        fetched = await asyncio.to_thread(curl, url, socks, timeout=60, user=user)
    except RuntimeError:
        return False
    return fetched.sha256 == payload(size)[1]


async def until_it_works(url: str, socks: int, size: int) -> int:
    """Try until a download works; returns the number of failures before."""
    failures = 0
    async with asyncio.timeout(PATIENCE):
        while not await fetch(url, socks, size, f"try{failures}:x"):
            failures += 1
            await asyncio.sleep(1)  # as a person would before trying again
    return failures


async def rendezvous_point_in_use(tor: Tor) -> Relay:
    """The rendezvous point of an onion circuit that carries data just now."""
    async with asyncio.timeout(PATIENCE):
        while True:
            for circuits in tor.client.onion_circuits.circuits().values():
                for circuit in circuits:
                    if any(stream.bytes_read > MUCH for stream in circuit.streams):
                        return circuit.path[-1]
            await asyncio.sleep(0.02)  # nothing tells of a stream's bytes


async def test_lost_relays_and_a_restarted_network(tmp_path: Path, file_server: FileServer) -> None:
    network = CTorNetwork(relays=8)
    await asyncio.to_thread(network.start)
    try:
        service = await asyncio.to_thread(network.service, {80: file_server.port})
        onion, site = file_server.url(SIZE, service.address), file_server.url(SIZE)
        async with pelure.connect(network.network_file, state=tmp_path) as tor:
            _, socks = await tor.serve_proxy(port=0)
            assert await fetch(site, socks, SIZE, "a:x") and await fetch(onion, socks, SIZE, "a:x")

            guard = tor.client.guards.primary[0]
            network.kill(guard.fingerprint)
            assert await until_it_works(site, socks, SIZE) <= 1
            await until_it_works(onion, socks, SIZE)
            network.restart(guard.fingerprint)

            big = asyncio.ensure_future(fetch(file_server.url(BIG, service.address), socks, BIG, "big:x"))
            rendezvous = await rendezvous_point_in_use(tor)
            network.kill(rendezvous.fingerprint)
            await big  # it may have been over already
            await until_it_works(onion, socks, SIZE)
            network.restart(rendezvous.fingerprint)

            # C tor's service takes many minutes to come back from what follows; pelure's own does not.
            own = await tor.serve_onion({80: ("127.0.0.1", file_server.port)})
            for one in [*network.authorities, *network.relays]:
                network.kill(one)
            assert not await fetch(site, socks, SIZE, "down:x")
            for one in [*network.authorities, *network.relays]:
                network.restart(one)
            await until_it_works(site, socks, SIZE)
            await until_it_works(file_server.url(SIZE, own.address), socks, SIZE)
    finally:
        await asyncio.to_thread(network.stop)
