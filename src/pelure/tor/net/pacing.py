"""When a link should let bytes gather before it reads on, so that cells come in larger runs.

A peer that writes in small pieces wakes its reader for a few cells at a time, and what a wake-up costs (calls
of the system and of numpy, an acknowledgement to build and send) is then paid for each few cells. A link that
carries bulk waits a moment after a small read instead, as C tor's KIST scheduler does between its writes.

Waiting also keeps cells from going round, of which a congestion window allows only so many. So a link sees,
again and again, how large its reads are when it doesn't wait: large where the peer writes whole runs, as
pelure does, or where this process is busy anyway. A quiet link never waits: interactive traffic is read as it
comes.
"""

from __future__ import annotations

PAUSE_SECONDS = 0.001
SMALL_READ = 16 * 1024  # bytes; waiting is worth it while reads come smaller than this on average
LARGE_READ = 64 * 1024  # bytes; a read as large as this is worth its wake-up whatever the others were
BUSY_RATE = 3_000_000  # bytes a second: at less, hardly anything would gather
WINDOW_SECONDS = 0.02  # over which the rate is taken, and the least time until a burst counts as bulk
PROBES = 4  # reads at the beginning of each window that nothing waits for, to see how large they come


class ReadPacer:
    """One link's. Times are monotonic seconds."""

    def __init__(self, now: float) -> None:
        self._since = now
        self._bytes = 0
        self._busy = False
        self._probes = 0
        self._probed_bytes = 0
        self._waited = False

    def should_wait(self, nbytes: int, now: float) -> bool:
        """Take note of a read; returns whether to wait ``PAUSE_SECONDS`` before the next one."""
        self._bytes += nbytes
        passed = now - self._since
        if passed >= WINDOW_SECONDS:
            self._busy = self._bytes > BUSY_RATE * passed
            self._since, self._bytes = now, 0
            self._probes = self._probed_bytes = 0
        if not self._waited:
            self._probes += 1
            self._probed_bytes += nbytes
        piecemeal = self._probes >= PROBES and self._probed_bytes < SMALL_READ * self._probes
        self._waited = self._busy and piecemeal and nbytes < LARGE_READ
        return self._waited
