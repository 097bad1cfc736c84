"""The directory of a live C tor network: fetched, verified, renewed, and computed again from its votes."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from interop.ctor import CTorNetwork
from pelure.errors import DirectoryError
from pelure.tor.client.dirclient import DirectoryClient
from pelure.tor.crypto.digests import sha256
from pelure.tor.directory.consensus import parse_consensus
from pelure.tor.directory.consensus_compute import ComputeOptions, compute_consensus
from pelure.tor.directory.diff import apply_diff, make_diff
from pelure.tor.directory.microdescriptor import microdescriptors_by_method
from pelure.tor.directory.network import parse_network
from pelure.tor.directory.router_descriptor import (
    RouterDescriptor,
    parse_router_descriptor,
    split_router_descriptors,
)
from pelure.tor.directory.tokenizer import encode_base64
from pelure.tor.directory.vote import Vote, VoteEntry, parse_vote
from pelure.tor.net.links import LinkManager
from pelure.tor.net.statefile import StateFolder

pytestmark = pytest.mark.ctor
PATIENCE = 120.0


async def test_bootstrap_then_each_new_consensus(ctor_network: CTorNetwork, tmp_path: Path) -> None:
    links = LinkManager()
    network = parse_network(ctor_network.network_torrc)
    with StateFolder(tmp_path / "state") as folder:
        client = DirectoryClient(network, links, folder)
        async with asyncio.timeout(PATIENCE):
            netdir = await client.bootstrap()
        assert len(netdir.relays) == 11 and netdir.have_enough
        renewed = asyncio.Event()
        client.on_change.append(lambda new: renewed.set() if new.valid_after > netdir.valid_after else None)
        refresher = asyncio.create_task(client.refresh_loop())
        async with asyncio.timeout(PATIENCE):
            await renewed.wait()
        refresher.cancel()
    with StateFolder(tmp_path / "state") as folder:
        async with asyncio.timeout(PATIENCE):
            again = await DirectoryClient(network, links, folder).bootstrap()
        assert again.valid_after > netdir.valid_after
    await links.close()


def votes_and_consensuses(network: CTorNetwork) -> tuple[list[Vote], bytes, bytes]:
    """One round's votes of all authorities and both consensuses; asked for until they are of one round."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        votes = [parse_vote(network.directory("/tor/status-vote/current/authority", one)) for one in range(3)]
        ns = network.directory("/tor/status-vote/current/consensus")
        microdesc = network.directory("/tor/status-vote/current/consensus-microdesc")
        rounds = {vote.valid_after for vote in votes} | {parse_consensus(ns).valid_after}
        if len(rounds | {parse_consensus(microdesc).valid_after}) == 1:
            return votes, ns, microdesc
        time.sleep(0.5)  # the authorities tell nobody that they are through with a round
    raise AssertionError("votes and consensuses of one round could not be had")


def test_c_tors_votes_give_c_tors_consensus(ctor_network: CTorNetwork) -> None:
    votes, ns, microdesc = votes_and_consensuses(ctor_network)
    for flavour, document in (("ns", ns), ("microdesc", microdesc)):
        body = compute_consensus(votes, flavour, ComputeOptions(3, srv_is_fresh=False))
        assert document[: document.index(b"directory-signature ")].decode() == body.decode()


def voted_descriptors(network: CTorNetwork) -> list[tuple[RouterDescriptor, VoteEntry]]:
    """Descriptors and what an authority voted on them; asked for until that is most relays'.

    A relay that published a newer one since the vote is none of them.
    """
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        votes, _, _ = votes_and_consensuses(network)
        entries = {entry.descriptor_digest: entry for entry in votes[0].entries}
        texts = split_router_descriptors(network.directory("/tor/server/all"))
        found = [one for one in map(parse_router_descriptor, texts) if one.digest in entries]
        if len(found) >= 8:
            return [(one, entries[one.digest]) for one in found]
        time.sleep(0.5)  # until the next vote; nothing tells of it
    raise AssertionError("the authorities voted on too few of the descriptors that they have")


def test_microdescriptors_are_those_that_c_tor_votes_for(ctor_network: CTorNetwork) -> None:
    for descriptor, entry in voted_descriptors(ctor_network):
        made = microdescriptors_by_method(descriptor, (32, 33, 34, 35))
        lines = [f"{','.join(map(str, m))} sha256={encode_base64(sha256(body))}" for m, body in made]
        assert lines == entry.microdescs


def test_diffs_between_two_live_consensuses(ctor_network: CTorNetwork) -> None:
    path = "/tor/status-vote/current/consensus-microdesc"
    base = newer = ctor_network.directory(path)
    deadline = time.monotonic() + PATIENCE
    while newer == base and time.monotonic() < deadline:
        time.sleep(0.5)  # a consensus comes every ten seconds or so; nothing tells of it
        newer = ctor_network.directory(path)
    assert newer != base
    assert apply_diff(base, make_diff(base, newer)) == newer
    with pytest.raises(DirectoryError):
        apply_diff(newer, make_diff(base, newer))
