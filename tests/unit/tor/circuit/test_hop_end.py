"""One end of a hop against whatever may come."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import ProtocolError
from pelure.tor.cell.commands import RelayCommand
from pelure.tor.circuit import events as ev
from pelure.tor.circuit.flowcontrol import CircuitWindow, FixedWindow, VegasWindow
from pelure.tor.circuit.hop_end import MAX_HALF_CLOSED, HopEnd
from pelure.tor.circuit.params import CircuitParams


def make(*, cc: bool, initiator: bool) -> HopEnd:
    params = CircuitParams()
    window: CircuitWindow = VegasWindow(params, onion=True) if cc else FixedWindow(params)

    def emit(bodies: np.ndarray) -> list[bytes]:
        return [bytes(20)] * len(bodies)

    return HopEnd(0, window, emit, os.urandom, initiator=initiator, xoff_limit=249_000)


message = st.tuples(
    st.one_of(st.sampled_from([1, 2, 2, 2, 3, 4, 5, 11, 12, 13, 43, 44]), st.integers(0, 255)),
    st.integers(0, 3),
    st.one_of(st.sampled_from([0, 1, 5, 23, 498]), st.integers(0, 65535)),
    st.binary(max_size=40),
)


@settings(deadline=None, max_examples=100)
@given(st.booleans(), st.booleans(), st.lists(message, min_size=1, max_size=30))
def test_any_run_of_messages(cc: bool, initiator: bool, messages: list[tuple[int, int, int, bytes]]) -> None:
    end = make(cc=cc, initiator=initiator)
    end._next_id = 0
    if initiator:
        for _ in range(2):
            end.open(RelayCommand.BEGIN, b"x:1\0")
    bodies = np.zeros((len(messages), 509), np.uint8)
    for row, (command, stream_id, length, data) in zip(bodies, messages, strict=True):
        head = bytes([command, 0, 0, 0, stream_id, 0, 0, 0, 0]) + length.to_bytes(2)
        row[: 11 + len(data)] = np.frombuffer(head + data, np.uint8)
    try:
        events = end.receive(bodies, [bytes(20)] * len(bodies), 0.0)
    except ProtocolError:
        return
    assert len(events) <= len(messages)


@settings(deadline=None, max_examples=100)
@given(st.booleans(), st.booleans(), st.lists(message, min_size=1, max_size=30))
def test_one_by_one_is_as_by_the_run(
    cc: bool, initiator: bool, messages: list[tuple[int, int, int, bytes]]
) -> None:
    together, apart = make(cc=cc, initiator=initiator), make(cc=cc, initiator=initiator)
    for end in (together, apart):
        end._next_id = 0
        if initiator:
            for _ in range(2):
                end.open(RelayCommand.BEGIN, b"x:1\0")
    heads = [bytes([c, 0, 0, 0, s, 0, 0, 0, 0]) + n.to_bytes(2) + data for c, s, n, data in messages]
    bodies = np.frombuffer(bytearray(b"".join(head.ljust(509, b"\0") for head in heads)), np.uint8)
    bodies = bodies.reshape(-1, 509)
    tags = [bytes([row]) * 20 for row in range(len(messages))]
    expected = outcome(lambda: together.receive(bodies, tags, 0.0))
    cells = zip(bodies, tags, strict=True)
    found = outcome(lambda: [e for body, tag in cells for e in apart.receive_one(bytearray(body), tag, 0.0)])
    assert found == expected
    if expected is not None:
        assert state(apart) == state(together)


def outcome(receive: Callable[[], list[ev.Event]]) -> list[str] | None:
    """The events in words, None for an error; by the run, data of one stream comes in one event."""
    try:
        events = [repr(event) for event in receive()]
    except ProtocolError:
        return None
    return [event for event, after in pairwise([*events, ""]) if event != after]


def state(end: HopEnd) -> object:
    streams = {stream.id: (stream.state, stream.buffered) for stream in end.streams.values()}
    return streams, end.window._received, end.window.room()


def test_ended_streams_are_forgotten_in_the_end() -> None:
    end = make(cc=True, initiator=True)
    for _ in range(MAX_HALF_CLOSED + 100):
        end.open(RelayCommand.BEGIN, b"x:1\0").end()
    assert len(end._half_closed) == MAX_HALF_CLOSED and end.streams == {}


def test_stream_ids_run_out_and_come_back() -> None:
    end = make(cc=True, initiator=True)
    end._next_id = 65533
    ids = [end.open(RelayCommand.BEGIN, b"x:1\0").id for _ in range(4)]
    assert ids == [65534, 65535, 1, 2]
