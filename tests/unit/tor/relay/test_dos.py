"""Limits that a consensus switches on: connections and circuits of an address, streams of a circuit."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from pelure.errors import CircuitError, LinkError, StreamError
from pelure.tor.cell.commands import DestroyReason, EndReason
from pelure.tor.net.links import LinkManager
from pelure.tor.relay.dos import CIRCUIT_MARK_SECONDS, CONNECTION_MARK_SECONDS, ClientLimits, StreamLimits

from .support import EchoServer, Relays, until

ADDRESS, OTHER = "192.0.2.1", "192.0.2.2"
CONNECTIONS = {"DoSConnectionEnabled": 1}
CIRCUITS = {"DoSCircuitCreationEnabled": 1}
STREAMS = {"DoSStreamCreationEnabled": 1}


def limits(params: Mapping[str, int]) -> ClientLimits:
    made = ClientLimits()
    made.params = params
    return made


# ---- connections ----


def test_connections_at_a_time_are_limited() -> None:
    clients = limits(CONNECTIONS | {"DoSConnectionMaxConcurrentCount": 3, "DoSConnectionConnectBurst": 90})
    for _ in range(4):
        assert clients.may_connect(ADDRESS, 0.0)
        clients.connected(ADDRESS, 0.0)
    assert not clients.may_connect(ADDRESS, 0.0) and clients.may_connect(OTHER, 0.0)
    clients.disconnected(ADDRESS, 0.0)
    assert clients.may_connect(ADDRESS, 0.0)


def test_who_connects_too_fast_is_refused_for_long() -> None:
    clients = limits(CONNECTIONS)
    for number in range(40):  # the default burst; 20 a second are added
        assert clients.may_connect(ADDRESS, 0.0), number
        clients.connected(ADDRESS, 0.0)
        clients.disconnected(ADDRESS, 0.0)
    assert not clients.may_connect(ADDRESS, CONNECTION_MARK_SECONDS - 1)
    clients.expire(CONNECTION_MARK_SECONDS - 1)
    assert len(clients) == 1
    assert clients.may_connect(ADDRESS, CONNECTION_MARK_SECONDS * 1.5 + 1)


def test_who_connects_slowly_never_is_and_is_forgotten() -> None:
    clients = limits(CONNECTIONS)
    for number in range(200):
        assert clients.may_connect(ADDRESS, number / 10)
        clients.connected(ADDRESS, number / 10)
        clients.disconnected(ADDRESS, number / 10)
    clients.connected(OTHER, 0.0)
    clients.expire(29.9)  # its buckets are not known to be full before
    assert len(clients) == 2
    clients.expire(50.0)
    assert len(clients) == 1, "who is connected is not forgotten"


@pytest.mark.parametrize("params", [{}, CONNECTIONS | {"DoSConnectionDefenseType": 1}])
def test_connections_are_not_limited_unless_the_consensus_says_so(params: Mapping[str, int]) -> None:
    clients = limits(params)
    for _ in range(500):
        clients.connected(ADDRESS, 0.0)
    assert clients.may_connect(ADDRESS, 0.0)


async def test_a_relay_hangs_up_on_an_address_with_too_many_links() -> None:
    async with Relays(1) as relays:
        [server], [relay] = relays.servers, relays.path
        server.clients.params = CONNECTIONS | {"DoSConnectionMaxConcurrentCount": 1}
        links = LinkManager()
        first, second = await links.connect(relay), await links.connect(relay)
        await until(lambda: len(server.links.links) == 2)
        with pytest.raises(LinkError):
            await links.connect(relay)
        first.close()
        await until(lambda: len(server.links.links) == 1)
        assert not (await links.connect(relay)).closed and not second.closed
        await links.close()
        await until(lambda: not server.links.links)
        assert server.clients.may_connect("127.0.0.1", asyncio.get_running_loop().time())


# ---- circuits ----


def ask_for(clients: ClientLimits, circuits: int, now: float = 0.0) -> bool:
    """Whether the last of so many circuits is granted."""
    return [clients.may_create(ADDRESS, now) for _ in range(circuits)][-1]


def test_circuits_of_an_address_with_several_connections_are_limited() -> None:
    clients = limits(CIRCUITS | {"DoSCircuitCreationBurst": 10, "DoSCircuitCreationRate": 2})
    for _ in range(2):
        clients.connected(ADDRESS, 0.0)
    assert ask_for(clients, 100), "from few connections it may be anybody"
    clients.connected(ADDRESS, 0.0)
    assert ask_for(clients, 9, now=10.0)
    assert not ask_for(clients, 1, now=10.0)
    assert not ask_for(clients, 1, now=CIRCUIT_MARK_SECONDS), "the mark lasts, though there would be tokens"
    assert ask_for(clients, 1, now=CIRCUIT_MARK_SECONDS * 1.5 + 11)


@pytest.mark.parametrize("params", [{}, CIRCUITS | {"DoSCircuitCreationDefenseType": 1}])
def test_circuits_are_not_limited_unless_the_consensus_says_so(params: Mapping[str, int]) -> None:
    clients = limits(params)
    for _ in range(3):
        clients.connected(ADDRESS, 0.0)
    assert ask_for(clients, 500)


async def test_a_relay_refuses_circuits_to_clients_and_not_to_relays() -> None:
    async with Relays(2) as relays:
        for server in relays.servers:
            server.clients.params = CIRCUITS | {
                "DoSCircuitCreationBurst": 2,
                "DoSCircuitCreationRate": 1,
                "DoSCircuitCreationMinConnections": 1,
            }
        await relays.circuit(0, 1)
        relays.servers[0].clients._clients["127.0.0.1"].circuits.rate = 0  # however long this takes
        with pytest.raises(CircuitError) as refused:
            await relays.circuit(0)
        assert refused.value.reason == DestroyReason.RESOURCELIMIT
        relays.servers[0].clients.params = {}
        for _ in range(3):
            await relays.circuit(0, 1)


# ---- streams ----


def test_streams_of_a_circuit_are_limited() -> None:
    streams = StreamLimits()
    streams.params = STREAMS | {"DoSStreamCreationBurst": 3, "DoSStreamCreationRate": 2}
    assert [streams.ask("circuit", 0.0).name for _ in range(4)] == ["NONE", "NONE", "NONE", "REFUSE"]
    assert streams.ask("other", 0.0).name == "NONE"
    assert [streams.ask("circuit", 1.0).name for _ in range(3)] == ["NONE", "NONE", "REFUSE"]
    for kind, name in ((0, "NONE"), (1, "NONE"), (2, "REFUSE"), (3, "CLOSE_CIRCUIT"), (9, "CLOSE_CIRCUIT")):
        streams.params = STREAMS | {"DoSStreamCreationDefenseType": kind}
        assert streams.ask("circuit", 1.0).name == name
    streams.forget("circuit")
    assert streams.ask("circuit", 1.0).name == "NONE"
    assert all(streams.ask("third", 0.0).name == "NONE" for _ in range(300))
    assert streams.ask("third", 0.0).name == "CLOSE_CIRCUIT"
    streams.params = {}
    assert streams.ask("third", 0.0).name == "NONE"


async def test_an_exit_refuses_streams_beyond_the_limit() -> None:
    async with Relays() as relays, EchoServer() as echo:
        exits = relays.servers[2].exits
        exits.limits.params = STREAMS | {"DoSStreamCreationBurst": 2}
        circuit = await relays.circuit()
        await (await circuit.begin("127.0.0.1", echo.port)).close()
        [bucket] = exits.limits._buckets.values()
        bucket.rate = 0  # however long this takes
        assert not (await circuit.resolve("127.0.0.1"))[0].is_error
        with pytest.raises(StreamError) as refused:
            await circuit.begin("127.0.0.1", echo.port)
        assert refused.value.reason == EndReason.MISC
        assert (await circuit.resolve("127.0.0.1"))[0].is_error
        circuit.close()
        await until(lambda: not exits.limits._buckets)


@pytest.mark.parametrize("resolving", [False, True])
async def test_an_exit_may_close_the_circuit_instead(resolving: bool) -> None:
    async with Relays() as relays, EchoServer() as echo:
        exits = relays.servers[2].exits
        exits.limits.params = STREAMS | {"DoSStreamCreationBurst": 1, "DoSStreamCreationDefenseType": 3}
        circuit = await relays.circuit()
        await (await circuit.begin("127.0.0.1", echo.port)).close()
        [bucket] = exits.limits._buckets.values()
        bucket.rate = 0  # however long this takes
        asked = circuit.resolve("127.0.0.1") if resolving else circuit.begin("127.0.0.1", echo.port)
        with pytest.raises(CircuitError):
            await asked
        assert await relays.closed_for(circuit) == DestroyReason.RESOURCELIMIT
        await until(lambda: not exits.limits._buckets)
