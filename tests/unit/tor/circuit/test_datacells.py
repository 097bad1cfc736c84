"""DATA cells built by the run hold exactly what was written, with headers as single messages have them."""

from __future__ import annotations

import os

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.tor.cell.commands import RelayCommand
from pelure.tor.cell.relay_header import RelayMessage, decode_relay_body
from pelure.tor.circuit.datacells import RANDOM_INTERVAL, SHORT_LEN, DataBuilder, message_bodies


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(1, 90_000), st.integers(1, 200)), min_size=1, max_size=6))
def test_all_bytes_in_order(writes: list[tuple[int, int]]) -> None:
    builder = DataBuilder(os.urandom)
    for size, limit in writes:
        data = os.urandom(size)
        bodies, taken = builder.build(0x1234, memoryview(data), limit)
        assert 1 <= len(bodies) <= limit
        messages = [decode_relay_body(body.tobytes()) for body in bodies]
        assert {(message.command, message.stream_id) for message in messages} == {(RelayCommand.DATA, 0x1234)}
        assert b"".join(message.data for message in messages) == data[:taken]
        assert taken == size or len(bodies) == limit
        assert all(message.data for message in messages)


def test_short_cells_come_often_enough_and_not_too_often() -> None:
    builder = DataBuilder(os.urandom)
    lengths: list[int] = []
    for _ in range(100):
        bodies, _ = builder.build(1, memoryview(bytes(498 * 37)), 37)
        lengths += (bodies[:, 9:11].astype(int) @ [256, 1]).tolist()
    short = np.flatnonzero(np.array(lengths) <= SHORT_LEN)
    gaps = np.diff(short)
    assert gaps.min() >= RANDOM_INTERVAL and gaps.max() <= 2 * RANDOM_INTERVAL


def test_the_padding_of_a_short_cell_is_four_zeros_then_random() -> None:
    builder = DataBuilder(lambda count: b"\xaa" * count)
    bodies, _ = builder.build(1, memoryview(b"hello"), 1)
    assert bodies[0, 11:].tobytes() == b"hello" + bytes(4) + b"\xaa" * (498 - 9)
    for length in range(490, 499):
        bodies, _ = builder.build(1, memoryview(b"x" * length), 1)
        padding = bodies[0, 11 + length :].tobytes()
        assert padding == (bytes(4) + b"\xaa" * 498)[: len(padding)]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(1, 3000), st.booleans()), min_size=1, max_size=60))
def test_lone_cells_are_those_of_runs(writes: list[tuple[int, bool]]) -> None:
    """Two builders, one of which builds some of its data cell by cell."""
    one, other = (DataBuilder(lambda count: bytes([count % 251]) * count) for _ in range(2))
    for size, lone in writes:
        data = os.urandom(size)
        bodies, taken = one.build(9, memoryview(data), 7)
        if lone:
            built, position = b"", 0
            while position < taken:
                body, held = other.build_one(9, memoryview(data)[position:])
                built, position = built + body[:509], position + held
        else:
            again, position = other.build(9, memoryview(data), 7)
            built = again.tobytes()
        assert position == taken and built == bodies.tobytes()


def test_several_messages_at_once() -> None:
    bodies = message_bodies(RelayCommand.SENDME, b"aaabbb", 2, os.urandom)
    messages = [decode_relay_body(body.tobytes()) for body in bodies]
    assert messages == [
        RelayMessage(RelayCommand.SENDME, 0, b"aaa"),
        RelayMessage(RelayCommand.SENDME, 0, b"bbb"),
    ]
