"""Who gives way when a relay's queues and streams take too much memory."""

from __future__ import annotations

from unittest import mock

from pelure.tor.cell.commands import DestroyReason
from pelure.tor.net.queues import CellQueues
from pelure.tor.relay import memory
from pelure.tor.relay.circuit import RelayCircuit
from pelure.tor.relay.hsdir import DescriptorStore

from .support import NOW, make_descriptor


def with_streams(size: int) -> mock.Mock:
    """A circuit with ``size`` bytes in its streams."""
    return mock.Mock(spec=RelayCircuit, streams={1: mock.Mock()}, stream_bytes=size)


def waiting_circuit(cells: int, since: float) -> tuple[mock.Mock, mock.Mock]:
    """A link with ``cells`` cells queued at ``since`` for its one circuit, and that circuit."""
    queues = CellQueues()
    queues.put(7, bytes(514 * cells), cells, since)
    circuit = mock.Mock(spec=RelayCircuit, streams={})
    return mock.Mock(queues=queues, handler=lambda _: circuit, queued=queues.queued), circuit


def test_the_circuits_whose_cells_wait_longest_go_first_and_no_more_than_needed() -> None:
    pairs = [waiting_circuit(100, since) for since in (5.0, 3.0, 9.0, 4.0)]
    links, circuits = [link for link, _ in pairs], [circuit for _, circuit in pairs]
    store = DescriptorStore()
    assert memory.relieve(links, circuits, store, memory.queued_bytes(links), NOW) == 0, "not too much yet"
    assert memory.relieve(links, circuits, store, 100 * 514 * 3, NOW) == 2
    assert [circuit.close.called for circuit in circuits] == [False, True, False, True]
    circuits[1].close.assert_called_once_with(DestroyReason.RESOURCELIMIT, drop_queued=True)


def test_what_waits_in_streams_counts_beside_queued_cells() -> None:
    pairs = [waiting_circuit(100, since) for since in (5.0, 3.0, 9.0, 4.0)]
    links, circuits = [link for link, _ in pairs], [circuit for _, circuit in pairs]
    reader = with_streams(100_000)
    limit = memory.queued_bytes(links) + 90_000
    assert memory.relieve(links, [*circuits, reader], DescriptorStore(), limit, NOW) == 1
    assert [circuit.close.called for circuit in [*circuits, reader]] == [False, True, False, False, False]


def test_the_circuits_with_most_in_their_streams_go_until_half_of_the_limit_is_left() -> None:
    circuits = [with_streams(size) for size in (50_000, 200_000, 10_000, 100_000)]
    assert memory.relieve([], circuits, DescriptorStore(), 250_000, NOW) == 2
    assert [circuit.close.called for circuit in circuits] == [False, True, False, True]


def test_many_circuits_with_a_cell_each_cost_more_than_their_cells() -> None:
    pairs = [waiting_circuit(1, float(since)) for since in range(20)]
    links, circuits = [link for link, _ in pairs], [circuit for _, circuit in pairs]
    assert memory.queued_bytes(links) == 20 * (514 + memory.QUEUE_OVERHEAD)
    limit = memory.queued_bytes(links) - 1
    assert memory.relieve(links, circuits, DescriptorStore(), limit, NOW) == 3, "a tenth and a byte"


def test_cells_whose_circuit_is_gone_are_dropped() -> None:
    link, _ = waiting_circuit(100, 3.0)
    link.handler = lambda _: None
    assert memory.relieve([link], [], DescriptorStore(), 50_000, NOW) == 0
    assert link.queues.cells == 0


def test_uploaded_descriptors_go_before_circuits() -> None:
    store = DescriptorStore()
    for _ in range(20):
        store.store(make_descriptor(1, b"x" * 5000), NOW)
    link, circuit = waiting_circuit(50, 3.0)
    assert memory.relieve([link], [circuit], store, 100_000, NOW) == 0
    assert store.size <= 20_000 and not circuit.close.called
