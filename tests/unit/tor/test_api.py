"""The Python API's keeping of services, on a network of fakes."""

from __future__ import annotations

import asyncio
import gc
import weakref
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pelure.tor.api import Tor
from unit.tor.service.fake_network import NOW, FakeNetwork

PATIENCE = 30


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> FakeNetwork:
    monkeypatch.setattr("time.time", lambda: NOW)
    return FakeNetwork()


async def nothing() -> None:
    pass


def tor_on(network: FakeNetwork) -> Tor:
    return Tor(cast(Any, SimpleNamespace(pool=network, directory=network, close=nothing)))


async def test_a_service_that_was_closed_is_let_go(network: FakeNetwork) -> None:
    async with asyncio.timeout(PATIENCE):
        tor = tor_on(network)
        kept = await tor.serve_onion({80: ("127.0.0.1", 1)})
        closed = await tor.serve_onion({80: ("127.0.0.1", 1)})
        remembered = weakref.ref(closed)
        await closed.close()
        del closed
        network.intro = {key: one for key, one in network.intro.items() if not one.closed.is_set()}
        while remembered() is not None:
            await asyncio.sleep(0)
            gc.collect()
        assert network.intro
        await tor.close()
        assert all(circuit.closed.is_set() for circuit in network.intro.values())
        assert not kept.connections()


async def test_running_services_are_closed_at_the_end_though_nobody_holds_them(network: FakeNetwork) -> None:
    async with asyncio.timeout(PATIENCE):
        tor = tor_on(network)
        await tor.serve_onion({80: ("127.0.0.1", 1)})
        gc.collect()
        assert len(network.on_change) == 1
        await tor.close()
        assert not network.on_change and all(circuit.closed.is_set() for circuit in network.intro.values())


async def test_giving_up_on_publication_ends_the_service(network: FakeNetwork) -> None:
    for relay in network.relays:
        network.dead.add(relay)
    async with asyncio.timeout(PATIENCE):
        tor = tor_on(network)
        serving = asyncio.create_task(tor.serve_onion({80: ("127.0.0.1", 1)}))
        while not network.on_change:  # noqa: ASYNC110 - it has begun
            await asyncio.sleep(0)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        assert not network.on_change
