"""What the failures of a C tor network do to a pelure client and service, and what the log says of them."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

import pelure
from interop.ctor import CTorNetwork, FileServer, curl, payload
from interop.onion_support import PelureNode, fetch, http_get, pelure_node, pelure_service
from interop.waiting import until
from pelure.errors import PelureError
from pelure.tor.api import Tor
from pelure.tor.client.hs import OnionClient
from pelure.tor.crypto.blinding import blind_public, blinding_factor
from pelure.tor.directory.relay import Relay
from pelure.tor.net.netdir_source import current_netdir
from pelure.tor.onion.ring import HsDirRing, RingParams
from pelure.tor.onion.time_periods import PeriodSchedule
from pelure.tor.service.events import DescriptorUploaded, ServiceEvent
from pelure.tor.service.keys import ServiceKeys

pytestmark = [pytest.mark.ctor, pytest.mark.soak, pytest.mark.timeout(900)]

PATIENCE = 180.0
C_TOR_PATIENCE = 45.0
SMALL_RING = {"hsdir_n_replicas": 1, "hsdir_spread_store": 3, "hsdir_spread_fetch": 3}
"""With C tor's own figures every relay of a small network keeps every descriptor."""


@pytest.fixture
async def network() -> AsyncIterator[CTorNetwork]:
    own = CTorNetwork(relays=8, params=SMALL_RING)
    try:
        await asyncio.to_thread(own.start)
        yield own
    finally:
        await asyncio.to_thread(own.stop)


@pytest.fixture(autouse=True)
def told(caplog: pytest.LogCaptureFixture) -> Callable[[str], bool]:
    """Whether a log line with these words was written."""
    caplog.set_level(logging.INFO, "pelure")
    return lambda words: any(words in record.getMessage() for record in caplog.records)


async def read_page(tor: Tor, address: str) -> int:
    """GET a small page by a circuit of its own, again and again; returns the number of failures before."""
    failures = 0
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                stream = await tor.open_stream(address, 80, isolation=object())
                assert await http_get(stream, 1000) == payload(1000)[1]
                await stream.close()
                return failures
            except (PelureError, AssertionError):
                failures += 1
                await asyncio.sleep(1)  # as a person would before trying again


# ---- directories ----


def directories_of(node: PelureNode, keys: ServiceKeys) -> list[Relay]:
    """Those that clients ask for the descriptor now."""
    netdir = current_netdir(node.directory)
    slot = PeriodSchedule.from_consensus(netdir, testing=True).fetch_slot()
    factor = blinding_factor(keys.identity.public, slot.period.number, slot.period.length)
    blinded = blind_public(keys.identity.public, factor)
    return HsDirRing(netdir.hsdirs, slot, RingParams.from_params(netdir.params)).fetches(blinded)


def keys_without_authorities(node: PelureNode) -> ServiceKeys:
    """Keys of a service whose directories may be killed."""
    while True:
        keys = ServiceKeys.generate(os.urandom)
        if not any(relay.nickname.startswith("auth") for relay in directories_of(node, keys)):
            return keys


async def test_directories_of_a_service_are_killed(
    network: CTorNetwork, file_server: FileServer, tmp_path: Path, told: Callable[[str], bool]
) -> None:
    """All but one: the descriptor is still found. Once the consensus lost them, the new ring has it."""
    events: list[ServiceEvent] = []
    async with pelure_node(network, tmp_path / "state") as node:
        client = OnionClient(node.circuits, node.directory)
        keys = keys_without_authorities(node)
        async with pelure_service(node, keys, file_server.port, events.append) as service:
            assert await fetch(client, service.address, 1000) == payload(1000)[1]
            before = directories_of(node, keys)
            for relay in before[:-1]:
                network.kill(relay.fingerprint)
                node.circuits.avoid.add(relay.fingerprint)
            while not told("gave no descriptor"):  # the one that lives is asked first now and then
                client.forget()
                assert await fetch(client, service.address, 1000) == payload(1000)[1]

            uploads = len(events)
            await asyncio.to_thread(reject, network, before[:-1])
            await until(
                lambda: set(directories_of(node, keys)) != set(before), "the ring to change", PATIENCE
            )
            newcomers = {relay.nickname for relay in directories_of(node, keys)} - {
                relay.nickname for relay in before
            }
            await until(
                lambda: (
                    newcomers
                    <= {event.relay for event in events[uploads:] if isinstance(event, DescriptorUploaded)}
                ),
                "the new directories to have the descriptor",
                PATIENCE,
            )
            assert all(told(f"{name} has the descriptor") for name in newcomers)
            assert await fetch(OnionClient(node.circuits, node.directory), service.address, 1000)


def reject(network: CTorNetwork, relays: list[Relay]) -> None:
    """Let the authorities leave ``relays`` out of the consensus: by themselves they take 45 minutes."""
    patterns = [f"127.0.0.1:{network.relay(relay.fingerprint).or_port}" for relay in relays]
    for authority in network.authorities:
        authority.node.controller.set_conf("AuthDirReject", patterns)


# ---- guards ----


async def test_guards_are_killed(
    network: CTorNetwork, file_server: FileServer, tmp_path: Path, told: Callable[[str], bool]
) -> None:
    """The service's, then the client's."""
    async with (
        pelure.connect(network.network_file, state=tmp_path / "service", role="service") as host,
        pelure.connect(network.network_file, state=tmp_path / "client") as guest,
    ):
        service = await host.serve_onion({80: ("127.0.0.1", file_server.port)})
        await read_page(guest, service.address)
        for tor in (host, guest):
            guard = tor.client.guards.select(time.time())
            network.kill(guard.fingerprint)
            await read_page(guest, service.address)
            await until(
                lambda name=guard.nickname: told(f"entry guard {name} can't be reached"),  # type: ignore[misc]
                "the dead guard to be noticed",
                PATIENCE,
            )
            assert tor.client.guards.select(time.time()) != guard
            network.restart(guard.fingerprint)
            await asyncio.to_thread(network.wait_ready)
        assert told("The circuit to introduction point") and told("is an introduction point now")


# ---- authorities ----


async def test_an_authority_is_down(
    network: CTorNetwork, tmp_path: Path, told: Callable[[str], bool]
) -> None:
    """Two of three still sign: clients bootstrap, and get one consensus after the other."""
    dead = network.kill(network.authorities[0])
    while not told(f"{dead.nickname} can't be asked"):  # which one is asked first is left to chance
        state = tmp_path / os.urandom(4).hex()
        async with pelure_node(network, state) as node:
            assert current_netdir(node.directory).have_enough
    async with pelure_node(network, tmp_path / "last") as node:
        first = current_netdir(node.directory).valid_after
        await until(
            lambda: current_netdir(node.directory).valid_after >= first + 3 * network.interval,
            "three newer consensuses",
            PATIENCE,
        )
        assert len(current_netdir(node.directory).consensus.signatures) == 2


# ---- everything ----


async def test_the_network_is_restarted(
    network: CTorNetwork, file_server: FileServer, tmp_path: Path, told: Callable[[str], bool]
) -> None:
    """All relays at once: pelure's service is reached again by itself, C tor's as soon as C tor clients do.

    C tor's own service may stay away for long. If its circuits return to the same introduction points it does
    not upload its descriptor again, and restarted directories have none; after an outage of a minute it has
    given up on all guards of so small a network. Its own clients can't reach it then either: it is restarted.
    """
    theirs = await asyncio.to_thread(network.service, {80: file_server.port})
    their_client = await asyncio.to_thread(network.client)
    async with (
        pelure.connect(network.network_file, state=tmp_path / "service", role="service") as host,
        pelure.connect(network.network_file, state=tmp_path / "client") as guest,
    ):
        ours = await host.serve_onion({80: ("127.0.0.1", file_server.port)})
        for address in (ours.address, theirs.address):
            await read_page(guest, address)
        everyone = [*network.authorities, *network.relays]
        for one in everyone:
            network.kill(one)
        await asyncio.gather(*(asyncio.to_thread(network.restart, one) for one in everyone))
        await read_page(guest, ours.address)
        await until_curl(file_server.url(1000, ours.address), their_client.socks, PATIENCE)
        try:
            await until_curl(file_server.url(1000, theirs.address), their_client.socks, C_TOR_PATIENCE)
        except TimeoutError:
            theirs.stop()
            await asyncio.to_thread(network.service, {80: file_server.port}, directory=theirs.directory)
        await read_page(guest, theirs.address)
        assert told("The circuit to introduction point")
        assert told("the descriptors are published anew") or told("is an introduction point now")


async def until_curl(url: str, socks: int, seconds: float) -> None:
    """Fetch 1,000 bytes by curl until it works. Raises ``TimeoutError``."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                fetched = await asyncio.to_thread(curl, url, socks, timeout=60)
                assert fetched.sha256 == payload(1000)[1]
                return
            except (RuntimeError, AssertionError):
                await asyncio.sleep(1)  # as a person would before trying again
