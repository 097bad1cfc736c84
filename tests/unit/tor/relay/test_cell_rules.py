"""Which cells a relay takes from its neighbours, and when (tor-spec 5.1, 5.3, 5.4, 5.6)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any
from unittest import mock

import numpy as np
import pytest

from pelure.errors import ProtocolError
from pelure.tor.cell.commands import CELL_LEN, CellCommand, DestroyReason, RelayCommand
from pelure.tor.cell.framing import Cell, Run
from pelure.tor.cell.linkspec import LinkSpecifier
from pelure.tor.cell.messages import Create2, Created2, CreateFast, Destroy
from pelure.tor.cell.relay_messages import Extend2
from pelure.tor.circuit.handshakes import HopSecrets
from pelure.tor.circuit.params import CircuitParams
from pelure.tor.circuit.relaycrypto import HopKeys
from pelure.tor.circuit.stream import State
from pelure.tor.crypto import ntor
from pelure.tor.net.queues import HIGH_WATER
from pelure.tor.relay.circuit import MAX_EARLY, RelayCircuit, Role
from pelure.tor.relay.creation import CircuitCreator
from pelure.tor.relay.next_hop import NextHop

BODY = bytes(509)
CREATED2 = Created2(b"reply").cell(7)


def run_of(*commands: CellCommand) -> Run:
    cells = np.zeros((len(commands), CELL_LEN), np.uint8)
    cells[:, 4] = commands
    return Run(7, cells)


# ---- from the next relay ----


@pytest.fixture
def circuit() -> mock.Mock:
    return mock.Mock(closed=False, host=mock.Mock(relayed_cells=0))


@pytest.fixture
def next_hop(circuit: mock.Mock) -> NextHop:
    return NextHop(circuit, mock.Mock(attach=mock.Mock(return_value=7)))


def test_the_next_relay_answers_once(circuit: mock.Mock, next_hop: NextHop) -> None:
    next_hop.handle(CREATED2)
    circuit.extended.assert_called_once_with(b"reply")
    with pytest.raises(ProtocolError):
        next_hop.handle(CREATED2)
    circuit.extended.assert_called_once()


@pytest.mark.parametrize(
    "item",
    [Cell(7, CellCommand.RELAY, BODY), run_of(CellCommand.RELAY, CellCommand.RELAY)],
    ids=["cell", "run"],
)
def test_no_relay_cell_comes_back_before_the_circuit_is_there(
    circuit: mock.Mock, next_hop: NextHop, item: Cell | Run
) -> None:
    with pytest.raises(ProtocolError):
        next_hop.handle(item)
    circuit.backward.assert_not_called()
    next_hop.handle(CREATED2)
    next_hop.handle(item)
    circuit.backward.assert_called_once_with(item)


@pytest.mark.parametrize(
    "item",
    [Cell(7, CellCommand.RELAY_EARLY, BODY), run_of(CellCommand.RELAY, CellCommand.RELAY_EARLY)],
    ids=["cell", "run"],
)
def test_no_relay_early_cell_comes_back(circuit: mock.Mock, next_hop: NextHop, item: Cell | Run) -> None:
    """They have been used to mark circuits for an accomplice."""
    next_hop.handle(CREATED2)
    with pytest.raises(ProtocolError):
        next_hop.handle(item)
    circuit.backward.assert_not_called()


@pytest.mark.parametrize(
    "command", [CellCommand.CREATED, CellCommand.CREATED_FAST, CellCommand.CREATE2, CellCommand.CREATE_FAST]
)
def test_other_cells_do_not_come_from_the_next_relay(next_hop: NextHop, command: CellCommand) -> None:
    with pytest.raises(ProtocolError):
        next_hop.handle(Cell(7, command, BODY))


def test_the_next_relay_may_end_the_circuit(circuit: mock.Mock, next_hop: NextHop) -> None:
    next_hop.handle(Cell(7, CellCommand.DESTROY, Destroy(DestroyReason.FINISHED).encode()))
    next_hop.link.detach.assert_called_once_with(7)  # type: ignore[attr-defined]
    circuit.next_lost.assert_called_once_with()


def test_nothing_goes_back_on_a_circuit_that_is_closed(circuit: mock.Mock, next_hop: NextHop) -> None:
    next_hop.handle(CREATED2)
    circuit.closed = True
    next_hop.handle(Cell(7, CellCommand.RELAY, BODY))
    next_hop.handle(Cell(7, CellCommand.CREATED2, BODY))
    circuit.backward.assert_not_called()


def test_what_is_passed_on_is_counted(circuit: mock.Mock, next_hop: NextHop) -> None:
    next_hop.send(Cell(1, CellCommand.RELAY, BODY))
    next_hop.send(run_of(CellCommand.RELAY, CellCommand.RELAY_EARLY))
    assert circuit.host.relayed_cells == 3
    assert [call.args[0].circ_id for call in next_hop.link.send.call_args_list] == [7, 7]  # type: ignore[attr-defined]


# ---- from the previous relay ----


def circuit_of(circ_id: int) -> RelayCircuit:
    keys = HopKeys.tor1(os.urandom(72))
    link = mock.Mock(send=mock.Mock(return_value=True), queued=mock.Mock(return_value=0))
    host = mock.Mock(relayed_cells=0, rng=os.urandom, params=CircuitParams())
    return RelayCircuit(host, link, circ_id, HopSecrets(keys, bytes(20), None), 0.0)


@pytest.fixture
def middle() -> RelayCircuit:
    """A circuit with a next hop, which is created."""
    made = circuit_of(7)
    made.next = NextHop(made, mock.Mock(attach=mock.Mock(return_value=8)))
    made.next.created = True
    return made


@pytest.mark.parametrize("lone", [True, False])
def test_so_many_relay_early_cells_may_pass_and_no_more(middle: RelayCircuit, lone: bool) -> None:
    early = CellCommand.RELAY_EARLY
    for _ in range(MAX_EARLY // 2):
        if lone:
            middle.handle(Cell(7, early, os.urandom(509)))
            middle.handle(Cell(7, early, os.urandom(509)))
        else:
            middle.handle(run_of(early, CellCommand.RELAY, early))
    middle.handle(Cell(7, CellCommand.RELAY, os.urandom(509)))
    with pytest.raises(ProtocolError):
        middle.handle(Cell(7, early, BODY) if lone else run_of(CellCommand.RELAY, early))


def test_eight_is_what_the_specification_says() -> None:
    assert MAX_EARLY == 8


@pytest.mark.parametrize("command", [CellCommand.CREATE2, CellCommand.CREATED2, CellCommand.CREATE_FAST])
def test_a_circuit_that_exists_is_not_created_again(middle: RelayCircuit, command: CellCommand) -> None:
    with pytest.raises(ProtocolError):
        middle.handle(Cell(7, command, BODY))


def test_cells_that_nobody_recognizes_need_somebody_further_on(middle: RelayCircuit) -> None:
    middle.next = None
    with pytest.raises(ProtocolError):
        middle.handle(Cell(7, CellCommand.RELAY, os.urandom(509)))
    middle._truncate()
    with pytest.raises(ProtocolError):  # there was nothing to cut off
        middle.handle(Cell(7, CellCommand.RELAY, os.urandom(509)))


def extend2() -> bytes:
    named = LinkSpecifier.address("192.0.2.1", 9001), LinkSpecifier.rsa(b"r" * 20)
    return Extend2(named, ntor.HANDSHAKE_TYPE, bytes(ntor.CLIENT_LEN)).encode()


def test_a_circuit_is_extended_where_it_ends_and_by_relay_early_cells(middle: RelayCircuit) -> None:
    with pytest.raises(ProtocolError):
        middle._handle_message(RelayCommand.EXTEND2, extend2(), True)
    middle.next = None
    with pytest.raises(ProtocolError):
        middle._handle_message(RelayCommand.EXTEND2, extend2(), False)
    for role in set(Role) - {Role.OPEN}:
        middle.role = role
        with pytest.raises(ProtocolError):
            middle._handle_message(RelayCommand.EXTEND2, extend2(), True)
    middle.role = Role.OPEN
    middle.streams[mock.Mock()] = mock.Mock()
    with pytest.raises(ProtocolError):
        middle._handle_message(RelayCommand.EXTEND2, extend2(), True)
    middle.streams.clear()
    middle._handle_message(RelayCommand.EXTEND2, extend2(), True)
    assert middle.next is not None and not middle.next.created
    assert middle.next.link.send.call_args.args[0].command == CellCommand.CREATE2  # type: ignore[attr-defined]


def test_a_circuit_that_is_truncated_ends_here(middle: RelayCircuit) -> None:
    behind = middle.next
    assert behind is not None
    middle._handle_message(RelayCommand.TRUNCATE, b"", False)
    behind.link.destroy.assert_called_once_with(8, DestroyReason.REQUESTED)  # type: ignore[attr-defined]
    assert middle.next is None and middle.is_free and middle.link.send.called  # type: ignore[attr-defined]
    middle.handle(Cell(7, CellCommand.RELAY, os.urandom(509)))  # it may have been on its way


def test_its_end_goes_on_without_the_reason(middle: RelayCircuit) -> None:
    """Which would mark the circuit for whoever is further on (tor-spec 5.4)."""
    behind = middle.next
    assert behind is not None
    middle.handle(Cell(7, CellCommand.DESTROY, Destroy(DestroyReason.REQUESTED).encode()))
    behind.link.destroy.assert_called_once_with(8, DestroyReason.DESTROYED)  # type: ignore[attr-defined]
    middle.host.circuit_closed.assert_called_once_with(middle)  # type: ignore[attr-defined]
    middle.handle(Cell(7, CellCommand.RELAY, os.urandom(509)))
    middle.handle(run_of(CellCommand.RELAY, CellCommand.RELAY))
    middle.link_closed("twice")
    behind.link.send.assert_not_called()  # type: ignore[attr-defined]
    middle.host.circuit_closed.assert_called_once()  # type: ignore[attr-defined]


def test_the_end_that_comes_from_ahead_goes_on_without_the_reason(middle: RelayCircuit) -> None:
    behind = middle.next
    assert behind is not None
    behind.handle(Cell(8, CellCommand.DESTROY, Destroy(DestroyReason.HIBERNATING).encode()))
    destroyed = middle.link.destroy  # type: ignore[attr-defined]
    destroyed.assert_called_once_with(7, DestroyReason.DESTROYED, drop_queued=False)
    assert middle.closed
    middle.host.circuit_closed.assert_called_once_with(middle)  # type: ignore[attr-defined]
    behind.link.destroy.assert_not_called()  # type: ignore[attr-defined]


@pytest.mark.parametrize("drop_queued", [True, False])
def test_what_waits_of_a_circuit_leaves_before_its_end_unless_there_is_no_room(
    middle: RelayCircuit, drop_queued: bool
) -> None:
    behind = middle.next
    assert behind is not None
    middle.close(DestroyReason.RESOURCELIMIT, drop_queued=drop_queued)
    middle.close(DestroyReason.RESOURCELIMIT, drop_queued=drop_queued)
    middle.link.destroy.assert_called_once_with(  # type: ignore[attr-defined]
        7, DestroyReason.RESOURCELIMIT, drop_queued=drop_queued
    )
    assert behind.link.queues.drop.called == drop_queued  # type: ignore[attr-defined]


def test_circuits_that_are_joined_pass_cells_to_each_other_and_end_together() -> None:
    client, service = circuit_of(1), circuit_of(2)
    client.join(service)
    assert not client.is_free and not service.is_free
    client.handle(Cell(1, CellCommand.RELAY_EARLY, os.urandom(509)))
    [sent] = [call.args[0] for call in service.link.send.call_args_list]  # type: ignore[attr-defined]
    assert (sent.circ_id, sent.command, service.host.relayed_cells) == (2, CellCommand.RELAY, 1)
    client.handle(run_of(CellCommand.RELAY, CellCommand.RELAY))
    run = service.link.send.call_args.args[0]  # type: ignore[attr-defined]
    assert (run.circ_id, len(run), service.host.relayed_cells) == (2, 2, 3)
    service.link_closed("gone")
    assert client.closed and client.joined is None is service.joined
    client.link.destroy.assert_called_once()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("own", "passed_on"),
    [
        ([], [4]),
        ([0], [3]),
        ([3], [3]),
        ([1], [1, 2]),
        ([1, 2], [1, 1]),
        ([0, 2], [1, 1]),
        ([0, 1, 2, 3], []),
    ],
)
def test_own_cells_are_taken_out_of_a_run(
    middle: RelayCircuit, own: Sequence[int], passed_on: list[int]
) -> None:
    bodies = np.zeros((len(own), 509), np.uint8)
    bodies[:, 0] = RelayCommand.DROP
    found = mock.Mock(rows=np.array(own, int), bodies=bodies, tags=[b""] * len(own))
    middle._crypto = mock.Mock(forward=mock.Mock(return_value=found if own else None))
    middle.handle(run_of(*[CellCommand.RELAY] * 4))
    assert middle.next is not None
    runs = [call.args[0] for call in middle.next.link.send.call_args_list]  # type: ignore[attr-defined]
    assert [len(run) for run in runs] == passed_on


@pytest.mark.parametrize("early", [True, False])
def test_a_message_in_a_run_is_early_if_its_own_cell_is(middle: RelayCircuit, early: bool) -> None:
    relay, marked = CellCommand.RELAY, CellCommand.RELAY_EARLY
    bodies = np.zeros((1, 509), np.uint8)
    bodies[0, 0] = RelayCommand.DROP
    found = mock.Mock(rows=np.array([1]), bodies=bodies, tags=[b""])
    middle._crypto = mock.Mock(forward=mock.Mock(return_value=found))
    with mock.patch.object(RelayCircuit, "_handle_message") as handle:
        middle.handle(run_of(relay, marked, relay) if early else run_of(marked, relay, marked))
    assert handle.call_args.args[2] == early


def test_nothing_is_passed_on_once_a_message_has_closed_the_circuit(middle: RelayCircuit) -> None:
    behind = middle.next
    bodies = np.zeros((1, 509), np.uint8)
    bodies[0, 0] = RelayCommand.DROP
    found = mock.Mock(rows=np.array([0]), bodies=bodies, tags=[b""])
    middle._crypto = mock.Mock(forward=mock.Mock(return_value=found))
    with mock.patch.object(RelayCircuit, "_handle_message", side_effect=lambda *_: middle.close(0)):
        middle.handle(run_of(CellCommand.RELAY, CellCommand.RELAY))
    assert behind is not None
    behind.link.send.assert_not_called()  # type: ignore[attr-defined]


def test_streams_send_no_more_than_the_link_takes(middle: RelayCircuit) -> None:
    middle.link.queued.return_value = HIGH_WATER - 3  # type: ignore[attr-defined]
    ended, open_one = mock.Mock(state=State.ENDED), mock.Mock(state=State.OPEN)
    middle.streams = {ended: mock.Mock(), open_one: mock.Mock()}
    middle.pump()  # before anybody spoke with this relay
    with mock.patch.object(middle, "_end") as end:
        end.pump.return_value = 2
        middle.pump()
        assert end.pump.call_args.args[1] == 3
        assert list(middle.streams) == [open_one] and middle.streams[open_one].room.called  # type: ignore[attr-defined]
        end.pump.reset_mock()
        middle.closed = True
        middle.pump()
        end.pump.assert_not_called()


# ---- circuits that are being created ----


@pytest.fixture
async def creator() -> CircuitCreator:
    circuits = mock.Mock(params=CircuitParams(), rng=os.urandom, has_room=mock.Mock(return_value=True))
    return CircuitCreator(circuits)


def peer() -> Any:
    """A link on which circuit 7 is asked for; ``adopt`` tells what it is given to."""
    return mock.Mock(address=("192.0.2.1", 9001))


async def test_create_cells_that_are_refused(creator: CircuitCreator) -> None:
    for cell, reason in (
        (Cell(7, CellCommand.CREATE, BODY), DestroyReason.PROTOCOL),
        (Cell(7, CellCommand.CREATE2, b"\0\2\2\0" + bytes(505)), DestroyReason.PROTOCOL),
    ):
        link = peer()
        creator.create_requested(link, cell)
        link.destroy.assert_called_once_with(7, reason)
    link = peer()
    creator._circuits.has_room = mock.Mock(return_value=False)  # type: ignore[method-assign]
    creator.create_requested(link, CreateFast(bytes(20)).cell(7))
    link.destroy.assert_called_once_with(7, DestroyReason.RESOURCELIMIT)
    creator._circuits.add.assert_not_called()  # type: ignore[attr-defined]


async def test_create_fast_is_answered_at_once(creator: CircuitCreator) -> None:
    link = peer()
    creator.create_requested(link, CreateFast(bytes(20)).cell(7))
    creator._circuits.add.assert_called_once()  # type: ignore[attr-defined]
    assert link.send.call_args.args[0].command == CellCommand.CREATED_FAST


async def test_only_its_end_may_come_before_a_circuit_is_created(creator: CircuitCreator) -> None:
    onionskin = Create2(ntor.HANDSHAKE_TYPE, bytes(ntor.CLIENT_LEN)).cell(7)
    for item, fails in (
        (Cell(7, CellCommand.DESTROY, Destroy(DestroyReason.FINISHED).encode()), False),
        (Cell(7, CellCommand.RELAY, BODY), True),
        (run_of(CellCommand.RELAY, CellCommand.RELAY), True),
        (onionskin, True),
    ):
        link = peer()
        creator.create_requested(link, onionskin)
        [(circ_id, pending)] = [call.args for call in link.adopt.call_args_list]
        assert circ_id == 7
        if fails:
            with pytest.raises(ProtocolError):
                pending.handle(item)
        else:
            pending.handle(item)
            link.detach.assert_called_once_with(7)
        with mock.patch.object(creator, "_handshake") as handshake:
            creator.queue._run()
            handshake.assert_not_called()
        link.send.assert_not_called()


async def test_a_link_that_is_lost_meanwhile_gets_no_answer(creator: CircuitCreator) -> None:
    link = peer()
    creator.create_requested(link, Create2(ntor.HANDSHAKE_TYPE, bytes(ntor.CLIENT_LEN)).cell(7))
    link.adopt.call_args.args[1].link_closed("lost")
    with mock.patch.object(creator, "_handshake") as handshake:
        creator.queue._run()
    handshake.assert_not_called()


async def test_an_onionskin_that_does_not_fit_ends_in_destroy(creator: CircuitCreator) -> None:
    link = peer()
    creator.create_requested(link, Create2(9, b"x").cell(7))
    creator.queue._run()
    link.destroy.assert_called_once_with(7, DestroyReason.PROTOCOL)
