"""Protomux channels (HYPER-FACTS section 6) against npm's bytes, paired with each other, and abused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import ProtocolError
from pelure.hyper.encoding.compact import Reader, encode_uint
from pelure.hyper.wire import protomux
from pelure.hyper.wire.protomux import BATCH_BYTES, Mux

VECTORS = json.loads((Path(__file__).parents[3] / "vectors" / "hyper" / "wire.json").read_text())
NAME = ("hypercore/alpha", b"\x01" * 32)
OTHER = ("hypercore/alpha", b"\x02" * 32)


class Recorder:
    """A channel handler that writes down what happens."""

    def __init__(self) -> None:
        self.events: list[tuple] = []

    def on_open(self, handshake: Reader) -> None:
        self.events.append(("open", handshake.rest()))

    def on_message(self, kind: int, body: Reader) -> None:
        self.events.append((kind, body.rest()))

    def on_close(self) -> None:
        self.events.append(("close",))


class Side:
    """A mux that opens, in answer, the names in ``known``."""

    def __init__(self, *known: tuple[str, bytes | None]) -> None:
        self.known = set(known)
        self.paired = Recorder()
        self.mux = Mux(self._pair, {"hypercore": "hypercore/alpha"})

    def _pair(self, name: tuple[str, bytes | None]) -> None:
        if name in self.known:
            self.mux.open(name, b"answer", self.paired)


def taken(mux: Mux) -> list[bytes]:
    """The messages that are queued."""
    return [b"".join(pieces) for pieces in mux.take_output()]


def exchange(one: Side, other: Side) -> None:
    """Carry messages between both until there are none left."""
    while (out := taken(one.mux)) + (back := taken(other.mux)):
        for message in out:
            other.mux.receive(message)
        for message in back:
            one.mux.receive(message)


def test_bytes_are_npm_s() -> None:
    side = Side()
    written = []
    one = side.mux.open(NAME, b"", Recorder())
    written += taken(side.mux)
    two = side.mux.open(OTHER, b"", Recorder())
    written += taken(side.mux)
    one.send(1, b"alone")
    written += taken(side.mux)
    one.send(0, b"a")
    one.send(1, b"bc")
    two.send(1, b"d" * 300)
    written += taken(side.mux)
    two.close()
    written += taken(side.mux)
    assert [message.hex() for message in written] == VECTORS["protomux"]["written"]


def test_npm_s_bytes_are_understood() -> None:
    side = Side(NAME, OTHER)
    for message in VECTORS["protomux"]["written"]:
        side.mux.receive(bytes.fromhex(message))
    assert side.paired.events == [
        ("open", b""),
        ("open", b""),
        (1, b"alone"),
        (0, b"a"),
        (1, b"bc"),
        (1, b"d" * 300),
        ("close",),
    ]


def test_an_open_is_answered_and_messages_flow_both_ways() -> None:
    one, other = Side(), Side(NAME)
    recorder = Recorder()
    channel = one.mux.open(NAME, b"hello", recorder)
    channel.send(3, b"early")
    exchange(one, other)
    assert channel.opened
    assert other.paired.events == [("open", b"hello"), (3, b"early")]
    other.mux.find(NAME).send(4, b"back")
    exchange(one, other)
    assert recorder.events == [("open", b"answer"), (4, b"back")]


def test_both_sides_open_at_once() -> None:
    one, other = Side(), Side()
    recorders = [Recorder(), Recorder()]
    channels = [
        side.mux.open(NAME, b"h", recorder) for side, recorder in zip((one, other), recorders, strict=True)
    ]
    exchange(one, other)
    assert all(channel.opened for channel in channels)
    assert [recorder.events for recorder in recorders] == [[("open", b"h")]] * 2


def test_an_alias_names_the_same_channel() -> None:
    one, other = Side(), Side(NAME)
    one.mux.open(("hypercore", NAME[1]), b"", Recorder())
    for message in taken(one.mux):
        other.mux.receive(message)
    assert other.mux.find(NAME).opened


def test_an_unknown_name_is_rejected_and_its_number_used_again() -> None:
    one, other = Side(), Side()
    recorder = Recorder()
    channel = one.mux.open(NAME, b"", recorder)
    exchange(one, other)
    assert channel.closed and recorder.events == [("close",)]
    assert one.mux.open(OTHER, b"", Recorder()).local == channel.local
    other.known.add(OTHER)
    exchange(one, other)
    assert one.mux.find(OTHER).opened


def test_close_and_open_again() -> None:
    one, other = Side(), Side(NAME)
    for _ in range(3):
        channel = one.mux.open(NAME, b"", Recorder())
        exchange(one, other)
        assert channel.opened and channel.local == 1
        channel.close()
        channel.send(0, b"too late")
        exchange(one, other)
        assert other.mux.find(NAME) is None
    assert other.paired.events == [("open", b""), ("close",)] * 3


def test_closing_before_the_answer_comes() -> None:
    one, other = Side(), Side(NAME)
    first = one.mux.open(NAME, b"", Recorder())
    first.close()
    assert one.mux.find(NAME) is None
    second = one.mux.open(OTHER, b"", Recorder())
    assert second.local == 2  # the first number is not free yet
    exchange(one, other)
    assert other.paired.events == [("open", b""), ("close",)]
    again = [one.mux.open((name, None), b"", Recorder()).local for name in ("x", "y")]
    assert sorted(again) == [1, 2]


def test_messages_on_unknown_channels_and_of_unknown_control_types_are_ignored() -> None:
    side = Side()
    side.mux.receive(b"\x05\x00body")
    side.mux.receive(b"\x00\x09body")
    side.mux.receive(b"\x00\x03\x07")
    assert taken(side.mux) == []


def open_message(number: int) -> bytes:
    """The other side opens a channel ``x`` under ``number``."""
    return b"\x00\x01" + bytes([number]) + b"\x01x\x00"


def test_opens_out_of_turn_are_refused() -> None:
    with pytest.raises(ProtocolError):
        Side().mux.receive(open_message(2))
    side = Side(("x", None))
    side.mux.receive(open_message(1))
    with pytest.raises(ProtocolError):
        side.mux.receive(open_message(1))


def test_numbers_of_channels_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One who opens ever more of them, each rejected, is not remembered for all of them."""
    monkeypatch.setattr(protomux, "MAX_CHANNELS", 3)
    side = Side()
    for number in (1, 2, 3, 3, 2):
        side.mux.receive(open_message(number))
        assert len(side.mux._remote) <= 3
    with pytest.raises(ProtocolError, match="out of turn"):
        side.mux.receive(open_message(4))


def test_a_second_open_of_an_open_name_is_rejected() -> None:
    side = Side(("x", None))
    side.mux.receive(b"\x00\x01\x01\x01x\x00")
    taken(side.mux)
    side.mux.receive(b"\x00\x01\x02\x01x\x00")
    assert taken(side.mux) == [b"\x00\x02\x02"]


def test_a_reject_of_nothing_and_a_batch_in_a_batch_are_refused() -> None:
    with pytest.raises(ProtocolError):
        Side().mux.receive(b"\x00\x02\x01")
    with pytest.raises(ProtocolError):
        Side().mux.receive(b"\x00\x00\x00\x03\x00\x00\x01")


def test_a_name_that_is_too_long_is_refused() -> None:
    with pytest.raises(ProtocolError):
        Side().mux.receive(b"\x00\x01\x01" + encode_uint(300) + b"x" * 300 + b"\x00")


def test_batches_are_of_bounded_size() -> None:
    side = Side()
    channel = side.mux.open(NAME, b"", Recorder())
    for _ in range(20):
        channel.send(0, bytes(10_000))
    channel.send(0, bytes(5 * BATCH_BYTES))
    sizes = [len(message) for message in taken(side.mux)]
    assert all(size <= BATCH_BYTES + 200 for size in sizes[:-1])
    assert sizes[-1] == 5 * BATCH_BYTES + 2


def test_messages_weigh_more_than_their_bytes_if_told_so() -> None:
    side = Side()
    channel = side.mux.open(NAME, b"", Recorder())
    taken(side.mux)
    for weight in (BATCH_BYTES // 2, BATCH_BYTES // 2, BATCH_BYTES, BATCH_BYTES):
        channel.send(1, b"request", weight=weight)
    assert len(taken(side.mux)) == 3


def test_keep_alive_is_an_empty_message_only_if_nothing_else_is_sent() -> None:
    side = Side()
    side.mux.keep_alive()
    assert taken(side.mux) == [b""]
    side.mux.keep_alive()
    side.mux.open(NAME, b"", Recorder())
    assert len(taken(side.mux)) == 1 and taken(side.mux) == []


def test_the_end_of_the_stream_closes_every_channel() -> None:
    one, other = Side(), Side(NAME)
    recorders = [Recorder(), Recorder()]
    one.mux.open(NAME, b"", recorders[0])
    exchange(one, other)
    one.mux.open(OTHER, b"", recorders[1])
    one.mux.end()
    assert [recorder.events[-1] for recorder in recorders] == [("close",)] * 2


@settings(deadline=None, max_examples=100)
@given(st.lists(st.binary(max_size=40) | st.binary(max_size=30).map(lambda b: b"\x00\x00" + b), max_size=8))
def test_arbitrary_messages(messages: list[bytes]) -> None:
    side = Side(NAME, ("", None))
    try:
        for message in messages:
            side.mux.receive(message)
    except ProtocolError:
        pass


actions = st.lists(
    st.tuples(st.sampled_from(["open", "close", "send", "carry"]), st.integers(0, 1), st.integers(0, 2)),
    max_size=40,
)


@settings(deadline=None, max_examples=100)
@given(actions)
def test_two_sides_that_open_and_close_at_will_agree_in_the_end(steps: list[tuple[str, int, int]]) -> None:
    names = [("p", bytes([n])) for n in range(3)]
    sides = [Side(), Side()]
    for action, who, which in steps:
        mux, name = sides[who].mux, names[which]
        channel = mux.find(name)
        if action == "open" and channel is None:
            mux.open(name, b"", Recorder())
        elif action == "close" and channel is not None:
            channel.close()
        elif action == "send" and channel is not None:
            channel.send(0, b"x")
        elif action == "carry":
            for message in taken(mux):
                sides[1 - who].mux.receive(message)
    exchange(*sides)
    for name in names:
        one, other = (side.mux.find(name) for side in sides)
        assert (one is not None and one.opened) == (other is not None and other.opened)
        assert one is None or one.opened
