"""Reads are spaced on busy links only."""

from __future__ import annotations

from pelure.tor.net.pacing import BUSY_RATE, PAUSE_SECONDS, SMALL_READ, WINDOW_SECONDS, ReadPacer

CELL = 514


def paced(rate: float, piece: int, seconds: float) -> list[bool]:
    """What a link is told that reads pieces of this size at this rate, in bytes a second."""
    pacer, interval = ReadPacer(0.0), piece / rate
    return [pacer.should_wait(piece, count * interval) for count in range(1, int(seconds / interval))]


def test_a_quiet_link_never_waits() -> None:
    assert not any(paced(BUSY_RATE / 2, CELL, 1.0))


def test_bulk_in_small_pieces_waits_once_it_is_known_as_bulk() -> None:
    told = paced(BUSY_RATE * 2, 8 * CELL, 1.0)
    first = told.index(True)
    assert all(told[first:])
    assert 8 * CELL * first / (BUSY_RATE * 2) >= WINDOW_SECONDS - PAUSE_SECONDS


def test_bulk_in_large_pieces_does_not_wait() -> None:
    assert not any(paced(BUSY_RATE * 10, SMALL_READ, 1.0))


def test_after_bulk_a_quiet_link_waits_no_more() -> None:
    pacer = ReadPacer(0.0)
    for count in range(1, 1000):
        pacer.should_wait(8 * CELL, count * 0.0001)
    assert pacer.should_wait(CELL, 0.1)
    assert not pacer.should_wait(CELL, 1.0)
    assert not pacer.should_wait(CELL, 1.0 + PAUSE_SECONDS)
