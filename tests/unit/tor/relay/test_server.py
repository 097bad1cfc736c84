"""A relay as a whole: what it does with a new consensus, what it renews, keeps, counts and refuses."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any, cast
from unittest import mock

import pytest

from pelure.errors import ConfigError, LinkError, ProtocolError, StreamError
from pelure.tor.cell.commands import EndReason
from pelure.tor.directory.cache import DirectoryCache
from pelure.tor.directory.consensus import Consensus, parse_consensus
from pelure.tor.directory.relay import Relay
from pelure.tor.directory.router_descriptor import parse_router_descriptor
from pelure.tor.net import dir_http
from pelure.tor.net.link import Link
from pelure.tor.relay import server as server_module
from pelure.tor.relay.bandwidth import LEAST_OBSERVED
from pelure.tor.relay.server import RelayServer
from unit.tor.directory.support import FakeNetwork

from .support import Relays, as_relay, tls_identity, until

HOUR = 3600.0


@pytest.fixture(scope="module")
def consensus() -> Consensus:
    now = time.time()
    return parse_consensus(FakeNetwork(relays=2, now=float(int(now))).consensus())


async def test_the_network_s_parameters_are_taken_over(consensus: Consensus) -> None:
    params = {"HSV3MaxDescriptorSize": 1234, "cc_alg": 0, "allow-network-reentry": 1}
    async with Relays(1) as relays:
        [server] = relays.servers
        server._publisher = mock.Mock(published_at=0.0)
        server.consensus_changed(replace(consensus, params=params))
        assert server.descriptors.max_descriptor == 1234 and not server.params.congestion_control
        for holder in (server.introductions, server.rendezvous, server.clients, server.exits.limits):
            assert holder.params == params
        listed = consensus.routers[0]
        assert not server.known.is_reentry(listed.ip, listed.orport)
        server.consensus_changed(consensus)
        assert server.descriptors.max_descriptor == 50_000 and server.params.congestion_control
        assert server.known.is_reentry(listed.ip, listed.orport)


async def test_a_relay_that_the_consensus_lacks_publishes_again(consensus: Consensus) -> None:
    """Not at once: a descriptor needs up to two consensuses to get in."""
    told: list[dict[str, Any]] = []
    async with Relays(1) as relays:
        [server] = relays.servers
        server._on_event = lambda name, **fields: told.append(fields)
        margin = 2 * (consensus.fresh_until - consensus.valid_after)
        for age, again in ((margin / 2, False), (margin * 2, True)):
            server._publisher = mock.Mock(published_at=time.time() - age)
            server.consensus_changed(consensus)
            assert server._publisher.publish.called == again
        server._publisher = mock.Mock(published_at=0.0)  # nothing was published yet
        server.consensus_changed(consensus)
        assert not server._publisher.publish.called
        assert {fields["flags"] for fields in told} == {None}
        server._publisher = mock.Mock(published_at=time.time() - margin * 2)
        server.consensus_changed(with_relay(consensus, server))
        assert not server._publisher.publish.called and "Running" in told[-1]["flags"]


def with_relay(consensus: Consensus, server: RelayServer) -> Consensus:
    """``consensus`` with ``server`` in it."""
    [first, *rest] = consensus.routers
    return replace(consensus, routers=(replace(first, rsa_id=server.keys.rsa.public.identity), *rest))


async def test_keys_are_renewed_while_the_relay_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "KEYS_CHECK_SECONDS", 0.001)
    monkeypatch.setattr("pelure.tor.net.identity.make_tls_identity", lambda *_: tls_identity())
    async with Relays(1) as relays:
        [server] = relays.servers
        server._publisher = mock.Mock()
        for due in ("circuit keys", "link keys"):
            server._publisher.publish.reset_mock()
            known, shown = as_relay(server), server.links._identity
            if due == "circuit keys":
                server.keys = replace(server.keys, onion=replace(server.keys.onion, since=0.0))
            else:
                server._identity = replace(server._identity, expires=time.time() + HOUR)
            await until(lambda shown=shown: server.links._identity is not shown)
            changed = due == "circuit keys"
            assert (as_relay(server).ntor_key != known.ntor_key) == changed
            assert server._publisher.publish.called == changed
            relays.path = [known]  # whoever knows the key of before gets its circuits for a while
            await relays.circuit()
            relays.path = [as_relay(server)]
            await relays.circuit()


async def test_what_was_measured_is_kept_for_the_next_run() -> None:
    async with Relays(1) as relays:
        [server] = relays.servers
        now = time.time()
        server.bandwidth.restore([[now - 2 * HOUR, 9e6, 8e6]], now)
        await server.close()
        again = RelayServer(server.config, cache=DirectoryCache())
        assert again.bandwidth.observed == 8_000_000
        assert again.fingerprint == server.fingerprint
        told = (server.config.data_directory / "fingerprint").read_text()
        assert told == f"relay0 {server.keys.rsa.public.identity.hex().upper()}\n"
        with pytest.raises(ConfigError):
            RelayServer(server.config)
        await again.close()


async def test_bytes_of_links_that_are_gone_still_count() -> None:
    async with Relays(1) as relays:
        [server] = relays.servers
        await relays.circuit()
        carried = server.traffic
        assert min(carried) > 0
        await relays.links.close()
        await until(lambda: not server.links.links)
        read, written = server.traffic
        assert read >= carried[0] and written >= carried[1]


async def test_a_relay_that_is_no_directory_says_so() -> None:
    async with Relays(1, directory_cache=False) as relays:
        circuit = await relays.circuit()
        with pytest.raises(StreamError) as caught:
            await dir_http.get(circuit.open_dir(), "/tor/server/authority", limit=10_000)
        assert caught.value.reason == EndReason.NOTDIRECTORY


async def test_no_client_takes_more_than_half_of_the_circuits() -> None:
    async with Relays(1) as relays:
        [server] = relays.servers
        server.max_circuits = 4
        for rsa_id, most in ((None, 2), (bytes(20), 4)):
            room = [server.has_room(link_with(circuits, rsa_id)) for circuits in range(6)]
            assert room == [circuits < most for circuits in range(6)]
        server.circuits |= {mock.Mock() for _ in range(4)}
        assert not server.has_room(link_with(0, bytes(20)))
        server.circuits.clear()


def link_with(circuits: int, rsa_id: bytes | None) -> Link:
    return cast(Link, mock.Mock(circuits=circuits, peer=mock.Mock(rsa_id=rsa_id)))


async def test_memory_is_watched_while_the_relay_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MEMORY_CHECK_SECONDS", 0.001)
    checks: list[tuple[Any, ...]] = []
    monkeypatch.setattr("pelure.tor.relay.memory.relieve", lambda *args: checks.append(args))
    async with Relays(1, memory_limit=1 << 24) as relays:
        [server] = relays.servers
        await relays.circuit()
        checks.clear()
        await until(lambda: len(checks) >= 2)
        links, circuits, descriptors, limit, now = checks[-1]
        assert links == server.links.links and circuits is server.circuits
        assert descriptors is server.descriptors and limit == 1 << 24 and abs(now - time.time()) < HOUR


async def test_what_is_over_is_forgotten_while_the_relay_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "HOUSEKEEPING_SECONDS", 0.001)
    async with Relays(1) as relays:
        [server] = relays.servers
        await relays.circuit()
        with (
            mock.patch.object(server.bandwidth, "note") as noted,
            mock.patch.object(server.rendezvous, "expire") as rendezvous,
            mock.patch.object(server.clients, "expire") as clients,
            mock.patch.object(server.descriptors, "expire") as descriptors,
        ):
            await until(lambda: descriptors.call_count >= 2)
        now, ticks = time.time(), asyncio.get_running_loop().time()
        for expire, clock in ((rendezvous, ticks), (clients, ticks), (descriptors, now)):
            assert abs(expire.call_args.args[0] - clock) < HOUR
        at, read, written = noted.call_args.args
        assert abs(at - now) < HOUR
        assert 0 < read <= server.traffic[0] and 0 < written <= server.traffic[1]


async def test_where_a_circuit_may_be_extended_to() -> None:
    async with Relays(1, allow_private_addresses=False) as relays:
        [server] = relays.servers
        [me] = relays.path
        public, other = ("9.9.9.9", 443), ("2606:4700::1", 9001)
        relay = Relay("other", bytes([1] * 20), bytes([2] * 32), bytes(32), (public,))
        assert server.check_extend(relay) == relay
        for refused in (
            replace(relay, rsa_id=me.rsa_id),
            replace(relay, ed_id=me.ed_id),
            replace(relay, rsa_id=bytes(20)),
            replace(relay, addresses=()),
            replace(relay, addresses=(("9.9.9.9", 0), ("10.0.0.1", 443), ("::1", 443))),
        ):
            with pytest.raises(ProtocolError):
                server.check_extend(refused)
        many = (("192.168.0.1", 443), other, ("9.9.9.9", 0), public, ("8.8.8.8", 443), ("2620::1", 443))
        assert server.check_extend(replace(relay, addresses=many)).addresses == (public, other)
        with mock.patch.object(server.known, "ed_id", return_value=bytes([3] * 32)):
            assert server.check_extend(relay).ed_id == relay.ed_id
            assert server.check_extend(replace(relay, ed_id=None)).ed_id == bytes([3] * 32)


async def test_a_relay_that_is_started_again_is_the_same_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pelure.tor.net.identity.make_tls_identity", lambda *_: tls_identity())
    told: list[tuple[str, dict[str, Any]]] = []
    async with Relays(1) as relays:
        [first] = relays.servers
        await first.close()
        with pytest.raises(LinkError):
            await relays.links.get(relays.path[0])
        again = RelayServer(
            first.config, on_event=lambda name, **fields: told.append((name, fields)), cache=DirectoryCache()
        )
        relays.servers.append(again)  # which closes it
        await again.start()
        place = {"address": "127.0.0.1", "port": again.orport, "fingerprint": first.fingerprint}
        assert told == [("listening", place)]
        descriptor = parse_router_descriptor(again.cache.own_descriptor)
        assert (descriptor.nickname, descriptor.orport) == ("relay0", again.orport)
        assert abs(descriptor.published - time.time()) < HOUR and descriptor.uptime < HOUR
        assert descriptor.bandwidth[2] == LEAST_OBSERVED
        relays.path = [replace(relays.path[0], addresses=(("127.0.0.1", again.orport),))]
        await relays.circuit()
        counted = again.statistics()
        assert (counted["links"], counted["circuits"], counted["handshakes"]) == (1, 1, 1)
