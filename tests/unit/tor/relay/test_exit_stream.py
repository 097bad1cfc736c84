"""One connection of an exit: bytes pass as fast as both sides take them, no faster (tor-spec 6.2, 6.3)."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest import mock

import pytest

from pelure.tor.cell.commands import EndReason
from pelure.tor.circuit.stream import State
from pelure.tor.relay.exit import PENDING_HIGH, PENDING_LOW, ExitStream


class World:
    """A stream between a circuit and a connection, both of which only note what is done to them."""

    def __init__(self) -> None:
        self.exits = mock.Mock(buffer=memoryview(bytearray(b"bytes from the destination")), connections=set())
        self.circuit = mock.Mock(closed=False, streams={})
        self.endpoint: Any = mock.Mock(state=State.OPEN, pending=0, buffered=0)
        self.transport = mock.Mock(get_write_buffer_size=mock.Mock(return_value=0))
        self.transport.get_extra_info.return_value = None
        self.stream = ExitStream(self.exits, self.circuit, self.endpoint)
        self.stream.address = "192.0.2.1"
        self.exits.connections.add(self.stream)
        self.circuit.streams[self.endpoint] = self.stream

    def connect(self) -> World:
        self.stream.connection_made(self.transport)
        return self

    def hold(self, data: bytes) -> None:
        """Bytes of the client wait in the circuit's stream."""
        self.endpoint.buffered = len(data)

        def read(limit: int) -> bytes:
            self.endpoint.buffered = 0
            return data[:limit]

        self.endpoint.read.side_effect = read


@pytest.fixture
def world() -> World:
    return World()


def test_the_client_is_told_and_what_it_sent_ahead_goes_out(world: World) -> None:
    world.hold(b"ahead")
    world.stream.readable()  # nothing is connected yet
    assert not world.endpoint.read.called
    world.connect()
    assert world.endpoint.accept.call_args.args[0] == bytes([192, 0, 2, 1]) + (300).to_bytes(4)
    world.transport.write.assert_called_once_with(b"ahead")


def test_bytes_of_the_client_wait_while_the_destination_takes_no_more(world: World) -> None:
    world.connect()
    world.stream.pause_writing()
    world.hold(b"later")
    world.stream.readable()
    assert not world.transport.write.called
    world.stream.resume_writing()
    world.transport.write.assert_called_once_with(b"later")
    world.stream.readable()
    world.transport.write.assert_called_once()


def test_bytes_of_the_destination_wait_while_the_circuit_takes_no_more(world: World) -> None:
    world.connect()
    world.endpoint.pending = PENDING_HIGH
    world.stream.buffer_updated(5)
    world.endpoint.write.assert_called_once_with(b"bytes")
    assert world.circuit.pump.called and not world.transport.pause_reading.called
    world.endpoint.pending = PENDING_HIGH + 1
    world.stream.buffer_updated(5)
    world.stream.buffer_updated(5)
    world.transport.pause_reading.assert_called_once()
    world.endpoint.pending = PENDING_LOW + 1
    world.stream.room()
    assert not world.transport.resume_reading.called
    world.endpoint.pending = PENDING_LOW
    world.stream.room()
    world.stream.room()
    world.transport.resume_reading.assert_called_once()


def test_what_waits_in_it(world: World) -> None:
    world.endpoint.pending, world.endpoint.buffered = 1, 20
    assert world.stream.waiting == 21
    world.connect()
    world.transport.get_write_buffer_size.return_value = 300
    assert world.stream.waiting == 321


async def test_the_client_s_last_bytes_still_go_out(world: World) -> None:
    world.connect().hold(b"last")
    world.transport.get_write_buffer_size.return_value = 4
    with mock.patch.object(asyncio.get_running_loop(), "call_later") as later:
        world.stream.ended()
    world.transport.write.assert_called_once_with(b"last")
    world.transport.close.assert_called_once()
    assert later.call_args.args[1] == world.transport.abort, "but not for ever"
    world.stream.buffer_updated(5)
    world.stream.connection_lost(None)
    assert not world.endpoint.write.called and not world.endpoint.finish.called
    assert not world.exits.connections


def test_a_connection_that_comes_too_late_is_dropped(world: World) -> None:
    world.stream.attempt = mock.Mock()
    world.stream.ended()
    world.stream.attempt.cancel.assert_called_once()
    world.connect()
    world.transport.abort.assert_called_once()
    assert not world.endpoint.accept.called and world.stream.connected


@pytest.mark.parametrize(
    ("error", "reason"), [(None, EndReason.DONE), (ConnectionResetError(), EndReason.CONNRESET)]
)
@pytest.mark.parametrize("left", [True, False])
def test_the_destination_s_last_bytes_leave_before_end(
    world: World, error: Exception | None, reason: EndReason, left: bool
) -> None:
    world.connect()
    world.endpoint.state = State.OPEN if left else State.ENDED  # as ``finish`` leaves it
    world.stream.connection_lost(error)
    world.endpoint.finish.assert_called_once_with(reason)
    assert (world.endpoint in world.circuit.streams) == world.circuit.pump.called == left
    assert not world.exits.connections


def test_a_circuit_that_is_closed_is_told_nothing(world: World) -> None:
    world.connect()
    world.circuit.closed = True
    world.stream.connection_lost(None)
    world.stream.refuse(EndReason.MISC)
    assert not world.endpoint.finish.called and not world.endpoint.end.called
    assert not world.circuit.streams
