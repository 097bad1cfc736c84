"""Service and client together on a network of fake relays: the whole rendezvous without cells."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from pelure.errors import ConfigError, OnionServiceError, ProtocolError
from pelure.tor.cell.commands import RelayCommand
from pelure.tor.cell.extensions import DosParameters
from pelure.tor.circuit.events import RelayMessageReceived
from pelure.tor.client import hs
from pelure.tor.client import pow as client_pow
from pelure.tor.client.hs import OnionClient
from pelure.tor.client.hs_events import ClientEvent, PuzzleSolved
from pelure.tor.net import supervision, wallclock
from pelure.tor.onion.client_auth import ClientAuthKey
from pelure.tor.onion.intro_queue import PowLimits
from pelure.tor.onion.pow import ProofOfWork, Puzzle
from pelure.tor.onion.pow_seeds import PowSeeds
from pelure.tor.onion.second_layer import IntroPoint
from pelure.tor.relay.hsdir import DescriptorStore
from pelure.tor.service import intro_points, publisher
from pelure.tor.service.events import (
    DescriptorUploaded,
    IntroPointEstablished,
    IntroPointLost,
    Published,
    ServiceEvent,
)
from pelure.tor.service.keys import ServiceKeys
from pelure.tor.service.service import OnionService
from pelure.tor.service.targets import TcpTarget
from unit.tor.service.fake_network import NOW, VALID_AFTER, FakeCircuit, FakeNetDir, FakeNetwork

SECONDS = 30.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that stands, and retries that take no time."""
    monkeypatch.setattr("time.time", lambda: NOW)
    monkeypatch.setattr(intro_points, "RETRY_SECONDS_FIRST", 0.001)
    monkeypatch.setattr(publisher, "RETRY_SECONDS_FIRST", 0.001)
    monkeypatch.setattr(publisher, "RENEWAL_SECONDS_FIRST", 0.001)


@pytest.fixture
def network() -> FakeNetwork:
    return FakeNetwork()


@pytest.fixture
def events() -> list[ServiceEvent]:
    return []


@pytest.fixture
async def service(network: FakeNetwork, events: list[ServiceEvent]) -> AsyncIterator[OnionService]:
    running = OnionService(
        network,  # type: ignore[arg-type]
        network,  # type: ignore[arg-type]
        ServiceKeys.generate(os.urandom),
        {80: TcpTarget("127.0.0.1", 1)},
        on_event=events.append,
    )
    await running.start()
    async with asyncio.timeout(SECONDS):
        await running.published.wait()
    yield running
    await running.close()
    assert not running.connections()


def new_client(network: FakeNetwork, on_event: Callable[[ClientEvent], None] | None = None) -> OnionClient:
    return OnionClient(network, network, on_event=on_event)  # type: ignore[arg-type]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def connect(client: OnionClient, service: OnionService) -> FakeCircuit:
    async with asyncio.timeout(SECONDS):
        circuit = await client.connect(service.address)
    assert isinstance(circuit, FakeCircuit)
    return circuit


async def refused(client: OnionClient, address: str) -> int:
    with pytest.raises(OnionServiceError) as error:
        async with asyncio.timeout(SECONDS):
            await client.connect(address)
    return error.value.code


async def test_the_two_ends_share_keys(network: FakeNetwork, service: OnionService) -> None:
    steps: list[ClientEvent] = []
    circuit = await connect(new_client(network, steps.append), service)
    await until(lambda: len(service.connections()) == 1)
    other = next(one for one in network.circuits if one.id == service.connections()[0].id)
    assert circuit.hs_keys == other.hs_keys is not None
    assert circuit.sendme_inc == other.sendme_inc == 31
    assert {step.name for step in steps} == {
        "descriptor",
        "rendezvous_established",
        "introduced",
        "rendezvous",
    }


async def test_without_congestion_control_windows_are_fixed(network: FakeNetwork) -> None:
    assert network.netdir is not None
    network.netdir.params["cc_alg"] = 0
    service = OnionService(network, network, ServiceKeys.generate(os.urandom), {})  # type: ignore[arg-type]
    await service.start()
    await service.published.wait()
    assert (await connect(new_client(network), service)).sendme_inc is None
    await service.close()


async def test_both_descriptors_reach_every_directory(
    network: FakeNetwork, service: OnionService, events: list[ServiceEvent]
) -> None:
    assert sum(len(store) for store in network.stores.values()) == 16
    uploads = [event for event in events if isinstance(event, DescriptorUploaded)]
    assert len({upload.period for upload in uploads}) == 2
    assert {(upload.done, upload.total) for upload in uploads} >= {(8, 8)}
    assert [event.address for event in events if isinstance(event, Published)] == [service.address]
    assert len({e.relay for e in events if isinstance(e, IntroPointEstablished)}) == 3


async def test_a_replayed_introduction_is_not_answered(network: FakeNetwork, service: OnionService) -> None:
    await connect(new_client(network), service)
    await until(lambda: len(service.connections()) == 1)
    received = sum(circuit.purpose == "rendezvous" for circuit in network.circuits)
    for point in list(network.intro.values()):
        point.deliver(RelayCommand.INTRODUCE2, network.introductions[0])
    await connect(new_client(network), service)
    await until(lambda: len(service.connections()) == 2)
    assert sum(circuit.purpose == "rendezvous" for circuit in network.circuits) == received + 2


async def test_garbage_from_an_introduction_point_harms_nobody(
    network: FakeNetwork, service: OnionService
) -> None:
    for point in list(network.intro.values()):
        for data in (b"", bytes(20), os.urandom(300)):
            point.deliver(RelayCommand.INTRODUCE2, data)
    await connect(new_client(network), service)


async def test_an_introduction_point_has_nothing_else_to_say(
    network: FakeNetwork, service: OnionService
) -> None:
    """It could mark the circuit so; what is raised closes it."""
    for point in list(network.intro.values()):
        assert point.on_message is not None
        for command in (RelayCommand.INTRO_ESTABLISHED, RelayCommand.RENDEZVOUS2, RelayCommand.BEGIN, 254):
            with pytest.raises(ProtocolError, match="introduction point"):
                point.on_message(RelayMessageReceived(2, command, 0, b""))


async def test_rendezvous1_is_as_long_as_that_of_c_tor(
    network: FakeNetwork, service: OnionService, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []
    receive = network.receive

    def note(circuit: FakeCircuit, command: int, data: bytes) -> None:
        if command == RelayCommand.RENDEZVOUS1:
            lengths.append(len(data))
        receive(circuit, command, data)

    monkeypatch.setattr(network, "receive", note)
    await connect(new_client(network), service)
    await until(lambda: len(service.connections()) == 1)
    assert lengths == [168]


async def test_clients_are_authorized_live(network: FakeNetwork, service: OnionService) -> None:
    alice, bob = ClientAuthKey.generate(os.urandom), ClientAuthKey.generate(os.urandom)
    identity = service.keys.identity.public
    await service.add_clients({"alice": alice.public, "bob": bob.public})
    assert await refused(new_client(network), service.address) == 0xF4
    client = new_client(network)
    client.client_keys[identity] = [bob]
    circuit = await connect(client, service)
    await until(lambda: len(service.connections()) == 1)
    await service.remove_clients(["bob"])
    await service.rotate_intro_points()
    assert not circuit.closed.is_set()
    assert service.close_circuit(service.connections()[0].id)
    assert not service.close_circuit(10**9)
    assert await refused(client, service.address) == 0xF5  # the descriptor it still had is of no use
    other = new_client(network)
    other.client_keys[identity] = [alice]
    await connect(other, service)
    with pytest.raises(ConfigError):
        await service.add_clients({f"n{number}": alice.public for number in range(400)})
    with pytest.raises(ConfigError):
        await service.add_clients({"good": alice.public, "../bad": alice.public})
    assert list(service.keys.clients) == ["alice"]


async def test_whoever_loses_access_can_not_use_the_descriptor_at_hand(
    network: FakeNetwork, tmp_path: Path
) -> None:
    alice, bob = ClientAuthKey.generate(os.urandom), ClientAuthKey.generate(os.urandom)
    service = OnionService(
        network,  # type: ignore[arg-type]
        network,  # type: ignore[arg-type]
        ServiceKeys.create(tmp_path / "hs", os.urandom),
        {},
    )
    await service.start()
    await service.published.wait()
    anybody = new_client(network)
    await connect(anybody, service)
    elsewhere = ServiceKeys.load(tmp_path / "hs")  # another process

    elsewhere.add_client("alice", alice.public)
    assert await service.reload_clients() and not await service.reload_clients()
    assert await refused(anybody, service.address) == 0xF4
    client = new_client(network)
    client.client_keys[service.keys.identity.public] = [alice]
    await connect(client, service)

    points = set(network.intro)
    elsewhere.add_client("bob", bob.public)
    assert await service.reload_clients()
    assert set(network.intro) == points  # nobody lost anything

    elsewhere.remove_client("alice", os.urandom)
    assert await service.reload_clients()
    assert await refused(client, service.address) == 0xF5
    client.client_keys[service.keys.identity.public] = [bob]
    await connect(client, service)
    await service.close()


async def test_a_lost_circuit_leads_back_to_the_same_introduction_point(
    network: FakeNetwork, service: OnionService, events: list[ServiceEvent]
) -> None:
    before = set(network.intro)
    next(iter(network.intro.values())).close()
    await until(lambda: sum(isinstance(event, IntroPointEstablished) for event in events) == 4)
    assert set(network.intro) == before
    assert any(isinstance(event, IntroPointLost) for event in events)
    assert sum(isinstance(event, DescriptorUploaded) for event in events) == 16  # nothing to publish


async def test_a_network_that_was_away_gets_the_descriptors_anew(
    network: FakeNetwork, service: OnionService
) -> None:
    """Directories keep descriptors in memory: after a restart of the whole network none knows the service."""
    points = set(network.intro)
    network.stores = {relay: DescriptorStore() for relay in network.relays}
    for circuit in list(network.intro.values()):
        circuit.close("the network was restarted")
    await until(lambda: all(not circuit.closed.is_set() for circuit in network.intro.values()))
    assert set(network.intro) == points
    client = new_client(network)
    async with asyncio.timeout(SECONDS):
        while not await found(client, service):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def found(client: OnionClient, service: OnionService) -> bool:
    try:
        (await client.connect(service.address)).close()
    except OnionServiceError:
        return False
    return True


async def test_a_machine_that_slept_publishes_anew(
    service: OnionService, events: list[ServiceEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wallclock, "LOOK_SECONDS", 0.001)
    await service.republish()  # from here on the look-out for its time is a short one
    uploads = sum(isinstance(event, DescriptorUploaded) for event in events)
    monkeypatch.setattr("time.time", lambda: NOW + 7300)
    await until(lambda: sum(isinstance(event, DescriptorUploaded) for event in events) >= uploads + 16)


async def test_a_dead_introduction_point_is_replaced_and_published(
    network: FakeNetwork, service: OnionService, events: list[ServiceEvent]
) -> None:
    client = new_client(network)
    await connect(client, service)
    relay, _ = next(iter(network.intro))
    network.kill(relay)
    await until(lambda: sum(isinstance(event, IntroPointEstablished) for event in events) == 4)
    await connect(client, service)
    async with asyncio.timeout(SECONDS):
        while relay in [point.relay() for point in await points_of(client, service)]:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert len(await points_of(client, service)) == 3


async def points_of(client: OnionClient, service: OnionService) -> tuple[IntroPoint, ...]:
    descriptor = await client._descriptor(service.keys.identity.public, [], 1 << 64)
    return descriptor.content.intro_points


async def test_every_introduction_point_can_be_rotated(network: FakeNetwork, service: OnionService) -> None:
    old = dict(network.intro)
    await service.rotate_intro_points()
    assert all(circuit.closed.is_set() for circuit in old.values())
    live = [key for key, circuit in network.intro.items() if not circuit.closed.is_set()]
    assert len(live) == 3
    assert not set(live) & set(old)
    await connect(new_client(network), service)


async def test_rotations_asked_for_at_once_are_shared(network: FakeNetwork, service: OnionService) -> None:
    before = len(network.intro)
    await asyncio.gather(*(service.rotate_intro_points() for _ in range(10)))
    assert len(network.intro) - before <= 6  # the one that runs, and one for all who came meanwhile
    assert sum(not circuit.closed.is_set() for circuit in network.intro.values()) == 3
    await connect(new_client(network), service)


async def test_introduction_points_are_told_limits(network: FakeNetwork) -> None:
    service = OnionService(
        network,  # type: ignore[arg-type]
        network,  # type: ignore[arg-type]
        ServiceKeys.generate(os.urandom),
        {},
        intro_dos=DosParameters(25, 200),
    )
    await service.start()
    await service.published.wait()
    assert network.limits == [DosParameters(25, 200)] * 3
    await service.close()


async def test_introductions_with_proofs_of_work(
    network: FakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service suggests an effort, clients make it and get in; one that was not answered makes more."""
    efforts: list[int] = []
    use = PowSeeds.use

    def spy(seeds: PowSeeds, proof: ProofOfWork) -> None:
        use(seeds, proof)
        efforts.append(proof.effort)

    async def prove(puzzle: Puzzle, rng: Callable[[int], bytes], places: object) -> ProofOfWork | None:
        return await asyncio.to_thread(puzzle.solve, rng(16), lambda: True)  # no process to start

    monkeypatch.setattr(client_pow, "prove", prove)
    monkeypatch.setattr(PowSeeds, "use", spy)
    service = OnionService(
        network,  # type: ignore[arg-type]
        network,  # type: ignore[arg-type]
        ServiceKeys.generate(os.urandom),
        {},
        pow_limits=PowLimits(),
    )
    await service.start()
    async with asyncio.timeout(SECONDS):
        await service.published.wait()
    steps: list[ClientEvent] = []
    client = new_client(network, steps.append)
    await connect(client, service)
    assert efforts == []
    assert service._pow is not None
    service._pow._queue.suggested_effort = 2
    service._pow._renew_params()
    await service._publisher.settled()
    client.forget()
    await connect(client, service)
    client._unanswered.append((service.keys.identity.public, time.monotonic()))
    await connect(client, service)
    assert efforts == [2, 8]
    assert [step.effort for step in steps if isinstance(step, PuzzleSolved)] == efforts
    await until(lambda: len(service.connections()) == 3)
    await service.close()


async def test_a_useless_consensus_changes_nothing(network: FakeNetwork, service: OnionService) -> None:
    assert network.netdir is not None
    good = network.netdir
    network.change(FakeNetDir(network.relays, valid_after=5.0))
    network.netdir = good
    await connect(new_client(network), service)


async def test_a_client_with_an_old_descriptor_fetches_a_new_one(
    network: FakeNetwork, service: OnionService
) -> None:
    client = new_client(network)
    (await connect(client, service)).close()
    await service.rotate_intro_points()
    await connect(client, service)


async def test_a_directory_that_refuses_gets_a_newer_revision(
    network: FakeNetwork, service: OnionService
) -> None:
    """As when the same service ran elsewhere a moment ago, with the same clock."""
    twin_keys = ServiceKeys(service.keys.identity)
    await service.close()
    twin = OnionService(network, network, twin_keys, {})  # type: ignore[arg-type]
    await twin.start()
    async with asyncio.timeout(SECONDS):
        await twin.published.wait()
    await connect(new_client(network), twin)
    await twin.close()


async def test_time_periods_change(network: FakeNetwork, service: OnionService) -> None:
    """Ten minutes of consensuses, one every ten seconds; a period is four minutes long."""
    client = new_client(network)
    assert network.netdir is not None
    for step in range(1, 60):
        netdir = FakeNetDir(network.relays, VALID_AFTER + 10 * step)
        run = int(netdir.valid_after) // 240
        netdir.shared_rand_current, netdir.shared_rand_previous = (
            f"{run:032}".encode(),
            f"{run - 1:032}".encode(),
        )
        network.change(netdir)
        await service.republish()
        if step > 24:  # the first value is none of the series
            (await connect(client, service)).close()


async def test_two_hundred_clients_at_once(network: FakeNetwork, service: OnionService) -> None:
    client = new_client(network)
    circuits = await asyncio.gather(*(connect(client, service) for _ in range(200)))
    await until(lambda: len(service.connections()) == 200)
    keys = {circuit.hs_keys.forward_key for circuit in circuits if circuit.hs_keys is not None}
    assert len(keys) == 200


async def test_what_a_client_is_told_when_it_fails(network: FakeNetwork, service: OnionService) -> None:
    client = new_client(network)
    assert await refused(client, ServiceKeys.generate(os.urandom).address) == 0xF0
    assert await refused(client, "a" * 56 + ".onion") == 0xF6
    await service.close()
    assert await refused(client, service.address) == 0xF2


async def test_a_dead_rendezvous_point_is_replaced(network: FakeNetwork, service: OnionService) -> None:
    client = new_client(network)
    await connect(client, service)
    original = network.receive

    def kill_first(circuit: FakeCircuit, command: int, data: bytes) -> None:
        original(circuit, command, data)
        if command == RelayCommand.ESTABLISH_RENDEZVOUS:
            network.receive = original  # type: ignore[method-assign]
            circuit.close("the rendezvous point died")

    network.receive = kill_first  # type: ignore[method-assign]
    assert not (await connect(client, service)).closed.is_set()


async def test_an_introduction_point_that_lost_its_service_unnoticed(
    network: FakeNetwork, service: OnionService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The introductions are passed on to nobody: a newer descriptor leads to where the service is now."""
    monkeypatch.setattr(hs, "ANSWER_SECONDS", (0.05, SECONDS))
    client = new_client(network)
    (await connect(client, service)).close()
    stale = list(network.intro.items())
    await service.rotate_intro_points()
    for (relay, auth_key), _ in stale:
        network.intro[relay, auth_key] = FakeCircuit(network, [relay], "stale")
    await connect(client, service)


async def test_the_number_of_introduction_points_is_bounded(network: FakeNetwork) -> None:
    for count in (0, 21):
        with pytest.raises(ConfigError):
            OnionService(
                network,  # type: ignore[arg-type]
                network,  # type: ignore[arg-type]
                ServiceKeys.generate(os.urandom),
                {},
                intro_points=count,
            )


async def test_a_listener_that_fails_disturbs_nothing(network: FakeNetwork) -> None:
    def broken(event: ServiceEvent) -> None:
        raise RuntimeError("the listener's own trouble")

    service = OnionService(
        network,  # type: ignore[arg-type]
        network,  # type: ignore[arg-type]
        ServiceKeys.generate(os.urandom),
        {},
        on_event=broken,
    )
    await service.start()
    async with asyncio.timeout(SECONDS):
        await service.published.wait()
    await connect(new_client(network), service)
    await service.close()


@pytest.mark.parametrize(
    ("owner", "method", "job"),
    [
        (intro_points.IntroPoints, "_establish", "holding an introduction point"),
        (intro_points.IntroPoints, "_keep", "holding an introduction point"),
        (publisher.Publisher, "_distribute", "publishing"),
        (publisher.Publisher, "_report", "uploading the descriptor"),
    ],
)
async def test_a_bug_ends_no_part_of_the_service_for_good(
    network: FakeNetwork,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    owner: type,
    method: str,
    job: str,
) -> None:
    monkeypatch.setattr(supervision, "RESTART_SECONDS_FIRST", 0.001)
    right, failures = getattr(owner, method), [ZeroDivisionError(), ZeroDivisionError()]

    def fails_twice(*arguments: object) -> object:
        if failures:
            raise failures.pop()
        return right(*arguments)

    monkeypatch.setattr(owner, method, fails_twice)
    running = OnionService(
        network,  # type: ignore[arg-type]
        network,  # type: ignore[arg-type]
        ServiceKeys.generate(os.urandom),
        {80: TcpTarget("127.0.0.1", 1)},
    )
    await running.start()
    try:
        async with asyncio.timeout(SECONDS):
            await running.published.wait()
        await until(lambda: len(running._intro.listed) == 3 == len(running._intro._points))
        await connect(new_client(network), running)
    finally:
        await running.close()
    assert f"bug: {job}" in caplog.text
    assert 1 <= caplog.text.count("ZeroDivisionError\n") <= 2
