"""What a relay does with a new consensus."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest

from pelure.tor.directory.consensus import Consensus, parse_consensus
from pelure.tor.relay.server import RelayServer
from unit.tor.directory.support import FakeNetwork

from .support import Relays


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
