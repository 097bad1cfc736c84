"""Authorities of pelure and of C tor in one quorum: one consensus, all signatures, shared random values."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from interop.authorities import prepare_authority
from interop.ctor import CTorNetwork
from pelure.errors import DirectoryError
from pelure.tor.authority.server import Authority
from pelure.tor.authority.shared_random import ROUNDS_A_RUN
from pelure.tor.directory.consensus import Consensus, parse_consensus
from pelure.tor.directory.consensus_verify import check_signatures
from pelure.tor.directory.network import parse_network
from pelure.tor.relay.config import RelayConfig
from pelure.tor.relay.server import RelayServer

pytestmark = pytest.mark.ctor

RELAYS = 3


@dataclass
class Quorum:
    """Two pelure authorities and a C tor network of one authority and some relays."""

    ctor: CTorNetwork
    pelure: list[Authority]

    async def consensuses(self, flavour: str) -> list[Consensus]:
        """Each authority's current consensus; raises ``OSError`` while C tor's has none."""
        text = await asyncio.to_thread(self.ctor.directory, f"/tor/status-vote/current/consensus-{flavour}")
        found = [authority.cache.consensus(flavour) for authority in self.pelure]
        return [parse_consensus(text), *(one for one in found if one is not None)]

    async def agreed(self, flavour: str, more: int = 0) -> list[Consensus]:
        """Wait until all three have a consensus of the same round that lists every relay, ``more`` too."""
        while True:
            with contextlib.suppress(OSError, DirectoryError):
                found = await self.consensuses(flavour)
                same_round = len({one.valid_after for one in found}) == 1
                if len(found) == 3 and same_round and all(len(one.routers) > RELAYS + more for one in found):
                    return found
            await asyncio.sleep(0.5)  # the authorities tell nobody of a new consensus


@contextlib.asynccontextmanager
async def running_quorum(folder: Path, *, seed: bool) -> AsyncIterator[Quorum]:
    prepared = [prepare_authority(f"pelure{n}", folder, seed=seed) for n in range(2)]
    ctor = await asyncio.to_thread(
        lambda: CTorNetwork(authorities=1, relays=RELAYS, outside_authorities=[one.line for one in prepared])
    )
    if not seed:
        (ctor.authorities[0].node.data / "sr-state").unlink()
    marked = ctor.relays[0].fingerprint
    for one in prepared:
        (one.data / "approved-routers").write_text(f"!middleonly {marked}\n")
    pelure = [one.authority(ctor.network_torrc) for one in prepared]
    try:
        for authority in pelure:
            await authority.start()
        await asyncio.to_thread(ctor.start, wait=False)
        yield Quorum(ctor, pelure)
    finally:
        for authority in pelure:
            await authority.close()
        await asyncio.to_thread(ctor.stop)


def assert_agreement(found: list[Consensus], quorum: Quorum) -> None:
    """One digest, and each document signed by all three authorities."""
    assert len({one.digest for one in found}) == 1
    identities = quorum.pelure[0].round.names.keys()
    certificates = quorum.pelure[0].cache.certificates
    for one in found:
        assert check_signatures(one, identities, certificates).good == frozenset(identities)


@contextlib.asynccontextmanager
async def dual_stack_relay(torrc: str, folder: Path) -> AsyncIterator[RelayServer]:
    """A relay with an IPv6 ORPort, of the network described by ``torrc``."""
    options = {
        "nickname": ["dualstack"],
        "address": ["127.0.0.1", "::1"],
        "orport": ["127.0.0.1:0", "[::1]:0"],
    }
    server = RelayServer(RelayConfig.from_torrc(parse_network(torrc), options, folder))
    await server.start()
    try:
        yield server
    finally:
        await server.close()


async def test_two_pelure_and_one_c_tor_authority_agree(tmp_path: Path) -> None:
    async with (
        running_quorum(tmp_path, seed=True) as quorum,
        dual_stack_relay(quorum.ctor.network_torrc, tmp_path / "dualstack") as dual,
    ):
        async with asyncio.timeout(100):
            for flavour in ("ns", "microdesc"):
                found = await quorum.agreed(flavour, more=1)
                assert_agreement(found, quorum)
                marked = bytes.fromhex(quorum.ctor.relays[0].fingerprint)
                for one in found:
                    assert one.shared_rand_current is not None and one.shared_rand_previous is not None
                    [flags] = [router.flags for router in one.routers if router.rsa_id == marked]
                    [ipv6] = [one.ipv6 for one in one.routers if one.rsa_id.hex().upper() == dual.fingerprint]
                    assert ipv6 == ("::1", dual.orport6)
                    assert {"MiddleOnly", "BadExit"} <= flags and flags.isdisjoint({"Exit", "Guard", "HSDir"})
        for node in quorum.ctor.nodes:
            assert node.document_warnings() == []


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_a_whole_run_of_the_shared_random_protocol(tmp_path: Path) -> None:
    """Nobody has a value to begin with; after one run all have the same, of three reveals."""
    async with running_quorum(tmp_path, seed=False) as quorum:
        async with asyncio.timeout((2 * ROUNDS_A_RUN + 4) * 10):
            while True:
                found = await quorum.agreed("microdesc")
                values = {one.shared_rand_current for one in found}
                if len(values) == 1 and (value := values.pop()) is not None and value.reveals == 3:
                    break
                await asyncio.sleep(5)  # half a round; the authorities tell nobody of a new consensus
        assert_agreement(found, quorum)
        assert quorum.ctor.authorities[0].node.document_warnings() == []
