"""Proof of work between pelure and real C tor: puzzles solved by each are accepted by the other."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from interop.ctor import CTorNetwork, FileServer, curl, payload
from interop.onion_support import PelureNode, fetch, pelure_node, pelure_service
from interop.waiting import until
from pelure.errors import PelureError
from pelure.tor.cell.commands import RelayCommand
from pelure.tor.client.hs import OnionClient
from pelure.tor.client.hs_descriptors import ServiceDescriptor
from pelure.tor.client.hs_events import ClientEvent, PuzzleSolved
from pelure.tor.client.hs_rendezvous import reach
from pelure.tor.crypto.address import decode_address
from pelure.tor.crypto.keys import Rng
from pelure.tor.directory.relay import Relay
from pelure.tor.net.netdir_source import current_netdir
from pelure.tor.onion.intro_queue import UPDATE_SECONDS, PowLimits
from pelure.tor.onion.introduction import introduce
from pelure.tor.onion.pow import ProofOfWork, Puzzle
from pelure.tor.onion.pow_seeds import PowSeeds
from pelure.tor.onion.second_layer import IntroPoint
from pelure.tor.service import pow_defence
from pelure.tor.service.events import EffortSuggested, ServiceEvent
from pelure.tor.service.keys import ServiceKeys

pytestmark = [pytest.mark.ctor, pytest.mark.timeout(300)]

SIZE = 300_000
EFFORT = 40
FLOOD_EFFORT = 5


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


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_a_c_tor_service_under_a_flood(
    ctor_network: CTorNetwork, node: PelureNode, file_server: FileServer, tmp_path: Path
) -> None:
    """It suggests an effort at the end of its period of five minutes; both clients make it and get in."""
    log, client_log = tmp_path / "info.log", tmp_path / "client.log"
    service = await asyncio.to_thread(
        ctor_network.service,
        {80: file_server.port},
        extra=f"Log info file {log}",
        service_extra="HiddenServicePoWDefensesEnabled 1\n"
        "HiddenServicePoWQueueRate 1\nHiddenServicePoWQueueBurst 1",
    )
    events: list[ClientEvent] = []
    client = OnionClient(node.circuits, node.directory, on_event=events.append)
    ctor_client = await asyncio.to_thread(ctor_network.client, extra=f"Log info file {client_log}")
    try:
        descriptor = await client._descriptor(decode_address(service.address), [])
        flooding = asyncio.create_task(flood(node, descriptor))
        changed = "Suggested effort changed significantly"
        await until(lambda: changed in log.read_text(), "an effort to be suggested", 2 * UPDATE_SECONDS)
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
        await until(lambda: "low priority" not in log.read_text()[-2000:], "the queue to be short", 60)
        old = descriptor.revision_counter
        newer = await client._descriptor(decode_address(service.address), [], newer_than=old)
        assert newer.content.pow_params is not None
        assert newer.content.pow_params.effort > 0
        assert await fetch(client, service.address, SIZE) == payload(SIZE)[1]
        efforts = [event.effort for event in events if isinstance(event, PuzzleSolved)]
        assert efforts[0] == newer.content.pow_params.effort
        assert f"Dequeued pending rendezvous request with effort: {efforts[-1]}." in log.read_text()
        url = file_server.url(SIZE, service.address)
        fetched = await asyncio.to_thread(curl, url, ctor_client.socks, timeout=120)
        assert (fetched.status, fetched.sha256) == (200, payload(SIZE)[1])
        assert "Proof of work solution" in client_log.read_text()
    finally:
        ctor_client.stop()
        service.stop()


async def flood(node: PelureNode, descriptor: ServiceDescriptor) -> None:
    """Introduce nobody, three times a second, with little work, until cancelled."""
    params = descriptor.content.pow_params
    assert params is not None
    puzzle = Puzzle(descriptor.blinded_key, params.seed, FLOOD_EFFORT)
    points = itertools.cycle(descriptor.content.intro_points)
    relays = current_netdir(node.directory).relays
    introductions: set[asyncio.Task[None]] = set()
    while True:
        proof = await asyncio.to_thread(puzzle.solve, os.urandom(16), lambda: True)
        task = asyncio.create_task(introduce_nobody(node, next(points), descriptor, relays, proof))
        introductions.add(task)
        task.add_done_callback(introductions.discard)
        await asyncio.sleep(0.3)


async def introduce_nobody(
    node: PelureNode,
    point: IntroPoint,
    descriptor: ServiceDescriptor,
    relays: Sequence[Relay],
    proof: ProofOfWork | None,
) -> None:
    """Send an introduction for a cookie that no rendezvous point knows."""
    try:
        circuit = await reach(node.circuits, point)
        where = random.choice(relays)
        _, body = introduce(
            point,
            descriptor.subcredential,
            where,
            os.urandom(20),
            os.urandom,
            congestion_control=True,
            proof=proof,
        )
        circuit.send(RelayCommand.INTRODUCE1, body)
        await circuit.expect(RelayCommand.INTRODUCE_ACK, timeout=20)
        circuit.close()
    except PelureError:
        pass  # a flood loses some


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_a_pelure_service_under_a_flood(
    ctor_network: CTorNetwork,
    node: PelureNode,
    file_server: FileServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It comes to suggest more effort than the flood makes; both clients make it and get in."""
    monkeypatch.setattr(pow_defence, "UPDATE_SECONDS", 5.0)
    events: list[ServiceEvent] = []
    keys, limits = ServiceKeys.generate(os.urandom), PowLimits(rate=1, burst=1)
    async with pelure_service(node, keys, file_server.port, events.append, pow_limits=limits) as service:
        steps: list[ClientEvent] = []
        client = OnionClient(node.circuits, node.directory, on_event=steps.append)
        flooding = asyncio.create_task(flood(node, await client._descriptor(keys.identity.public, [])))
        defence = service._pow
        assert defence is not None
        await until(lambda: defence.params.effort > FLOOD_EFFORT, "more effort to be suggested", 400)
        await service._publisher.settled()
        waiting = len(defence._queue)
        client.forget()
        assert await fetch(client, service.address, SIZE) == payload(SIZE)[1]
        ctor_client = await asyncio.to_thread(ctor_network.client)
        url = file_server.url(SIZE, service.address)
        fetched = await asyncio.to_thread(curl, url, ctor_client.socks, timeout=120)
        ctor_client.stop()
        assert (fetched.status, fetched.sha256) == (200, payload(SIZE)[1])
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
    solved = [step.effort for step in steps if isinstance(step, PuzzleSolved)]
    assert waiting >= limits.low_level
    assert min(solved) > FLOOD_EFFORT
    assert any(isinstance(event, EffortSuggested) for event in events)
