"""Reads gather on busy links only, for a bounded time, and nothing is left waiting."""

from __future__ import annotations

import asyncio
import socket

import pytest

from pelure.tor.net import pacing
from pelure.tor.net.pacing import (
    GATHER_SECONDS,
    LARGE_RECORD,
    LEAST_MARK,
    MOST_MARK,
    NO_MARK,
    WINDOW_SECONDS,
    Gathering,
    ReadPacer,
)

CELL = 514
PIECE_SECONDS = WINDOW_SECONDS / 10


def marks(pacer: ReadPacer, rate: float, start: float, seconds: float, record: float = 8 * CELL) -> list[int]:
    """The marks while bytes come at this rate (bytes a second) from ``start`` on, in records of this size."""
    told = []
    for count in range(1, round(seconds / PIECE_SECONDS) + 1):
        before = pacer.mark
        passed = count * PIECE_SECONDS
        records = int(rate * (start + passed) / record)
        assert pacer.note(int(rate * PIECE_SECONDS), records, start + passed) == (pacer.mark != before)
        told.append(pacer.mark)
    return told


def test_a_quiet_link_has_no_mark() -> None:
    assert set(marks(ReadPacer(0.0), LEAST_MARK / GATHER_SECONDS / 2, 0.0, 1.0)) == {NO_MARK}


def test_bulk_gathers_for_so_long_once_it_is_known_as_bulk() -> None:
    rate = 8 * LEAST_MARK / GATHER_SECONDS
    told = marks(ReadPacer(0.0), rate, 0.0, 1.0)
    first = told.index(max(told))
    assert first * PIECE_SECONDS >= WINDOW_SECONDS - 2 * PIECE_SECONDS
    assert set(told[:first]) == {NO_MARK}
    assert all(mark == pytest.approx(rate * GATHER_SECONDS, rel=0.1) for mark in told[first:])


def test_nothing_waits_where_runs_come_whole() -> None:
    rate = 8 * LEAST_MARK / GATHER_SECONDS
    assert set(marks(ReadPacer(0.0), rate, 0.0, 1.0, record=2 * LARGE_RECORD)) == {NO_MARK}


def test_a_mark_has_a_limit() -> None:
    assert marks(ReadPacer(0.0), 10 * MOST_MARK / GATHER_SECONDS, 0.0, 1.0)[-1] == MOST_MARK


def test_a_mark_follows_the_rate_roughly() -> None:
    pacer = ReadPacer(0.0)
    rate = 8 * LEAST_MARK / GATHER_SECONDS
    mark = marks(pacer, rate, 0.0, 1.0)[-1]
    assert set(marks(pacer, rate * 1.5, 1.0, 1.0)) == {mark}
    assert marks(pacer, rate * 4, 2.0, 1.0)[-1] > mark * 2
    assert marks(pacer, LEAST_MARK / GATHER_SECONDS / 2, 3.0, 1.0)[-1] == NO_MARK


def test_what_reads_has_not_stalled() -> None:
    pacer = ReadPacer(0.0)
    mark = marks(pacer, 8 * LEAST_MARK / GATHER_SECONDS, 0.0, 1.0)[-1]
    assert not pacer.stalled()
    assert pacer.mark == mark
    assert pacer.stalled()
    assert pacer.mark == NO_MARK


class _Marker(ReadPacer):
    """Has its one mark from the first read on."""

    def note(self, nbytes: int, records: int, now: float) -> bool:
        first, self._first = not hasattr(self, "_first"), False
        if first:
            self.mark = 10 * CELL
        return first


class _Reader(asyncio.Protocol):
    """``reads`` holds the size of each read, and the mark of the socket after it."""

    def __init__(self) -> None:
        self.reads: asyncio.Queue[tuple[int, int]] = asyncio.Queue()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket: socket.socket = transport.get_extra_info("socket")
        self._gathering = Gathering(transport, self._socket)  # type: ignore[arg-type]  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self._gathering.note(len(data), 1)
        mark = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)
        self.reads.put_nowait((len(data), mark))


async def test_the_end_of_a_burst_is_not_left_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "ReadPacer", _Marker)
    reader = _Reader()
    loop = asyncio.get_running_loop()
    async with await loop.create_server(lambda: reader, "127.0.0.1", 0) as server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(bytes(CELL))
        assert await reader.reads.get() == (CELL, 10 * CELL)
        writer.write(bytes(CELL))  # not as many as the mark: only that nothing more comes wakes the reader
        assert await reader.reads.get() == (CELL, NO_MARK)
        writer.close()
