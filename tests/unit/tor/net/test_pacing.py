"""Reads are spaced on busy links only, and only where they come in small pieces."""

from __future__ import annotations

from pelure.tor.net.pacing import (
    BUSY_RATE,
    LARGE_READ,
    PAUSE_SECONDS,
    PROBES,
    SMALL_READ,
    WINDOW_SECONDS,
    ReadPacer,
)

CELL = 514


def paced(rate: float, piece: int, seconds: float) -> list[bool]:
    """What a link is told to which pieces of this size come at this rate, in bytes a second."""
    pacer, now, read, told = ReadPacer(0.0), 0.0, 0.0, []
    while now < seconds:
        told.append(pacer.should_wait(max(piece, int(rate * now - read)), now))
        read = rate * now
        now += PAUSE_SECONDS if told[-1] else piece / rate
    return told


def test_a_quiet_link_never_waits() -> None:
    assert not any(paced(BUSY_RATE / 2, CELL, 1.0))


def test_bulk_in_small_pieces_waits_once_it_is_known_as_bulk() -> None:
    told = paced(BUSY_RATE * 4, 4 * CELL, 1.0)
    first = told.index(True)
    assert 4 * CELL * first / (BUSY_RATE * 4) >= WINDOW_SECONDS - PAUSE_SECONDS
    # From here on only the few reads that tell how large they come are not waited for.
    windows = 1.0 / WINDOW_SECONDS
    assert 0 < told[first:].count(False) <= windows * PROBES
    assert told.count(True) > windows * 10


def test_bulk_in_large_pieces_does_not_wait() -> None:
    assert not any(paced(BUSY_RATE * 10, SMALL_READ, 1.0))


def test_a_large_read_is_not_waited_for_among_small_ones() -> None:
    pacer = ReadPacer(0.0)
    for count in range(1, 1000):
        pacer.should_wait(8 * CELL, count * 0.0001)
    assert not pacer.should_wait(LARGE_READ, 0.1)


def test_after_bulk_a_quiet_link_waits_no_more() -> None:
    pacer = ReadPacer(0.0)
    told = [pacer.should_wait(8 * CELL, count * 0.0001) for count in range(1, 1000)]
    assert told[-1]
    assert not pacer.should_wait(CELL, 1.0)
    assert not any(pacer.should_wait(CELL, 1.0 + count * PAUSE_SECONDS) for count in range(10))
