"""A C tor client whose streams take the circuit that the benchmark builds: for measuring one relay."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import stem
from benchmarks.support.fetching import Via
from benchmarks.support.harness import Client, CTorNetwork
from benchmarks.support.namespace import BenchmarkError
from stem.control import EventType
from stem.response.events import StreamEvent

BUILD_SECONDS = 90.0
RETRY_SECONDS = 0.5


@contextmanager
def pinned_client(network: CTorNetwork) -> Iterator[Client]:
    """A client that leaves its streams to :func:`circuit`; one leg for each, no conflux."""
    client = network.client(extra="ConfluxEnabled 0\n__LeaveStreamsUnattached 1")
    try:
        yield client
    finally:
        client.stop()


@contextmanager
def circuit(client: Client, path: Sequence[str]) -> Iterator[Via]:
    """A circuit through the relays of these fingerprints; all streams of the client take it meanwhile."""
    controller = client.node.controller
    number = _build(client, path)

    def attach(event: StreamEvent) -> None:
        if event.status == "NEW":
            controller.attach_stream(event.id, number)

    controller.add_event_listener(attach, EventType.STREAM)
    try:
        yield Via(client.socks)
    finally:
        controller.remove_event_listener(attach)
        with suppress(stem.ControllerError):  # it may have ended by itself
            controller.close_circuit(number)


def _build(client: Client, path: Sequence[str]) -> str:
    """Build it; a client that has just bootstrapped may lack a relay's microdescriptor yet."""
    deadline = time.monotonic() + BUILD_SECONDS
    while True:
        try:
            return str(client.node.controller.new_circuit(list(path), await_build=True, timeout=30))
        except (stem.InvalidRequest, stem.CircuitExtensionFailed, stem.Timeout) as error:
            if time.monotonic() > deadline:
                raise BenchmarkError(f"no circuit through {' '.join(path)}: {error}") from None
            time.sleep(RETRY_SECONDS)
