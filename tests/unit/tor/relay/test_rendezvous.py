"""A rendezvous point's rules: one cookie a circuit, one circuit a cookie, and both for a while only."""

from __future__ import annotations

import os

import pytest

from pelure.tor.cell.commands import DestroyReason, RelayCommand
from pelure.tor.cell.onion_messages import Rendezvous1
from pelure.tor.net.origin import Circuit
from pelure.tor.relay.rendezvous import WAIT_SECONDS

from .support import Relays, until

SECONDS = 60.0


async def wait_with(circuit: Circuit, cookie: bytes) -> None:
    circuit.send(RelayCommand.ESTABLISH_RENDEZVOUS, cookie)
    await circuit.expect(RelayCommand.RENDEZVOUS_ESTABLISHED, timeout=SECONDS)


def meet(circuit: Circuit, cookie: bytes) -> None:
    circuit.send(RelayCommand.RENDEZVOUS1, Rendezvous1(cookie, bytes(64)).encode())


async def refused(relays: Relays, circuit: Circuit) -> bool:
    return await relays.closed_for(circuit) == DestroyReason.PROTOCOL


async def test_a_circuit_waits_with_one_cookie() -> None:
    async with Relays(2) as relays:
        client = await relays.circuit(0, 1)
        await wait_with(client, os.urandom(20))
        client.send(RelayCommand.ESTABLISH_RENDEZVOUS, os.urandom(20))
        assert await refused(relays, client)
        await until(lambda: not len(relays.servers[1].rendezvous))


@pytest.mark.parametrize("size", [0, 19, 21])
async def test_a_cookie_has_20_bytes(size: int) -> None:
    async with Relays(2) as relays:
        client = await relays.circuit(0, 1)
        client.send(RelayCommand.ESTABLISH_RENDEZVOUS, bytes(size))
        assert await refused(relays, client)


async def test_who_waits_meets_nobody_else() -> None:
    async with Relays(2) as relays:
        cookies = os.urandom(20), os.urandom(20)
        clients = await relays.circuit(0, 1), await relays.circuit(0, 1)
        for client, cookie in zip(clients, cookies, strict=True):
            await wait_with(client, cookie)
        meet(clients[0], cookies[1])
        assert await refused(relays, clients[0])
        assert not clients[1].closed.is_set() and len(relays.servers[1].rendezvous) == 1


async def test_a_cookie_that_nobody_waits_with() -> None:
    async with Relays(2) as relays:
        service = await relays.circuit(0, 1)
        meet(service, os.urandom(20))
        assert await refused(relays, service)
        assert relays.servers[1].rendezvous.joined == 0


async def test_a_cookie_may_be_used_again_once_its_circuits_have_met() -> None:
    async with Relays(2) as relays:
        points, cookie = relays.servers[1].rendezvous, os.urandom(20)
        first, second = await relays.circuit(0, 1), await relays.circuit(0, 1)
        await wait_with(first, cookie)
        meet(await relays.circuit(0, 1), cookie)
        await first.expect(RelayCommand.RENDEZVOUS2, timeout=SECONDS)
        assert (points.joined, len(points)) == (1, 0)
        await wait_with(second, cookie)
        first.close()
        await until(lambda: len(relays.servers[1].circuits) == 1)
        assert len(points) == 1, "the first circuit's end is not the second one's"


async def test_nobody_waits_for_ever() -> None:
    async with Relays(2) as relays:
        [_, server] = relays.servers
        client = await relays.circuit(0, 1)
        await wait_with(client, os.urandom(20))
        server.rendezvous.expire(server._loop.time())
        assert len(server.rendezvous) == 1
        server.rendezvous.expire(server._loop.time() + WAIT_SECONDS)
        assert await relays.closed_for(client) == DestroyReason.TIMEOUT
        assert not len(server.rendezvous)
