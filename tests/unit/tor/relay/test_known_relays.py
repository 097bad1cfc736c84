"""What the directory tells a relay of the others is used where circuits are extended and where they end."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from unittest import mock

import pytest

from pelure.errors import StreamError
from pelure.tor.cell.commands import DestroyReason, EndReason, RelayCommand
from pelure.tor.cell.linkspec import LinkSpecifier
from pelure.tor.cell.relay_messages import Extend2
from pelure.tor.crypto import ntor
from pelure.tor.directory.cache import DirectoryCache
from pelure.tor.directory.consensus import parse_consensus
from pelure.tor.directory.network import parse_network
from pelure.tor.net.origin import Circuit
from pelure.tor.relay.known_relays import KnownRelays
from unit.tor.directory.support import FakeNetwork

from .support import TORRC, EchoServer, Relays


@pytest.fixture
def network() -> FakeNetwork:
    return FakeNetwork(relays=3)


def test_identities_come_from_microdescriptors(network: FakeNetwork) -> None:
    cache = DirectoryCache()
    known = KnownRelays(cache, network.network.authorities)
    relay = network.descriptors[0]
    assert known.ed_id(relay.rsa_id) is None
    known.update(parse_consensus(network.consensus()))
    assert known.ed_id(relay.rsa_id) is None  # its microdescriptor is still to come
    cache.add_microdescriptors(b"".join(network.microdescriptors), network.now)
    assert known.ed_id(relay.rsa_id) == relay.ed_id
    assert known.ed_id(os.urandom(20)) is None


def test_a_microdescriptor_that_is_not_understood_tells_no_identity(network: FakeNetwork) -> None:
    cache = DirectoryCache()
    known = KnownRelays(cache, ())
    text = b"onion-key\nsomething new\n"
    consensus = parse_consensus(network.consensus())
    [*_, router] = consensus.routers
    routers = (replace(router, md_digest=hashlib.sha256(text).digest()),)
    known.update(replace(consensus, routers=routers))
    cache.add_microdescriptors(text, network.now)
    assert known.ed_id(router.rsa_id) is None


def test_places_of_relays_and_authorities_lead_back_into_the_network(network: FakeNetwork) -> None:
    relay, authority = network.descriptors[0], network.network.authorities[0]
    known = KnownRelays(DirectoryCache(), [replace(authority, ipv6=("2001:db8::2", 7000))])
    assert known.is_reentry("2001:db8::2", 7000)
    assert not known.is_reentry(relay.ip, relay.orport)
    consensus = parse_consensus(network.consensus())
    first, *rest = consensus.routers
    known.update(replace(consensus, routers=(replace(first, ipv6=("2001:db8::1", 9001)), *rest)))
    for _ in range(2):  # the second time after another consensus
        assert known.is_reentry(relay.ip, relay.orport) and known.is_reentry("2001:db8::1", 9001)
        assert known.is_reentry(authority.ip, authority.orport)
        assert known.is_reentry(authority.ip, authority.dirport)
        assert not known.is_reentry(relay.ip, 80)
        assert not known.is_reentry(network.descriptors[1].ip, relay.orport)
    known.update(replace(consensus, routers=consensus.routers[:0]))
    assert not known.is_reentry(relay.ip, relay.orport)
    assert known.is_reentry(authority.ip, authority.orport)


def test_the_consensus_may_allow_reentry(network: FakeNetwork) -> None:
    known = KnownRelays(DirectoryCache(), network.network.authorities)
    consensus = parse_consensus(network.consensus())
    known.update(replace(consensus, params={"allow-network-reentry": 1}))
    assert not known.is_reentry(network.descriptors[0].ip, network.descriptors[0].orport)


async def extend_by_rsa_id(circuit: Circuit, rsa_id: bytes, port: int, *more: LinkSpecifier) -> None:
    specifiers = (LinkSpecifier.address("127.0.0.1", port), LinkSpecifier.rsa(rsa_id), *more)
    message = Extend2(specifiers, ntor.HANDSHAKE_TYPE, bytes(ntor.CLIENT_LEN))
    circuit.send(RelayCommand.EXTEND2, message.encode())
    await circuit.closed.wait()


def test_who_was_in_no_consensus_for_two_days_is_a_stranger(network: FakeNetwork) -> None:
    relay = network.descriptors[0].rsa_id
    known = KnownRelays(DirectoryCache(), ())
    assert not known.is_stranger(os.urandom(20))  # nobody is known yet
    consensus = parse_consensus(network.consensus())
    known.update(consensus)
    assert known.is_stranger(os.urandom(20)) and not known.is_stranger(relay)
    without = [router for router in consensus.routers if router.rsa_id != relay]
    for hours, stranger in ((1, False), (48, False), (49, True)):
        later = consensus.valid_after + 3600 * hours
        known.update(replace(consensus, valid_after=later, routers=without))
        assert known.is_stranger(relay) is stranger
    known.update(replace(consensus, params={"refuseunknownexits": 0}))
    assert not known.is_stranger(os.urandom(20))


async def test_an_exit_serves_no_circuit_that_comes_from_a_stranger(network: FakeNetwork) -> None:
    """Anybody can make a relay's keys, and use the exit as an open proxy."""
    async with Relays(2) as relays, EchoServer() as echo:
        exit_relay, previous = relays.servers[1], relays.servers[0].keys.rsa.public.identity
        stranger = mock.Mock(return_value=True)
        with mock.patch.object(exit_relay.exits, "_is_stranger", stranger):
            circuit = await relays.circuit()
            with pytest.raises(StreamError) as refused:
                await circuit.begin("127.0.0.1", echo.port)
        assert refused.value.reason == EndReason.MISC
        stranger.assert_called_once_with(previous)
        await circuit.begin("127.0.0.1", echo.port)


@pytest.mark.parametrize("testing", [True, False])
async def test_on_a_testing_network_nobody_is_a_stranger(testing: bool) -> None:
    network = parse_network(TORRC if testing else TORRC.partition("\n")[2])
    async with Relays(1, network=network) as relays:
        [server] = relays.servers
        with mock.patch.object(server.known, "is_stranger", return_value=True):
            assert server.exits._is_stranger(bytes(20)) is not testing


async def test_a_relay_is_held_to_the_identity_that_is_known_of_it() -> None:
    async with Relays() as relays:
        server, target = relays.servers[1], relays.path[2]
        circuit = await relays.circuit(0, 1)
        with mock.patch.object(server.known, "ed_id", return_value=os.urandom(32)):
            await extend_by_rsa_id(circuit, target.rsa_id, target.addresses[0][1])
        assert await relays.closed_for(circuit) == DestroyReason.OR_IDENTITY


async def test_no_circuit_is_extended_to_a_relay_without_an_identity() -> None:
    async with Relays() as relays:
        circuit = await relays.circuit(0, 1)
        await extend_by_rsa_id(circuit, bytes(20), relays.servers[2].orport)
        assert await relays.closed_for(circuit) == DestroyReason.PROTOCOL


async def test_no_circuit_goes_back_to_the_previous_hop_whatever_it_is_called() -> None:
    async with Relays() as relays:
        previous = relays.path[0]
        assert previous.ed_id is not None
        for rsa_id in (previous.rsa_id, os.urandom(20)):
            circuit = await relays.circuit(0, 1)
            port, ed_id = previous.addresses[0][1], LinkSpecifier.ed25519(previous.ed_id)
            await extend_by_rsa_id(circuit, rsa_id, port, ed_id)
            assert await relays.closed_for(circuit) == DestroyReason.PROTOCOL


async def test_exits_let_nobody_back_into_the_network() -> None:
    async with Relays() as relays, EchoServer() as echo:
        exit_relay = relays.servers[2]
        circuit = await relays.circuit()
        exit_relay.known._places.add(("127.0.0.1", echo.port))
        with pytest.raises(StreamError) as refused:
            await circuit.begin("127.0.0.1", echo.port)
        assert refused.value.reason == EndReason.CONNECTREFUSED
        exit_relay.known._reentry_allowed = True
        await (await circuit.begin("127.0.0.1", echo.port)).close()
