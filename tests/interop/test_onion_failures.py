"""What an onion service and its clients survive: relays that die, and time periods that pass."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from interop.ctor import CTorNetwork, FileServer, payload
from interop.onion_support import PelureNode, fetch, http_get, pelure_node, pelure_service
from interop.waiting import until
from pelure.errors import PelureError
from pelure.tor.api import Tor, connect
from pelure.tor.client.hs import OnionClient
from pelure.tor.directory.relay import Relay
from pelure.tor.net.netdir_source import current_netdir
from pelure.tor.onion.time_periods import PeriodSchedule
from pelure.tor.service.events import DescriptorUploaded, IntroPointEstablished, ServiceEvent
from pelure.tor.service.keys import ServiceKeys

pytestmark = [pytest.mark.ctor, pytest.mark.timeout(400)]

PATIENCE = 120.0


@pytest.fixture
async def network() -> AsyncIterator[CTorNetwork]:
    """A network of the test's own, to kill relays of."""
    own = CTorNetwork(relays=8)
    try:
        await asyncio.to_thread(own.start)
        yield own
    finally:
        await asyncio.to_thread(own.stop)


@pytest.fixture
async def node(network: CTorNetwork, tmp_path: Path) -> AsyncIterator[PelureNode]:
    async with pelure_node(network, tmp_path / "state") as running:
        yield running


def kill(network: CTorNetwork, node: PelureNode, relay: Relay) -> None:
    """Kill a relay; our own paths avoid it from then on, as guards and path selection would come to do."""
    network.kill(relay.fingerprint)
    node.circuits.avoid.add(relay.fingerprint)


async def test_relays_die_in_every_role(
    network: CTorNetwork, node: PelureNode, file_server: FileServer
) -> None:
    """An introduction point, then a rendezvous point in mid-transfer; the address goes on answering."""
    relays = (
        {relay.nickname: relay for relay in node.directory.netdir.relays} if node.directory.netdir else {}
    )
    events: list[ServiceEvent] = []
    client = OnionClient(node.circuits, node.directory)

    def established() -> list[str]:
        return [event.relay for event in events if isinstance(event, IntroPointEstablished)]

    async with pelure_service(
        node, ServiceKeys.generate(os.urandom), file_server.port, events.append
    ) as service:
        assert await fetch(client, service.address, 1000) == payload(1000)[1]

        victim = next(name for name in established() if name.startswith("relay"))
        count = len(established())
        kill(network, node, relays[victim])
        assert await fetch(client, service.address, 1000) == payload(1000)[1]
        await until(lambda: len(established()) > count, "another introduction point", PATIENCE)
        assert victim not in established()[count:]

        circuit = await client.connect(service.address)
        while circuit.path[-1].nickname.startswith("auth"):  # authorities have to live
            circuit.close()
            circuit = await client.connect(service.address)
        stream = await circuit.begin("", 80)
        await stream.write(b"GET /100000000 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await stream.read()
        kill(network, node, circuit.path[-1])
        with pytest.raises(PelureError):
            async with asyncio.timeout(PATIENCE):
                while await stream.read():
                    pass
        client.forget()
        assert await fetch(client, service.address, 1000) == payload(1000)[1]
        await until(lambda: not service.connections(), "the service to notice the lost circuit", PATIENCE)


@pytest.mark.soak
@pytest.mark.timeout(1200)
async def test_time_periods_pass(
    network: CTorNetwork, node: PelureNode, file_server: FileServer, tmp_path: Path
) -> None:
    """Three time periods (4 minutes each) and their shared random values: every new client gets through."""
    events: list[ServiceEvent] = []
    async with pelure_service(
        node, ServiceKeys.generate(os.urandom), file_server.port, events.append
    ) as service:
        seen: set[int] = set()
        deadline = time.monotonic() + 900
        while len(seen) < 4 and time.monotonic() < deadline:
            schedule = PeriodSchedule.from_consensus(current_netdir(node.directory), testing=True)
            seen.add(schedule.current.number)
            client = OnionClient(node.circuits, node.directory)
            assert await fetch(client, service.address, 1000) == payload(1000)[1]
            await asyncio.sleep(7)
        assert len(seen) == 4
    uploaded = {event.period for event in events if isinstance(event, DescriptorUploaded)}
    assert uploaded >= seen


async def read_page(tor: Tor, address: str, attempts: int) -> None:
    """GET a small page by a circuit of its own; tries again, as a person would."""
    for attempt in range(attempts):
        try:
            async with asyncio.timeout(PATIENCE):
                stream = await tor.open_stream(address, 80, isolation=object())
                assert await http_get(stream, 1000) == payload(1000)[1]
                await stream.close()
                return
        except (PelureError, TimeoutError, AssertionError):
            if attempt + 1 == attempts:
                raise
            await asyncio.sleep(2)


@pytest.mark.soak
@pytest.mark.timeout(1200)
async def test_guards_die_and_the_network_restarts(
    network: CTorNetwork, file_server: FileServer, tmp_path: Path
) -> None:
    """With real path selection: the service's guard dies, the client's guard dies, then all at once."""
    async with (
        connect(network.network_file, state=tmp_path / "service", role="service") as host,
        connect(network.network_file, state=tmp_path / "client") as guest,
    ):
        service = await host.serve_onion({80: ("127.0.0.1", file_server.port)})
        await read_page(guest, service.address, 1)
        for tor in (host, guest):
            guard = tor.client.guards.select(time.time())
            if not guard.nickname.startswith("auth"):
                network.kill(guard.fingerprint)
                await read_page(guest, service.address, 30)
        for relay in [*network.relays, *network.authorities]:
            if relay.node.running:
                network.kill(relay)
        await asyncio.sleep(5)
        for relay in [*network.authorities, *network.relays]:
            await asyncio.to_thread(network.restart, relay)
        await asyncio.to_thread(network.wait_ready)
        await read_page(guest, service.address, 60)
