"""The Python API's keeping of services, on a network of fakes."""

from __future__ import annotations

import asyncio
import gc
import os
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pelure.errors import ConfigError
from pelure.tor.api import Tor
from pelure.tor.crypto.address import encode_address
from pelure.tor.crypto.keys import Ed25519KeyPair
from pelure.tor.onion.auth_files import AuthPrivate
from pelure.tor.onion.client_auth import ClientAuthKey
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


def test_client_keys_of_a_folder_are_what_it_holds_when_it_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys: dict[bytes, list[ClientAuthKey]] = {}
    tor = Tor(cast(Any, SimpleNamespace(onion_client=SimpleNamespace(client_keys=keys))))
    identity = Ed25519KeyPair.generate(os.urandom).public
    kept, first, second = (ClientAuthKey.generate(os.urandom) for _ in range(3))
    tor.add_client_key(encode_address(identity), kept.secret)
    (tmp_path / "a.auth_private").write_text(AuthPrivate(identity, first).encode())
    (tmp_path / "bad.auth_private").write_bytes(b"\xff")
    (tmp_path / "bad.auth_private~").write_text("not looked at")
    assert tor.load_client_keys(tmp_path) == 1
    assert keys == {identity: [kept, first]}
    assert [record.getMessage().count("bad.auth_private:") for record in caplog.records] == [1]
    (tmp_path / "a.auth_private").write_text(AuthPrivate(identity, second).encode())
    (tmp_path / "bad.auth_private").unlink()
    assert tor.load_client_keys(tmp_path) == 1
    assert keys == {identity: [kept, second]}
    with pytest.raises(ConfigError):
        tor.load_client_keys(tmp_path / "missing")
    assert keys == {identity: [kept, second]}
