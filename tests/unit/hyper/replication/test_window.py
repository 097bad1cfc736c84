"""The request window on links of different kinds, by a model of a link with a queue."""

from __future__ import annotations

from collections import deque

from pelure.hyper.core.replication.window import MAX_BYTES, MAXIMUM, MINIMUM, START, Window


def run(window: Window, delay: float, rate: float, size: int, answers: int, start: float = 0.0) -> float:
    """Keep the window full on a link of ``delay`` s round trip and ``rate`` B/s; return B/s got."""
    in_flight: deque[tuple[float, float, int, bool]] = deque()
    now = busy = start
    for _ in range(answers):
        while len(in_flight) < window.size:
            busy = max(busy, now + delay) + size / rate
            ahead = len(in_flight) + 1
            in_flight.append((now, busy, ahead, ahead >= window.size))
        sent, now, ahead, full = in_flight.popleft()
        window.answered(now - sent, size, ahead, full, now)
    return answers * size / (now - start)


def test_an_onion_circuit_is_filled() -> None:
    window = Window()
    assert run(window, 0.5, 4e6, 65536, 3000) > 0.9 * 4e6
    assert window.size < 5 * 0.5 * 4e6 / 65536


def test_a_fast_link_of_long_delay_is_filled() -> None:
    window = Window()
    assert run(window, 0.3, 40e6, 65536, 6000) > 0.85 * 40e6


def test_a_slow_link_does_not_get_a_long_queue() -> None:
    window = Window()
    run(window, 0.05, 1e6, 65536, 2000)
    assert window.size <= 2 * MINIMUM


def test_small_answers_on_loopback() -> None:
    window = Window()
    run(window, 0.0005, 50e6, 1024, 20000)
    assert START < window.size <= MAXIMUM


def test_answers_in_flight_are_bounded_in_bytes() -> None:
    window = Window()
    run(window, 1.0, 1e9, 4 << 20, 500)
    assert window.size * (4 << 20) <= 1.1 * MAX_BYTES


def test_a_link_that_becomes_slower_for_good_is_filled_again() -> None:
    window = Window()
    run(window, 0.01, 20e6, 65536, 2000)
    run(window, 0.6, 20e6, 65536, 2000, start=100.0)
    assert run(window, 0.6, 20e6, 65536, 10000, start=1000.0) > 0.7 * 20e6
