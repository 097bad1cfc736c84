"""How much a link that carries bulk lets gather before it reads, so that cells come in larger runs.

A peer that writes in small pieces wakes its reader for a few cells at a time, and what a wake-up costs (a
change of processes, calls of the system, code and data that have left the processor's caches) is then paid
for each few cells. So the kernel waits until a *mark* of bytes is there (``SO_RCVLOWAT``, socket(7)), as C
tor's KIST scheduler lets cells gather between its writes. How a peer writes shows in the size of its TLS
records: nothing waits where whole runs come at once, as from pelure. C tor's records end with the pieces of
its buffers, at 4 KiB.

Waiting also keeps cells from going round, of which a congestion window allows only so many: the mark is what
the link has lately brought in ``GATHER_SECONDS``. The end of a burst never reaches it; a link that has read
nothing for ``STALL_SECONDS`` reads everything as it comes again. So does a quiet link, always.
"""

from __future__ import annotations

import asyncio
import socket

GATHER_SECONDS = 0.001
WINDOW_SECONDS = 0.005  # over which the rate is taken, and the least time until a burst counts as bulk
STALL_SECONDS = 0.002
LEAST_MARK = 1024  # bytes; two cells are worth waiting for, as acknowledgements of bulk come one by one
MOST_MARK = 64 * 1024  # bytes; a read as large as this is worth its wake-up
LARGE_RECORD = 4608  # bytes; where records are as large as this on average, runs come whole
NO_MARK = 1  # byte: the kernel's own


class ReadPacer:
    """One link's. Times are monotonic seconds."""

    def __init__(self, now: float) -> None:
        self.mark = NO_MARK
        """So many bytes should be there before the link is woken."""
        self._since = now
        self._bytes = 0
        self._records = 0
        self._has_read = False

    def note(self, nbytes: int, records: int, now: float) -> bool:
        """Take note of a read; returns whether ``mark`` has changed by it.

        ``records``: how many TLS records the link has opened, all told.
        """
        self._has_read = True
        self._bytes += nbytes
        passed = now - self._since
        if passed < WINDOW_SECONDS:
            return False
        mark = min(MOST_MARK, int(self._bytes * GATHER_SECONDS / passed))
        whole_runs = self._bytes >= LARGE_RECORD * (records - self._records)
        self._since, self._bytes, self._records = now, 0, records
        if whole_runs or mark < LEAST_MARK:
            mark = NO_MARK
        if self.mark // 2 < mark < self.mark * 2:  # a change that small is not worth a call of the system
            return False
        self.mark = mark
        return True

    def stalled(self) -> bool:
        """Whether nothing was read since the last call; there is no mark then. See ``STALL_SECONDS``."""
        if self._has_read:
            self._has_read = False
            return False
        self.mark = NO_MARK
        return True


class Gathering:
    """A link's reading: lets bytes gather in the kernel, and sees to it that none are left waiting there."""

    def __init__(self, transport: asyncio.Transport, sock: socket.socket) -> None:
        """``sock`` is the transport's: a TCP connection."""
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._socket = sock
        self._pacer = ReadPacer(self._loop.time())
        self._watching = False

    def note(self, nbytes: int, records: int) -> None:
        """Take note of a read; see :meth:`ReadPacer.note`."""
        if self._pacer.note(nbytes, records, self._loop.time()):
            self._set_mark()
            if not self._watching:
                self._watch()

    def _set_mark(self) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, self._pacer.mark)

    def _watch(self) -> None:
        self._watching = self._pacer.mark > NO_MARK
        if self._watching:
            self._loop.call_later(STALL_SECONDS, self._check)

    def _check(self) -> None:
        if self._transport.is_closing():
            return
        if self._pacer.mark > NO_MARK and self._pacer.stalled():
            self._set_mark()
        self._watch()
