"""ORPorts of IPv6, and the test that others reach an ORPort before it is published."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest

from pelure.tor.directory.cache import DirectoryCache
from pelure.tor.directory.consensus import parse_consensus
from pelure.tor.directory.relay import Relay
from pelure.tor.relay import reachability
from pelure.tor.relay.publish import Publisher
from pelure.tor.relay.reachability import ReachabilityTest
from unit.tor.directory.support import NOW, FakeNetwork

from .support import EchoServer, Relays, as_relay, until

SECONDS = 60.0


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")


def by_ipv6(relays: Relays, index: int) -> Relay:
    """The relay as one that has only an IPv6 address."""
    return replace(relays.path[index], addresses=(("::1", relays.servers[index].orport6),))


@asynccontextmanager
async def dual_stack(**settings: Any) -> AsyncIterator[Relays]:
    async with Relays(address6="::1", bind6="::1", orport6=0, **settings) as relays:
        yield relays


@needs_ipv6
async def test_clients_and_relays_reach_a_relay_by_ipv6() -> None:
    async with dual_stack() as relays, EchoServer() as echo:
        relays.path = [by_ipv6(relays, index) for index in range(3)]
        circuit = await relays.circuit()  # CREATE2 to the first, EXTEND2 with IPv6 specifiers to the others
        stream = await circuit.begin("127.0.0.1", echo.port)
        await stream.write(b"by IPv6")
        assert await stream.read() == b"by IPv6"
        for server in relays.servers:
            assert {link.address[0] for link in server.links.links} == {"::1"}
        await stream.close()


class Trial:
    """A reachability test of the first relay of three, by way of the others."""

    def __init__(self, relays: Relays) -> None:
        self.verdicts: list[tuple[int, bool]] = []
        self.server = relays.servers[0]
        self.test = ReachabilityTest(
            self.server.links, DirectoryCache(), self.server.params, lambda *one: self.verdicts.append(one)
        )
        self.server._reachability = self.test
        self.server.config = replace(self.server.config, assume_reachable=False)
        self.path = mock.patch.object(self.test, "_path", return_value=[relays.path[1], relays.path[2]])


@needs_ipv6
async def test_a_relay_that_others_reach_learns_so_for_each_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reachability, "PAUSE_SECONDS", 0.01)
    async with asyncio.timeout(SECONDS), dual_stack() as relays:
        trial = Trial(relays)
        with trial.path:
            await trial.test.reach(as_relay(relays.servers[0]))
            assert trial.verdicts == [(4, True)]
            # The link by which it was reached may serve again; another relay has to open one by IPv6.
            for link in relays.servers[2].links.links:
                link.close()
            await trial.test.reach(by_ipv6(relays, 0))
        assert trial.verdicts == [(4, True), (6, True)]
        await until(lambda: not trial.server.circuits)


async def test_a_port_that_nobody_reaches_is_told_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reachability, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(reachability, "COMPLAIN_AFTER", 2)
    async with asyncio.timeout(SECONDS), Relays() as relays:
        trial = Trial(relays)
        me, links = as_relay(trial.server), trial.server.links
        for listening in links._servers:
            listening.close()
        with trial.path:
            trying = asyncio.ensure_future(trial.test.reach(me))
            await until(lambda: trial.verdicts)
            assert trial.verdicts == [(4, False)]
            await links.listen("127.0.0.1", me.addresses[0][1])
            await trying
        assert trial.verdicts == [(4, False), (4, True)]


async def test_links_of_clients_and_links_of_its_own_prove_nothing() -> None:
    async with asyncio.timeout(SECONDS), Relays() as relays:
        trial = Trial(relays)
        await relays.circuit(0)  # a client's
        await trial.server.links.get(relays.path[1])
        await relays.circuit(1, 0)  # comes back on the link that the relay itself opened
        assert not trial.test._reached[4].is_set()
        await relays.circuit(2, 0)
        assert trial.test._reached[4].is_set()


@needs_ipv6
async def test_nothing_is_published_before_it_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    reached = {4: asyncio.Event(), 6: asyncio.Event()}
    events: list[str] = []

    async def reach(test: ReachabilityTest, me: Relay) -> None:
        version = 6 if ":" in me.addresses[0][0] else 4
        await reached[version].wait()
        events.append(f"reached {version}")

    async def run(publisher: Publisher) -> None:
        while True:
            publisher._wanted.clear()
            events.append("with IPv6" if b"\nor-address [::1]:" in publisher._make() else "without")
            await publisher._wanted.wait()

    monkeypatch.setattr(ReachabilityTest, "reach", reach)
    monkeypatch.setattr(Publisher, "run", run)
    settings = {"publish": True, "assume_reachable": False}
    async with asyncio.timeout(SECONDS), Relays(1, address6="::1", bind6="::1", **settings):
        await asyncio.sleep(0)
        assert events == []
        reached[4].set()
        await until(lambda: len(events) == 2)
        assert events == ["reached 4", "without"]
        reached[6].set()
        await until(lambda: len(events) == 4)
        assert events[2:] == ["reached 6", "with IPv6"]


def test_the_way_leads_through_two_other_relays_that_run() -> None:
    network = FakeNetwork()
    cache = DirectoryCache()
    links = mock.Mock()
    test = ReachabilityTest(links, cache, mock.Mock(), mock.Mock())
    me = Relay("me", network.descriptors[0].rsa_id, None, None, (("192.0.2.1", 9001),))
    assert test._path(me, 4) == [], "no consensus yet"
    cache.set_consensus(parse_consensus(network.consensus("microdesc")))
    assert test._path(me, 4) == [], "no microdescriptors yet"
    cache.add_microdescriptors(b"".join(network.microdescriptors), NOW)
    linked = network.descriptors[1].rsa_id
    links.find = lambda relay: relay.rsa_id == linked
    for _ in range(30):
        first, last = test._path(me, 4)
        assert first != last and me.rsa_id not in (first.rsa_id, last.rsa_id)
        assert last.rsa_id != linked, "it would use the link there is"
