"""Proof of work between pelure and real C tor: puzzles solved by each are accepted by the other."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from interop.ctor import CTorNetwork, FileServer, curl, payload
from interop.onion_support import PelureNode, fetch, pelure_node, pelure_service
from pelure.tor.client.hs import OnionClient
from pelure.tor.client.hs_events import ClientEvent, PuzzleSolved
from pelure.tor.crypto.address import decode_address
from pelure.tor.crypto.keys import Rng
from pelure.tor.onion.intro_queue import PowLimits
from pelure.tor.onion.pow import ProofOfWork
from pelure.tor.onion.pow_seeds import PowSeeds
from pelure.tor.service.keys import ServiceKeys

pytestmark = [pytest.mark.ctor, pytest.mark.timeout(300)]

SIZE = 300_000
EFFORT = 40


class CountedSeeds(PowSeeds):
    """Tells the effort of each proof that was right."""

    def __init__(self, rng: Rng, now: float, efforts: list[int]) -> None:
        super().__init__(rng, now)
        self._efforts = efforts

    def use(self, proof: ProofOfWork) -> None:
        super().use(proof)
        self._efforts.append(proof.effort)


@pytest.fixture
async def node(ctor_network: CTorNetwork, tmp_path: Path) -> AsyncIterator[PelureNode]:
    async with pelure_node(ctor_network, tmp_path / "state") as running:
        yield running


async def test_a_c_tor_service_takes_proofs(
    ctor_network: CTorNetwork, node: PelureNode, file_server: FileServer, tmp_path: Path
) -> None:
    """While its descriptor suggests no effort none is made; after an introduction without answer some is."""
    log = tmp_path / "info.log"
    service = await asyncio.to_thread(
        ctor_network.service,
        {80: file_server.port},
        extra=f"Log info file {log}",
        service_extra="HiddenServicePoWDefensesEnabled 1",
    )
    events: list[ClientEvent] = []
    client = OnionClient(node.circuits, node.directory, on_event=events.append)
    try:
        assert await fetch(client, service.address, SIZE) == payload(SIZE)[1]
        assert not any(isinstance(event, PuzzleSolved) for event in events)
        client._unanswered.append((decode_address(service.address), time.monotonic()))
        assert await fetch(client, service.address, SIZE) == payload(SIZE)[1]
        assert [event.effort for event in events if isinstance(event, PuzzleSolved)] == [8]
        lines = log.read_text()
        assert lines.count("PoW INTRODUCE2 request successfully verified") == 1
        assert "Enqueued rendezvous request with effort: 8." in lines
    finally:
        service.stop()


async def test_a_c_tor_client_solves_a_pelure_services_puzzle(
    ctor_network: CTorNetwork, node: PelureNode, file_server: FileServer, tmp_path: Path
) -> None:
    efforts: list[int] = []
    keys, limits, log = ServiceKeys.generate(os.urandom), PowLimits(), tmp_path / "info.log"
    async with pelure_service(node, keys, file_server.port, pow_limits=limits) as service:
        defence = service._pow
        assert defence is not None
        defence._seeds = CountedSeeds(os.urandom, time.time(), efforts)
        defence._queue.suggested_effort = EFFORT
        defence._renew_params()
        await service._publisher.settled()
        ctor_client = await asyncio.to_thread(ctor_network.client, extra=f"Log info file {log}")
        try:
            url = file_server.url(SIZE, service.address)
            fetched = await asyncio.to_thread(curl, url, ctor_client.socks, timeout=120)
        finally:
            ctor_client.stop()
        assert (fetched.status, fetched.sha256) == (200, payload(SIZE)[1])
        client = OnionClient(node.circuits, node.directory)
        assert await fetch(client, service.address, SIZE) == payload(SIZE)[1]
    assert f"Proof of work solution (effort {EFFORT}) found" in log.read_text()
    assert len(efforts) >= 2, "one proof by each client at least"
    assert min(efforts) == EFFORT
