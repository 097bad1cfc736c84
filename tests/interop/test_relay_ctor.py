"""Pelure relays in a network of C tor: accepted by its authorities, used by its clients in every position."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest
import stem
from stem.control import EventType

from interop.ctor import Client, CTorNetwork, FileServer, curl, payload
from interop.pelure_relays import PelureRelays

pytestmark = [pytest.mark.ctor, pytest.mark.timeout(400)]

RELAYS = 6
SIZE = 3_000_000


@pytest.fixture(scope="module")
def mixed() -> Iterator[tuple[CTorNetwork, PelureRelays]]:
    """Three C tor authorities, four C tor relays, six pelure relays; all in the consensus."""
    network = CTorNetwork(relays=4)
    try:
        # They come first: C tor clients take only "Stable" relays as guards, those that have run for longest.
        with PelureRelays(network.network_torrc, network.folder, RELAYS) as relays:
            network.measure(*relays.fingerprints)
            network.start()
            network.wait_ready(relays.fingerprints)
            yield network, relays
    finally:
        network.stop()


@pytest.fixture(scope="module")
def pinned_client(mixed: tuple[CTorNetwork, PelureRelays]) -> Iterator[Client]:
    """A C tor client whose streams go where a test attaches them."""
    client = mixed[0].client(extra="ConfluxEnabled 0")
    client.node.controller.set_conf("__LeaveStreamsUnattached", "1")
    yield client
    client.stop()


def build(client: Client, path: list[str], seconds: float = 120.0) -> str:
    """A circuit along ``path``; a client that just bootstrapped may lack a relay's microdescriptor yet."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            circuit = client.node.controller.new_circuit(path, await_build=True, timeout=60)
        except (stem.InvalidRequest, stem.CircuitExtensionFailed):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return str(circuit)


def fetch_along(client: Client, path: list[str], server: FileServer) -> None:
    """Build a circuit along ``path`` (fingerprints) and fetch the payload through it."""
    controller = client.node.controller
    circuit = build(client, path)

    def attach(event: stem.response.events.StreamEvent) -> None:
        if event.status == "NEW":
            controller.attach_stream(event.id, circuit)

    controller.add_event_listener(attach, EventType.STREAM)
    try:
        fetched = curl(server.url(SIZE), client.socks, timeout=60)
        assert fetched.sha256 == payload(SIZE)[1]
    finally:
        controller.remove_event_listener(attach)
        with contextlib.suppress(stem.ControllerError):
            controller.close_circuit(circuit)


def test_authorities_give_every_flag(mixed: tuple[CTorNetwork, PelureRelays]) -> None:
    network, relays = mixed
    for index in range(len(network.authorities)):
        flags = network.consensus_flags(index)
        for fingerprint in relays.fingerprints:
            assert flags[fingerprint] >= {"Running", "Valid", "Fast", "Guard", "HSDir", "Exit", "V2Dir"}


@pytest.mark.parametrize("position", ["guard", "middle", "exit"])
def test_a_pinned_circuit_carries_a_file(
    mixed: tuple[CTorNetwork, PelureRelays], pinned_client: Client, file_server: FileServer, position: str
) -> None:
    network, relays = mixed
    others = [network.relays[0].fingerprint, network.relays[1].fingerprint]
    index = {"guard": 0, "middle": 1, "exit": 2}[position]
    mine = relays.servers[index]
    before = mine.statistics()
    fetch_along(pinned_client, [*others[:index], mine.fingerprint, *others[index:]], file_server)
    after = relays.look(lambda server: server.statistics())[index]
    if position == "exit":
        assert after["exit_streams"] > before["exit_streams"]
    else:
        assert after["relayed_cells"] - before["relayed_cells"] > SIZE / 498


def test_a_whole_path_of_pelure_relays(
    mixed: tuple[CTorNetwork, PelureRelays], pinned_client: Client, file_server: FileServer
) -> None:
    fetch_along(pinned_client, mixed[1].fingerprints[:3], file_server)


def meet_avoiding_ctor_relays(network: CTorNetwork, file_server: FileServer) -> None:
    avoid = "ExcludeNodes " + ",".join(one.fingerprint for one in [*network.authorities, *network.relays])
    service = network.service({80: file_server.port}, extra=avoid)
    client = network.client(extra=avoid)
    try:
        fetched = curl(file_server.url(SIZE, service.address), client.socks, timeout=180)
        assert fetched.sha256 == payload(SIZE)[1]
    finally:
        client.stop()
        service.stop()


def test_an_onion_service_of_c_tor_meets_its_client_on_pelure_relays(
    mixed: tuple[CTorNetwork, PelureRelays], file_server: FileServer
) -> None:
    """Both sides avoid every C tor relay, so that introduction and rendezvous points are pelure's.

    A client asks one of an address's six HSDirs: C tor's if there is no pelure relay among them, or none
    whose keys it knows yet. Then another address is tried.
    """
    network, relays = mixed
    for _ in range(4):
        meet_avoiding_ctor_relays(network, file_server)
        if relays.total("descriptors_fetched"):
            break
    assert relays.total("descriptors_stored") >= 1
    assert relays.total("descriptors_fetched") >= 1
    assert relays.total("introductions") >= 1
    assert relays.total("rendezvous") >= 1


def test_a_client_bootstraps_from_pelure_directory_caches(mixed: tuple[CTorNetwork, PelureRelays]) -> None:
    network, relays = mixed
    before = relays.total("directory_requests")
    fallbacks = "\n".join(
        f"FallbackDir 127.0.0.1:{server.orport} orport={server.orport} id={server.fingerprint}"
        for server in relays.servers
    )
    client = network.client(extra=f"{fallbacks}\nUseDefaultFallbackDirs 0", wait=False)
    try:
        client.node.wait_bootstrapped()
        # Clients ask their directory guards, any of the relays, for the next consensus too.
        deadline = time.monotonic() + 120
        while relays.total("directory_requests") == before and time.monotonic() < deadline:
            time.sleep(0.5)
        assert relays.total("directory_requests") > before
        assert "malformed" not in client.node.log().lower()
    finally:
        client.stop()


def test_relays_of_c_tor_let_a_new_relay_find_out_that_it_can_be_reached(
    mixed: tuple[CTorNetwork, PelureRelays],
) -> None:
    """The last test of this file: its relay is gone afterwards, and clients must not choose it."""
    network = mixed[0]
    torrc, folder = network.network_torrc, network.folder
    with PelureRelays(torrc, folder, 1, prefix="tested", assume_reachable=False) as relays:
        deadline = time.monotonic() + 200
        names: list[str] = []
        while "reachable" not in names and time.monotonic() < deadline:
            time.sleep(0.2)
            names = [event for event, _ in relays.events]
        assert "published" not in names[: names.index("reachable")]
        while "published" not in names and time.monotonic() < deadline:
            time.sleep(0.2)
            names = [event for event, _ in relays.events]
        assert "published" in names
