"""How fast a relay's links may read and write (tor manual: ``RelayBandwidthRate``, ``RelayBandwidthBurst``).

One token bucket (of bytes) for all that is read and one for all that is written, as in C tor. A link asks
for its :meth:`Direction.share` before it takes bytes and tells what it took; where a bucket is empty it waits
for its turn, and its peers and circuits feel it as they feel any slow link.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

TICK_SECONDS = 0.05  # between two fillings while links wait
PARTS = 8  # a link takes no more than this part of what is left at once
LEAST_SHARE = 4096  # bytes
Wake = Callable[[], None]


class Bucket:
    """``rate`` tokens a second in the long run, ``burst`` at once; ``now``: monotonic seconds."""

    def __init__(self, rate: int, burst: int, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self.tokens = float(burst)
        """Below zero if more was taken than there was: what comes next has to wait for longer."""
        self._filled = now

    def fill(self, now: float) -> None:
        """Add what has accrued since the last time."""
        self.tokens = min(float(self.burst), self.tokens + (now - self._filled) * self.rate)
        self._filled = now

    def take(self, now: float) -> bool:
        """Take one token; False if there is none."""
        self.fill(now)
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class Direction:
    """Reading, or writing, of all links."""

    def __init__(self, bucket: Bucket, throttle: Throttle) -> None:
        self._bucket = bucket
        self._throttle = throttle
        self._waiting: deque[Wake] = deque()

    def share(self, most: int) -> int:
        """How many bytes one link may take now, 0 to ``most``; if 0 it should :meth:`wait`."""
        bucket = self._bucket
        bucket.fill(self._throttle.now())
        if bucket.tokens <= 0:
            return 0
        return min(most, max(LEAST_SHARE, int(bucket.tokens) // PARTS))

    def spend(self, size: int) -> None:
        """A link has taken ``size`` bytes."""
        self._bucket.tokens -= size

    def wait(self, wake: Wake) -> None:
        """Call ``wake`` once, when bytes may be taken again and those who asked before had their turn."""
        self._waiting.append(wake)
        self._throttle.start()

    def release(self, now: float) -> bool:
        """Wake as many as there are bytes for; returns whether others still wait."""
        bucket = self._bucket
        bucket.fill(now)
        # Who reads takes its bytes later: so many turns are given as there are least shares.
        turns = min(len(self._waiting), max(0, -int(-bucket.tokens // LEAST_SHARE)))
        while turns and bucket.tokens > 0:
            turns -= 1
            self._waiting.popleft()()
        return bool(self._waiting)


class Throttle:
    """The limits of all links of an event loop: ``rate`` bytes a second and ``burst`` bytes, each way."""

    def __init__(self, rate: int, burst: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.reading = Direction(Bucket(rate, burst, self.now()), self)
        self.writing = Direction(Bucket(rate, burst, self.now()), self)

    def now(self) -> float:
        """The loop's clock."""
        return self._loop.time()

    def start(self) -> None:
        """Somebody waits: see to it that the buckets are filled."""
        if self._timer is None:
            self._timer = self._loop.call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self.now()
        if any([self.reading.release(now), self.writing.release(now)]):
            self.start()
