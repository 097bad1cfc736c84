"""Proof of work between pelure and real C tor: puzzles solved by each are accepted by the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from interop.ctor import CTorNetwork, FileServer, payload
from interop.onion_support import PelureNode, fetch, pelure_node
from pelure.tor.client.hs import OnionClient
from pelure.tor.client.hs_events import ClientEvent, PuzzleSolved
from pelure.tor.crypto.address import decode_address

pytestmark = [pytest.mark.ctor, pytest.mark.timeout(300)]

SIZE = 300_000


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
