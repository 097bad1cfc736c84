"""pelure's onion service and client against real C tor: every pair, client authorization, key folders."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from interop.ctor import Client, CTorNetwork, FileServer, curl, payload
from interop.onion_support import PelureNode, fetch, pelure_node, pelure_service
from pelure.errors import OnionServiceError
from pelure.tor.client.hs import OnionClient
from pelure.tor.crypto.address import decode_address
from pelure.tor.onion.auth_files import AuthPrivate
from pelure.tor.onion.client_auth import ClientAuthKey
from pelure.tor.service.events import RendezvousJoined, ServiceEvent
from pelure.tor.service.keys import ServiceKeys

pytestmark = [pytest.mark.ctor, pytest.mark.timeout(300)]

SIZE = 3_000_000
BIG = 100_000_000


@pytest.fixture
async def node(ctor_network: CTorNetwork, tmp_path: Path) -> AsyncIterator[PelureNode]:
    async with pelure_node(ctor_network, tmp_path / "state") as running:
        yield running


@pytest.fixture
def client(node: PelureNode) -> OnionClient:
    return OnionClient(node.circuits, node.directory)


def new_keys() -> ServiceKeys:
    return ServiceKeys.generate(os.urandom)


def base32(key: bytes) -> str:
    return base64.b32encode(key).decode().rstrip("=")


async def check_pelure_service(
    node: PelureNode, client: OnionClient, ctor_client: Client, server: FileServer, size: int
) -> None:
    """A C tor client and a pelure client fetch the same file from a pelure service."""
    events: list[ServiceEvent] = []
    async with pelure_service(node, new_keys(), server.port, events.append) as service:
        url = server.url(size, service.address)
        fetched = await asyncio.to_thread(curl, url, ctor_client.socks, timeout=240)
        assert (fetched.status, fetched.sha256) == (200, payload(size)[1])
        assert await fetch(client, service.address, size) == payload(size)[1]
    assert sum(isinstance(event, RendezvousJoined) for event in events) >= 2
    assert not service.connections()


async def test_pelure_service(
    node: PelureNode, client: OnionClient, ctor_client: Client, file_server: FileServer
) -> None:
    await check_pelure_service(node, client, ctor_client, file_server, SIZE)


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_pelure_service_with_100_megabytes(
    node: PelureNode, client: OnionClient, ctor_client: Client, file_server: FileServer
) -> None:
    await check_pelure_service(node, client, ctor_client, file_server, BIG)


async def test_c_tor_service(ctor_network: CTorNetwork, client: OnionClient, file_server: FileServer) -> None:
    service = await asyncio.to_thread(ctor_network.service, {80: file_server.port})
    try:
        assert await fetch(client, service.address, SIZE) == payload(SIZE)[1]
        with pytest.raises(OnionServiceError) as refused:
            await client.connect("a" * 56 + ".onion")
        assert refused.value.code == 0xF6
    finally:
        service.stop()


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_c_tor_service_with_100_megabytes(
    ctor_network: CTorNetwork, client: OnionClient, file_server: FileServer
) -> None:
    service = await asyncio.to_thread(ctor_network.service, {80: file_server.port})
    try:
        assert await fetch(client, service.address, BIG) == payload(BIG)[1]
    finally:
        service.stop()


@pytest.mark.parametrize(
    "size", [SIZE, pytest.param(BIG, marks=[pytest.mark.soak, pytest.mark.timeout(900)])]
)
async def test_fixed_windows(tmp_path: Path, file_server: FileServer, size: int) -> None:
    """A network without congestion control: both sides fall back to windows."""
    network = CTorNetwork(relays=5, params={"cc_alg": 0})
    await asyncio.to_thread(network.start)
    try:
        ctor_client = await asyncio.to_thread(network.client)
        async with pelure_node(network, tmp_path / "state") as node:
            client = OnionClient(node.circuits, node.directory)
            await check_pelure_service(node, client, ctor_client, file_server, size)
    finally:
        await asyncio.to_thread(network.stop)


async def test_client_authorization_of_a_pelure_service(
    ctor_network: CTorNetwork, node: PelureNode, client: OnionClient, file_server: FileServer, tmp_path: Path
) -> None:
    keys, alice, bob = new_keys(), ClientAuthKey.generate(os.urandom), ClientAuthKey.generate(os.urandom)
    identity = keys.identity.public
    keys.add_client("alice", alice.public)
    folder = tmp_path / "auth"
    folder.mkdir(mode=0o700)
    (folder / "alice.auth_private").write_text(AuthPrivate(identity, alice).encode())
    ctor_client = await asyncio.to_thread(ctor_network.client, authorizations=folder)
    async with pelure_service(node, keys, file_server.port) as service:
        url = file_server.url(SIZE, service.address)
        fetched = await asyncio.to_thread(curl, url, ctor_client.socks)
        assert fetched.sha256 == payload(SIZE)[1]
        await check_refused(client, service.address, 0xF4)
        client.client_keys[identity] = [bob]
        await check_refused(client, service.address, 0xF5)
        await service.add_clients({"bob": bob.public})
        client.forget()
        assert await fetch(client, service.address, 1000) == payload(1000)[1]
        await service.remove_clients(["bob"])
        await service.rotate_intro_points()
        await check_refused(client, service.address, 0xF5)  # with the old descriptor still at hand
        client.client_keys[identity] = [bob, alice]
        assert await fetch(client, service.address, 1000) == payload(1000)[1]
    ctor_client.stop()


async def check_refused(client: OnionClient, address: str, code: int) -> None:
    with pytest.raises(OnionServiceError) as refused:
        await client.connect(address)
    assert refused.value.code == code


async def test_client_authorization_of_a_c_tor_service(
    ctor_network: CTorNetwork, client: OnionClient, file_server: FileServer
) -> None:
    alice, stranger = ClientAuthKey.generate(os.urandom), ClientAuthKey.generate(os.urandom)
    service = await asyncio.to_thread(
        ctor_network.service, {80: file_server.port}, authorized={"alice": base32(alice.public)}
    )
    try:
        identity = decode_address(service.address)
        await check_refused(client, service.address, 0xF4)
        client.client_keys[identity] = [stranger]
        await check_refused(client, service.address, 0xF5)
        client.client_keys[identity] = [stranger, alice]
        assert await fetch(client, service.address, SIZE) == payload(SIZE)[1]
    finally:
        service.stop()


async def test_a_key_folder_goes_from_c_tor_to_pelure_and_back(
    ctor_network: CTorNetwork, node: PelureNode, client: OnionClient, file_server: FileServer, tmp_path: Path
) -> None:
    ours = tmp_path / "ours"
    first = await asyncio.to_thread(ctor_network.service, {80: file_server.port})
    first.stop()
    shutil.copytree(first.directory, ours)
    keys = ServiceKeys.load(ours)
    assert keys.address == first.address
    async with pelure_service(node, keys, file_server.port) as service:
        assert await fetch(client, service.address, 1000) == payload(1000)[1]
    back = await asyncio.to_thread(ctor_network.service, {80: file_server.port}, directory=ours)
    try:
        assert back.address == first.address
        client.forget()
        assert await fetch(client, back.address, 1000) == payload(1000)[1]
    finally:
        back.stop()


async def test_a_folder_made_by_pelure_works_in_c_tor(
    ctor_network: CTorNetwork, client: OnionClient, file_server: FileServer, tmp_path: Path
) -> None:
    keys, alice = ServiceKeys.create(tmp_path / "made", os.urandom), ClientAuthKey.generate(os.urandom)
    keys.add_client("alice", alice.public)
    service = await asyncio.to_thread(
        ctor_network.service, {80: file_server.port}, directory=tmp_path / "made"
    )
    try:
        assert service.address == keys.address
        await check_refused(client, service.address, 0xF4)
        client.client_keys[keys.identity.public] = [alice]
        assert await fetch(client, service.address, 1000) == payload(1000)[1]
    finally:
        service.stop()


async def test_many_clients_at_once(node: PelureNode, client: OnionClient, file_server: FileServer) -> None:
    async with pelure_service(node, new_keys(), file_server.port) as service:
        fetches = [fetch(client, service.address, 1000) for _ in range(25)]
        assert set(await asyncio.gather(*fetches)) == {payload(1000)[1]}


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_two_hundred_clients_at_once(
    node: PelureNode, client: OnionClient, file_server: FileServer
) -> None:
    events: list[ServiceEvent] = []
    async with pelure_service(node, new_keys(), file_server.port, events.append) as service:
        fetches = [fetch(client, service.address, 1000) for _ in range(200)]
        assert set(await asyncio.gather(*fetches)) == {payload(1000)[1]}
    assert sum(isinstance(event, RendezvousJoined) for event in events) >= 200


async def test_two_services_in_one_process_are_separate(
    node: PelureNode, client: OnionClient, file_server: FileServer
) -> None:
    async with (
        pelure_service(node, new_keys(), file_server.port) as one,
        pelure_service(node, new_keys(), file_server.port) as other,
    ):
        assert one.address != other.address
        circuit = await client.connect(one.address)
        await circuit.begin("", 80)
        assert (len(one.connections()), len(other.connections())) == (1, 0)
        number = one.connections()[0].id
        assert not other.close_circuit(number)
        assert one.close_circuit(number)
        async with asyncio.timeout(60):
            await circuit.closed.wait()
        assert await fetch(client, other.address, 1000) == payload(1000)[1]
