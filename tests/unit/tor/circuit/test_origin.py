"""Circuits end to end, without I/O: origin on one side, relays in memory on the other."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import CircuitError, CryptoError, ProtocolError
from pelure.tor.cell.commands import CellCommand, EndReason, RelayCommand
from pelure.tor.cell.framing import Cell, Run
from pelure.tor.cell.messages import Created2, CreatedFast, Destroy
from pelure.tor.cell.relay_header import encode_relay_body
from pelure.tor.cell.relay_messages import Answer, Begin, Connected, Resolved, Sendme, Truncated
from pelure.tor.circuit import events as ev
from pelure.tor.circuit.flowcontrol import FixedWindow, VegasWindow
from pelure.tor.circuit.origin import OriginCircuit
from pelure.tor.circuit.params import CircuitParams
from pelure.tor.circuit.relaycrypto import HopKeys
from pelure.tor.circuit.sending import FLOOD_LIMIT
from pelure.tor.circuit.stream import State, StreamEndpoint
from pelure.tor.directory.relay import Relay
from unit.tor.circuit.relay_chain import CIRC_ID, RelayChain, built, exchange, seeded_rng


def open_stream(origin: OriginCircuit, chain: RelayChain) -> tuple[StreamEndpoint, StreamEndpoint]:
    """Both ends of a stream to the last hop."""
    near = origin.open_stream("example.com", 80)
    exchange(origin, chain)
    incoming = chain.relays[-1].events.pop()
    assert isinstance(incoming, ev.Incoming) and incoming.command == RelayCommand.BEGIN
    assert Begin.decode(incoming.data) == Begin("example.com", 80)
    incoming.stream.accept(Connected("192.0.2.1", 60).encode())
    [opened] = exchange(origin, chain)
    assert opened == ev.StreamOpened(near, Connected("192.0.2.1", 60).encode())
    return near, incoming.stream


def test_three_hops_with_ntor_v3() -> None:
    origin, chain = built(3, cc=True)
    assert [hop.relay for hop in origin.hops] == chain.path()
    assert [hop.kh for hop in origin.hops] == [relay.kh for relay in chain.relays]
    assert isinstance(origin.hops[0].end.window, FixedWindow)
    window = origin.hops[2].end.window
    assert isinstance(window, VegasWindow) and window.increment == 31
    assert chain.commands == [CellCommand.RELAY_EARLY] * 2


@pytest.mark.parametrize("fewer", [0, 1])
def test_which_cells_go_as_relay_early(fewer: int) -> None:
    """EXTEND2 always, and a few of the first ones beyond the first hop: how many must not tell the length."""
    drawn = iter([bytes([2 + fewer])])
    chain = RelayChain(9, CircuitParams())
    origin = OriginCircuit(CIRC_ID, lambda n: next(drawn, b"") or os.urandom(n), CircuitParams())

    def extend(hop: int) -> list[int]:
        chain.commands.clear()
        (origin.extend if hop else origin.create)(chain.path()[hop])
        exchange(origin, chain)
        return list(chain.commands)

    early, relay = CellCommand.RELAY_EARLY, CellCommand.RELAY
    assert [extend(hop) for hop in range(3)] == [[], [early], [early]]
    chain.commands.clear()
    origin.send_message(0, RelayCommand.DROP, b"")
    exchange(origin, chain)
    assert chain.commands == [relay]
    chain.commands.clear()
    for _ in range(5):
        origin.send_message(2, RelayCommand.DROP, b"")
    exchange(origin, chain)
    assert chain.commands == [early] * (2 - fewer) + [relay] * (3 + fewer)
    assert [extend(hop) for hop in range(3, 8)] == [[early]] * 4 + [[relay]]


def test_a_run_of_data_has_no_more_relay_early_cells_than_lone_ones_would() -> None:
    origin, chain = built(2)
    near, _ = open_stream(origin, chain)
    near.write(bytes(498 * 50))
    exchange(origin, chain)
    assert len(chain.commands) > 50
    assert chain.commands.count(CellCommand.RELAY_EARLY) in (3, 4)  # EXTEND2 was one


def test_a_circuit_is_extended_one_hop_after_the_other() -> None:
    chain = RelayChain(3, CircuitParams())
    origin = OriginCircuit(CIRC_ID, os.urandom, CircuitParams())
    with pytest.raises(CircuitError, match="one hop after the other"):
        origin.extend(chain.path()[1])
    origin.create(chain.path()[0])
    with pytest.raises(CircuitError, match="one hop after the other"):
        origin.extend(chain.path()[1])
    exchange(origin, chain)
    origin.extend(chain.path()[1])
    with pytest.raises(CircuitError, match="one hop after the other"):
        origin.extend(chain.path()[2])


@pytest.mark.parametrize("fast", [True, False])
def test_answers_to_another_handshake_than_was_begun(fast: bool) -> None:
    chain = RelayChain(2, CircuitParams())
    answers = {
        True: CreatedFast(bytes(20), bytes(20)).cell(CIRC_ID),
        False: Created2(bytes(64)).cell(CIRC_ID),
    }
    origin = OriginCircuit(CIRC_ID, os.urandom, CircuitParams())
    for answer in answers.values():  # nothing was begun
        with pytest.raises(ProtocolError, match="no place"):
            origin.receive(answer, 0.0)
    origin.create(chain.path()[0], fast=fast)
    for cell in (answers[not fast], Cell(CIRC_ID, CellCommand.CREATED, bytes(509))):
        with pytest.raises(ProtocolError, match="instead of the answer"):
            origin.receive(cell, 0.0)
    exchange(origin, chain)
    assert len(origin.hops) == 1
    origin.extend(chain.path()[1])  # which only EXTENDED2 answers
    for answer in answers.values():
        with pytest.raises(ProtocolError, match="no place"):
            origin.receive(answer, 0.0)


def test_relays_that_only_know_ntor_get_fixed_windows() -> None:
    origin, _ = built(3, cc=True, old=True)
    assert isinstance(origin.hops[2].end.window, FixedWindow)


def test_congestion_control_is_not_asked_for_where_the_consensus_forbids_it() -> None:
    origin, _ = built(2, CircuitParams(cc_alg=0), cc=True)
    assert isinstance(origin.hops[1].end.window, FixedWindow)


def test_create_fast() -> None:
    params = CircuitParams()
    chain = RelayChain(1, params)
    origin = OriginCircuit(CIRC_ID, os.urandom, params)
    origin.create(chain.path()[0], fast=True)
    assert exchange(origin, chain) == [ev.HopAdded(0)]
    near = origin.begin_dir()
    near.write(b"GET / HTTP/1.0\r\n\r\n")
    exchange(origin, chain)
    begin, data = chain.relays[0].events
    assert isinstance(begin, ev.Incoming) and begin.command == RelayCommand.BEGIN_DIR
    assert data == ev.StreamData(begin.stream)
    assert begin.stream.read(100) == b"GET / HTTP/1.0\r\n\r\n"


@pytest.mark.parametrize("cc", [False, True])
def test_megabytes_both_ways_arrive_whole(cc: bool) -> None:
    origin, chain = built(3, cc=cc)
    near, far = open_stream(origin, chain)
    rand = random.Random(5)
    up, down = rand.randbytes(700_001), rand.randbytes(2_000_003)
    near.write(up)
    far.write(down)
    got_up, got_down = bytearray(), bytearray()
    while len(got_up) < len(up) or len(got_down) < len(down):
        exchange(origin, chain, room=rand.randrange(1, 200))
        news = near.read(rand.randrange(1, 100_000)), far.read(rand.randrange(1, 100_000))
        assert any(news)
        got_down += news[0]
        got_up += news[1]
    assert got_up == up and got_down == down
    assert near.pending == far.pending == 0


@settings(deadline=None, max_examples=15)
@given(
    st.booleans(), st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(1, 30_000)), max_size=20)
)
def test_streams_share_a_circuit(cc: bool, writes: list[tuple[int, bool, int]]) -> None:
    """Several streams at once, both ways, read at odd times: each gets exactly its own bytes."""
    origin, chain = built(2, cc=cc)
    pairs = [open_stream(origin, chain) for _ in range(4)]
    rand = random.Random(len(writes))
    sent: dict[StreamEndpoint, bytes] = {}
    got: dict[StreamEndpoint, bytes] = {}
    for which, upwards, size in writes:
        writer, reader = pairs[which] if upwards else pairs[which][::-1]
        data = rand.randbytes(size)
        writer.write(data)
        sent[reader] = sent.get(reader, b"") + data
        if rand.random() < 0.5:
            exchange(origin, chain, room=rand.randrange(1, 50))
            got[reader] = got.get(reader, b"") + reader.read(rand.randrange(1, 9000))
    for reader in sent:
        exchange(origin, chain)
        while data := reader.read(50_000):
            got[reader] = got.get(reader, b"") + data
            exchange(origin, chain)
    assert got == sent


def test_a_slow_reader_stops_its_stream_but_not_the_others() -> None:
    """Fixed windows: unread data holds the stream's SENDMEs back, never the circuit's."""
    origin, chain = built(3)
    (slow, slow_far), (quick, quick_far) = open_stream(origin, chain), open_stream(origin, chain)
    slow_far.write(bytes(1_000_000))
    quick_far.write(bytes(1_000_000))
    total = 0
    for _ in range(100):
        exchange(origin, chain)
        total += len(quick.read(1_000_000))
    assert total == 1_000_000
    assert slow.buffered <= 500 * 498 + 250 * 498 and slow_far.pending > 0
    total = 0
    while data := slow.read(100_000):
        total += len(data)
        exchange(origin, chain)
    assert total == 1_000_000


def test_xoff_and_xon() -> None:
    origin, chain = built(3, cc=True)
    near, far = open_stream(origin, chain)
    far.write(bytes(8_000_000))
    exchange(origin, chain, room=100)
    assert 249_000 < near.buffered < 1_000_000
    assert far.sending.room() == 0
    total = 0
    while data := near.read(300_000):
        total += len(data)
        exchange(origin, chain, room=100)
    assert total == 8_000_000 and far.sending.room() > 0


def test_sendmes_count_cells_even_when_they_are_short() -> None:
    origin, chain = built(3)
    near, far = open_stream(origin, chain)
    for _ in range(3000):
        far.write(b"x")
        chain.now += 0.001
        exchange(origin, chain)
        assert near.read(10) == b"x"


def test_a_sender_leaves_room_for_random_bytes() -> None:
    origin, chain = built(1)
    near, far = open_stream(origin, chain)
    far.write(bytes(498 * 400))
    exchange(origin, chain)
    near.read(near.buffered)
    exchange(origin, chain)
    lengths: list[int] = []
    receive = origin.hops[0].end.receive

    def spy(bodies: np.ndarray, tags: list[bytes], now: float) -> list[ev.Event]:
        lengths.extend((bodies[bodies[:, 0] == RelayCommand.DATA][:, 9:11] @ [256, 1]).tolist())
        return receive(bodies, tags, now)

    origin.hops[0].end.receive = spy  # type: ignore[method-assign]
    far.write(bytes(498 * 99))
    exchange(origin, chain)
    assert 0 < sum(length <= 478 for length in lengths) <= 3
    assert sum(lengths) == 498 * 99


def test_ends_and_half_closed_streams() -> None:
    origin, chain = built(2)
    near, far = open_stream(origin, chain)
    far.write(bytes(100_000))
    near.end(EndReason.DONE)
    far_end = chain.relays[-1].end
    assert far_end is not None
    far_end.pump(0, 300)  # these cells cross the END on their way
    exchange(origin, chain)
    [ended] = chain.relays[-1].events
    assert isinstance(ended, ev.StreamEnded) and ended.reason == EndReason.DONE
    assert far.state is State.ENDED and far.pending == 0
    far.write(b"too late")
    assert exchange(origin, chain) == []


def test_finish_sends_everything_first() -> None:
    origin, chain = built(2)
    near, far = open_stream(origin, chain)
    far.write(bytes(600_000))
    far.finish()
    total, events = 0, []
    for _ in range(200):
        events += exchange(origin, chain)
        total += len(near.read(50_000))
    assert total == 600_000
    assert isinstance(events[-1], ev.StreamEnded) and events[-1].reason == EndReason.DONE
    assert near.state is State.ENDED


def test_a_refused_stream() -> None:
    origin, chain = built(2)
    near = origin.open_stream("example.com", 25)
    exchange(origin, chain)
    [incoming] = chain.relays[-1].events
    assert isinstance(incoming, ev.Incoming)
    incoming.stream.end(EndReason.EXITPOLICY)
    [ended] = exchange(origin, chain)
    assert isinstance(ended, ev.StreamEnded) and ended.stream is near and ended.reason == EndReason.EXITPOLICY


def test_resolve() -> None:
    origin, chain = built(2)
    near = origin.resolve("example.com")
    exchange(origin, chain)
    [incoming] = chain.relays[-1].events
    assert isinstance(incoming, ev.Incoming) and incoming.command == RelayCommand.RESOLVE
    end = chain.relays[-1].end
    assert end is not None
    body = Resolved((Answer.address("192.0.2.7", 60),)).encode()
    end.send(RelayCommand.RESOLVED, near.id, body)
    assert exchange(origin, chain) == [ev.Resolved(near, body)]


def test_messages_reach_every_hop_and_only_the_last_may_answer() -> None:
    """A relay in the middle that got an answer to its own messages would know whose circuit it has."""
    origin, chain = built(4)
    for hop in (1, 3, 0, 2):
        origin.send_message(hop, RelayCommand.ESTABLISH_RENDEZVOUS, bytes([hop]) * 20)
        assert exchange(origin, chain) == []
        expected = ev.RelayMessageReceived(hop, RelayCommand.ESTABLISH_RENDEZVOUS, 0, bytes([hop]) * 20)
        assert chain.relays[hop].events.pop() == expected
    ends = [relay.end for relay in chain.relays]
    for command in (RelayCommand.RENDEZVOUS_ESTABLISHED, RelayCommand.INTRODUCE2, RelayCommand.EXTENDED2):
        for end in ends[:3]:
            assert end is not None
            end.send(command, 0, b"\0\0")
            with pytest.raises(ProtocolError, match="in the middle"):
                exchange(origin, chain)
    assert ends[3] is not None
    ends[3].send(RelayCommand.INTRODUCE2, 0, b"x")
    assert exchange(origin, chain) == [ev.RelayMessageReceived(3, RelayCommand.INTRODUCE2, 0, b"x")]


@pytest.mark.parametrize("increment", [None, 31])
def test_a_joined_rendezvous(increment: int | None) -> None:
    """The virtual hop between client and service carries the streams that the client opens."""
    params = CircuitParams()
    keys = HopKeys.service(os.urandom(128))
    client = OriginCircuit(1, seeded_rng(1), params)
    service = OriginCircuit(2, seeded_rng(2), params)
    client.add_hs_hop(keys, service=False, sendme_inc=increment)
    service.add_hs_hop(keys, service=True, sendme_inc=increment)
    incoming: list[ev.Event] = []
    outcome: list[ev.Event] = []

    def carry() -> None:
        busy = True
        now = 0.0
        while busy:
            now += 0.001
            busy = False
            for source, sink, news in ((client, service, incoming), (service, client, outcome)):
                source.pump(now, 1000)
                for item in source.take_output():
                    busy = True
                    if isinstance(item, Run):
                        item.cells[:, 4] = CellCommand.RELAY
                    else:
                        item = Cell(item.circ_id, CellCommand.RELAY, item.body)
                    news += sink.receive(item, now)

    near = client.open_stream("", 80)
    near.write(b"hello")
    carry()
    begin, data = incoming
    assert isinstance(begin, ev.Incoming) and Begin.decode(begin.data).port == 80
    assert isinstance(data, ev.StreamData) and begin.stream.read(100) == b"hello"
    begin.stream.accept()
    begin.stream.write(bytes(1_000_000))
    total = 0
    for _ in range(100):
        carry()
        total += len(near.read(1 << 20))
    assert total == 1_000_000


def test_destroy_and_truncated() -> None:
    origin, _ = built(2)
    [closed] = origin.receive(Destroy(9).cell(CIRC_ID), 0)
    assert isinstance(closed, ev.CircuitClosed) and closed.remote and closed.reason == 9 and origin.closed

    origin, chain = built(3)
    end = chain.relays[1].end
    assert end is not None
    end.send(RelayCommand.TRUNCATED, 0, Truncated(8).encode())
    [closed] = exchange(origin, chain)
    assert isinstance(closed, ev.CircuitClosed) and closed.reason == 8

    origin, _ = built(1)
    origin.destroy()
    origin.destroy()
    [cell] = origin.take_output()
    assert cell == Destroy(0).cell(CIRC_ID)


def send_from_last(chain: RelayChain, command: int, stream_id: int, data: bytes = b"") -> None:
    end = chain.relays[-1].end
    assert end is not None
    tags = end._emit(bytearray(encode_relay_body(command, stream_id, data, os.urandom)))
    if command == RelayCommand.DATA:
        end.window.sent(tags, chain.now)


@pytest.mark.parametrize(
    ("cc", "command", "stream", "data"),
    [
        (False, RelayCommand.SENDME, 0, Sendme(bytes(20)).encode()),  # acknowledges nothing
        (True, RelayCommand.SENDME, 0, b""),
        (False, RelayCommand.SENDME, 1, b""),  # opens the window too far
        (True, RelayCommand.SENDME, 1, b""),  # streams have no windows here
        (False, RelayCommand.XOFF, 1, b"\0"),
        (True, RelayCommand.XON, 1, b"\1\0\0\0\0"),  # unknown version
        (True, RelayCommand.XON, 1, b"\0"),
        (False, RelayCommand.CONNECTED, 1, b""),  # twice
        (False, RelayCommand.DATA, 77, b"x"),  # never opened
        (False, RelayCommand.RESOLVED, 1, b""),
        (False, RelayCommand.EXTENDED2, 0, b"\0\0"),
    ],
)
def test_messages_out_of_turn_close_the_circuit(cc: bool, command: int, stream: int, data: bytes) -> None:
    origin, chain = built(2, cc=cc)
    near, _ = open_stream(origin, chain)
    send_from_last(chain, command, near.id if stream == 1 else stream, data)
    with pytest.raises(ProtocolError):
        exchange(origin, chain)


XON, XOFF = b"\0" * 5, b"\0"


@pytest.mark.parametrize("command", [2, 3, 4, 5, 12, 43, 44])
@pytest.mark.parametrize("unknown", [True, False])
def test_stream_messages_for_no_stream_close_the_circuit(command: int, unknown: bool) -> None:
    """For one that was never opened, or that its other side ended: a mark, for all a client can know."""
    origin, chain = built(2, cc=command in (RelayCommand.XON, RelayCommand.XOFF))
    near, far = open_stream(origin, chain)
    if not unknown:
        far.end()
        exchange(origin, chain)
    body = {RelayCommand.XON: XON, RelayCommand.XOFF: XOFF, RelayCommand.DATA: b"x"}
    send_from_last(chain, command, 77 if unknown else near.id, body.get(RelayCommand(command), b""))
    with pytest.raises(ProtocolError, match="never opened"):
        exchange(origin, chain)


@pytest.mark.parametrize(
    ("cc", "answered", "messages"),
    [
        (False, True, [(RelayCommand.CONNECTED, b"")]),
        (False, False, [(RelayCommand.CONNECTED, b""), (RelayCommand.CONNECTED, b"")]),
        (False, False, [(RelayCommand.DATA, b"x")]),
        (False, True, [(RelayCommand.RESOLVED, b"")]),
        (False, True, [(RelayCommand.SENDME, b"")]),
        (True, True, [(RelayCommand.SENDME, b"")]),
        (True, True, [(RelayCommand.XOFF, XOFF)]),
        (True, True, [(RelayCommand.XON, XON)]),
        (False, True, [(RelayCommand.END, b""), (RelayCommand.END, b"")]),
        (False, True, [(RelayCommand.END, b""), (RelayCommand.DATA, b"x")]),
        (False, True, [(RelayCommand.DATA, b"x")] * 501),
    ],
)
def test_what_can_not_come_for_an_ended_stream(
    cc: bool, answered: bool, messages: list[tuple[int, bytes]]
) -> None:
    origin, chain = built(2, cc=cc)
    if answered:
        near, _ = open_stream(origin, chain)
    else:
        near = origin.open_stream("example.com", 80)
    near.end()
    exchange(origin, chain)
    for command, data in messages[:-1]:
        send_from_last(chain, command, near.id, data)
    exchange(origin, chain)
    send_from_last(chain, messages[-1][0], near.id, messages[-1][1])
    with pytest.raises(ProtocolError):
        exchange(origin, chain)


@pytest.mark.parametrize("cc", [False, True])
def test_what_may_still_come_for_an_ended_stream(cc: bool) -> None:
    origin, chain = built(2, cc=cc)
    near = origin.open_stream("example.com", 80)
    near.write(bytes(498 * 600))
    exchange(origin, chain)
    near.end()
    exchange(origin, chain)
    send_from_last(chain, RelayCommand.CONNECTED, near.id)
    for _ in range(500):
        send_from_last(chain, RelayCommand.DATA, near.id, b"x")
    if cc:
        send_from_last(chain, RelayCommand.XOFF, near.id, XOFF)
        send_from_last(chain, RelayCommand.XON, near.id, XON)
    else:
        send_from_last(chain, RelayCommand.SENDME, near.id)
    send_from_last(chain, RelayCommand.END, near.id)
    exchange(origin, chain)

    name = origin.resolve("example.com")
    name.end()
    exchange(origin, chain)
    send_from_last(chain, RelayCommand.RESOLVED, name.id)
    assert exchange(origin, chain) == []


def test_xon_and_xoff_that_nothing_sent_can_have_caused_close_the_circuit() -> None:
    """Proposal 324 §4.1.4: the other side can't have as much unread, nor measured it so often."""
    limits = CircuitParams().signal_limits
    for signals, enough in (
        ([XOFF], limits.xoff),
        ([XON], limits.xon),
        ([XON, XON], 2 * limits.xon),
        ([XOFF, XON, XOFF], 2 * limits.xoff),
        ([XOFF, XON, XON], max(limits.xoff, limits.xon)),
    ):
        for size, allowed in ((enough, True), (enough - 1, False)):
            origin, chain = built(2, cc=True)
            near, far = open_stream(origin, chain)
            near.write(bytes(size))
            for _ in range(20):
                exchange(origin, chain)
                far.read(size)
            assert near.pending == 0
            for signal in signals:
                command = RelayCommand.XON if signal is XON else RelayCommand.XOFF
                send_from_last(chain, command, near.id, signal)
            if allowed:
                exchange(origin, chain)
            else:
                with pytest.raises(ProtocolError, match="before the stream had sent enough"):
                    exchange(origin, chain)


def test_data_beyond_the_stream_window_closes_the_circuit() -> None:
    origin, chain = built(2)
    near, far = open_stream(origin, chain)
    far.sending._window = 10_000
    far.write(bytes(498 * 900))
    with pytest.raises(ProtocolError, match="window"):
        exchange(origin, chain)
    assert near.buffered <= 498 * 1000


def test_a_flood_that_ignores_xoff_closes_the_circuit() -> None:
    origin, chain = built(2, cc=True)
    _, far = open_stream(origin, chain)
    far.write(bytes(FLOOD_LIMIT + 5_000_000))
    far.sending.take = lambda command, data: None  # type: ignore[method-assign]
    with pytest.raises(ProtocolError, match="XOFF"):
        exchange(origin, chain)


def test_cells_that_have_no_place() -> None:
    origin, _chain = built(2)
    for command in (CellCommand.CREATED2, CellCommand.CREATED_FAST, CellCommand.PADDING, CellCommand.CREATE2):
        with pytest.raises(ProtocolError):
            origin.receive(Cell(CIRC_ID, command, bytes(509)), 0)
    cells = np.zeros((1, 514), np.uint8)
    cells[0, 4] = CellCommand.RELAY_EARLY
    with pytest.raises(ProtocolError, match="RELAY_EARLY"):
        origin.receive(Run(CIRC_ID, cells), 0)
    with pytest.raises(ProtocolError, match="recognizes"):
        origin.receive(Run(CIRC_ID, np.full((1, 514), 3, np.uint8)), 0)


def test_a_relay_that_lies_in_its_handshake() -> None:
    params = CircuitParams()
    chain = RelayChain(1, params)
    origin = OriginCircuit(CIRC_ID, os.urandom, params)
    origin.create(chain.path()[0])
    [reply] = chain.deliver(origin.take_output())
    assert isinstance(reply, Cell)
    body = bytearray(reply.body)
    body[40] ^= 1
    with pytest.raises(CryptoError):
        origin.receive(Cell(CIRC_ID, reply.command, bytes(body)), 0)


def test_a_relay_without_an_onion_key_can_not_be_extended_to() -> None:
    origin, _ = built(1)
    with pytest.raises(CircuitError, match="onion key"):
        origin.extend(Relay("x", bytes(20), bytes(32), None, (("127.0.0.1", 1),)))


def test_relay_early_runs_out_but_extending_goes_on() -> None:
    origin, chain = built(2)
    near, _ = open_stream(origin, chain)
    near.write(bytes(20_000))
    exchange(origin, chain)
    assert 3 <= chain.commands.count(CellCommand.RELAY_EARLY) <= 8
    assert set(chain.commands[8:]) == {CellCommand.RELAY}


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 255), st.integers(0, 3), st.binary(max_size=498))
def test_any_message_is_an_event_or_a_protocol_error(command: int, stream: int, data: bytes) -> None:
    origin, chain = built(1)
    near, _ = open_stream(origin, chain)
    send_from_last(chain, command, near.id if stream == 1 else stream, data)
    try:
        exchange(origin, chain)
    except ProtocolError:
        pass
