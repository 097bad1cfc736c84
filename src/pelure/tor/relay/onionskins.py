"""Circuit handshakes waiting for their public-key work: queued for each link, shed when too many.

A handshake costs a fraction of a millisecond, so a flood of CREATE2 cells would hold up all that a relay
does. They are answered a few at a time between other work, links taking turns, and refused
(DESTROY, RESOURCELIMIT) once a link has more waiting than could be answered in ``MAX_WAIT``: the flooder is
shed, others are served (compare ``MaxOnionQueueDelay`` of C tor; tor-spec 5.1).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from time import perf_counter

log = logging.getLogger(__name__)

MAX_WAIT = 1.75  # seconds a handshake may wait
SLICE = 0.002  # seconds of handshakes between two turns of the event loop
MAX_QUEUED = 20_000  # over all links, whatever the measured speed
FIRST_GUESS = 0.0005  # seconds a handshake takes, until measured

Work = Callable[[], None]


class OnionskinQueue:
    """Runs handshakes soon, fairly over ``source`` keys (links)."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[object, deque[Work]] = {}
        self._turns: deque[object] = deque()
        self._scheduled = False
        self.queued = 0
        self.done = 0
        self.shed = 0
        self.seconds_each = FIRST_GUESS

    def submit(self, source: object, work: Work) -> bool:
        """Run ``work`` soon; False, and it never runs, if ``source`` has too much waiting already."""
        line = self._waiting.get(source)
        share = MAX_WAIT / self.seconds_each / max(1, len(self._turns) + (line is None))
        if self.queued >= MAX_QUEUED or (line is not None and len(line) >= share):
            self.shed += 1
            return False
        if line is None:
            line = self._waiting[source] = deque()
            self._turns.append(source)
        line.append(work)
        self.queued += 1
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run)
        return True

    def forget(self, source: object) -> None:
        """The link is gone: so are its handshakes."""
        line = self._waiting.pop(source, None)
        if line is not None:
            self.queued -= len(line)
            self._turns.remove(source)

    def _run(self) -> None:
        self._scheduled = False
        started = perf_counter()  # the loop's own clock may count whole milliseconds only
        count = 0
        elapsed = 0.0
        while self._turns and elapsed < SLICE:
            source = self._turns.popleft()
            line = self._waiting[source]
            work = line.popleft()
            if line:
                self._turns.append(source)
            else:
                del self._waiting[source]
            self.queued -= 1
            count += 1
            try:
                work()
            except Exception:
                log.exception("bug: a circuit handshake")
            elapsed = perf_counter() - started
        if count:
            self.done += count
            self.seconds_each += 0.1 * (elapsed / count - self.seconds_each)
        if self._turns and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run)
