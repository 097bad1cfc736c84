"""Windows, authenticated SENDMEs and Tor Vegas."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import ProtocolError
from pelure.tor.circuit.flowcontrol import CircuitWindow, FixedWindow, VegasWindow
from pelure.tor.circuit.params import CircuitParams
from pelure.tor.circuit.vegas import RoundTripTime, Vegas

VECTORS = json.loads((Path(__file__).parents[3] / "vectors" / "vegas.json").read_text())


@pytest.mark.parametrize("trace", VECTORS["traces"])
def test_vegas_follows_the_traces_of_c_tor(trace: list[list[int]]) -> None:
    params = CircuitParams()
    vegas = Vegas(params, params.exit_queue, 31)
    for sent, got, blocked, inflight, ewma, least, cwnd, slow_start, full, blocked_after in trace:
        vegas.inflight = inflight
        vegas.blocked = bool(blocked)
        vegas.acknowledged(got - sent, bool(blocked))
        state = (vegas.rtt.ewma, vegas.rtt.least, vegas.cwnd, vegas.slow_start, vegas.full, vegas.blocked)
        assert state == (ewma, least, cwnd, bool(slow_start), bool(full), bool(blocked_after))


def test_round_trip_estimates_follow_the_trace_of_c_tor() -> None:
    params = CircuitParams()
    estimate = RoundTripTime(params)
    for sent, got, cwnd, slow_start, _, ewma, least in VECTORS["rtt"]:
        rate = 1 if slow_start else (cwnd + 31 * 31 // 2) // (31 * 31)
        estimate.update(
            got - sent, slow_start=bool(slow_start), update_rate=rate, at_minimum=cwnd == params.cwnd_min
        )
        assert (estimate.ewma, estimate.least) == (ewma, least)


def test_a_stalled_clock_changes_nothing_but_the_cells_in_flight() -> None:
    params = CircuitParams()
    vegas = Vegas(params, params.onion_queue, 31)
    vegas.inflight = 124
    vegas.acknowledged(0, False)
    assert (vegas.cwnd, vegas.inflight, vegas.slow_start, vegas.rtt.ewma) == (124, 93, True, 0)


def windows() -> list[tuple[CircuitWindow, CircuitWindow]]:
    params = CircuitParams()
    return [
        (FixedWindow(params), FixedWindow(params)),
        (VegasWindow(params, onion=True), VegasWindow(params, onion=True)),
        (VegasWindow(params, onion=False, increment=30), VegasWindow(params, onion=False, increment=30)),
    ]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2), st.lists(st.integers(1, 300), max_size=60))
def test_two_sides_agree_on_when_to_acknowledge(kind: int, bursts: list[int]) -> None:
    sender, receiver = windows()[kind]
    count = 0
    now = 0.0
    for burst in bursts:
        burst = min(burst, sender.room())
        tags = [(count + i).to_bytes(32) for i in range(burst)]
        count += burst
        sender.sent(tags, now)
        now += 0.001
        due = receiver.received(tags)
        assert len(due) == count // receiver.increment - (count - burst) // receiver.increment
        for tag in due:
            sender.acknowledged(tag, now, False)
        assert sender.room() > 0


def test_fixed_window_counts_and_closes() -> None:
    window = FixedWindow(CircuitParams())
    tags = [i.to_bytes(20) for i in range(1000)]
    window.sent(tags[:999], 0)
    assert window.room() == 1
    window.sent(tags[999:], 0)
    assert window.room() == 0
    window.acknowledged(tags[99], 0, False)
    assert window.room() == 100
    with pytest.raises(ProtocolError, match="wrong cell"):
        window.acknowledged(tags[99], 0, False)


def test_congestion_window_counts_and_closes() -> None:
    window = VegasWindow(CircuitParams(), onion=False)
    room, increment = window.room(), window.increment
    tags = [i.to_bytes(20) for i in range(room + 5)]
    window.sent(tags[: room - 1], 0)
    assert window.room() == 1
    window.sent(tags[room - 1 :], 0)  # a run may be begun before the window is known to be closed
    assert window.room() == 0
    window.acknowledged(tags[increment - 1], 0, False)
    assert window.room() == window.vegas.cwnd - (room + 5 - increment)


def test_streams_have_windows_of_their_own_without_congestion_control_only() -> None:
    assert [sender.stream_sendmes for sender, _ in windows()] == [True, False, False]


def test_an_increment_that_was_negotiated_counts_before_that_of_the_consensus() -> None:
    assert [sender.increment for sender, _ in windows()] == [100, 31, 30]


@pytest.mark.parametrize("kind", [0, 1])
def test_sendmes_that_nothing_was_sent_for_are_refused(kind: int) -> None:
    sender, _ = windows()[kind]
    with pytest.raises(ProtocolError, match="nothing"):
        sender.acknowledged(bytes(20), 0, False)
    sender.sent([bytes(20)] * (sender.increment - 1), 0)
    with pytest.raises(ProtocolError, match="nothing"):
        sender.acknowledged(bytes(20), 0, False)


def test_consensus_values_are_read_and_bounded() -> None:
    params = CircuitParams.from_consensus(
        {"cc_alg": 0, "circwindow": 5, "cc_sendme_inc": 999, "cc_vegas_alpha_onion": 7, "cc_xoff_client": 0}
    )
    assert not params.congestion_control
    assert (params.circwindow, params.sendme_inc, params.onion_queue.alpha, params.xoff_client) == (
        100,
        254,
        7,
        1,
    )
    assert CircuitParams.from_consensus({}) == CircuitParams()
