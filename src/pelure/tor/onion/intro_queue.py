"""A service's queue of introductions, those of most effort first, and the effort that it suggests to clients.

Proposal 327 sections 3.4.2 and 3.4.3, with C tor's limits. The suggestion goes up by one step, or to the mean
effort of what was answered, after a period in which requests that followed it were left waiting; it goes down
by a third after a period without a queue.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import count
from typing import Generic, TypeVar

from pelure.tor.onion.pow import EFFORT_MAX

UPDATE_SECONDS = 300.0
"""The period after which the suggestion is looked at (HS_UPDATE_PERIOD)."""
MAX_WAIT_SECONDS = 15.0
"""Who waited for longer is not answered: the client would have given up by the time of a rendezvous."""
_RENDEZVOUS_SECONDS = 30

T = TypeVar("T")


@dataclass(frozen=True)
class PowLimits:
    """How many introductions a service answers: ``rate`` a second in the long run, ``burst`` at once.

    What comes beyond waits in the queue. C tor's ``HiddenServicePoWQueueRate`` and
    ``HiddenServicePoWQueueBurst`` with their defaults.
    """

    rate: int = 250
    burst: int = 2500

    @property
    def low_level(self) -> int:
        """From so many waiting requests on it counts as a queue: more than a quarter of a second's work."""
        return max(8, self.rate // 4)

    @property
    def high_level(self) -> int:
        """With so many waiting the lower half is dropped."""
        return self.burst + 2 * _RENDEZVOUS_SECONDS * self.rate


class EffortQueue(Generic[T]):
    """Requests of type ``T`` in the order of their effort; times are monotonic seconds.

    When ``most`` wait, the lower half is dropped; so is who waits for too long.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: list[tuple[int, int, float, T]] = []
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def top_effort(self) -> int:
        """The effort of the first in the queue, which must not be empty."""
        return -self._waiting[0][0]

    def add(self, request: T, effort: int, now: float) -> None:
        """Let a request wait, behind all of more effort and those of the same that came before."""
        heapq.heappush(self._waiting, (-effort, next(self._numbers), now, request))
        if len(self._waiting) >= self._most:
            self._trim(now)

    def pop(self, now: float) -> T | None:
        """The request whose turn it is; None if there is none left that is worth it."""
        while self._waiting:
            effort, _, since, request = heapq.heappop(self._waiting)
            if now - since <= MAX_WAIT_SECONDS:
                return request
            self._drop(-effort)
        return None

    def _trim(self, now: float) -> None:
        kept: list[tuple[int, int, float, T]] = []
        for entry in sorted(self._waiting):
            if len(kept) < self._most // 2 and now - entry[2] <= MAX_WAIT_SECONDS:
                kept.append(entry)
            else:
                self._drop(-entry[0])
        self._waiting = kept

    def _drop(self, effort: int) -> None:
        """A request of this effort was dropped."""


class IntroQueue(EffortQueue[T]):
    """The queue before the rendezvous; ``suggested_effort``, what clients should make, follows from it."""

    def __init__(self, limits: PowLimits) -> None:
        super().__init__(limits.high_level)
        self.suggested_effort = 0
        self._low_level = limits.low_level
        self._start_period()

    def _start_period(self) -> None:
        self._total_effort = 0
        self._handled = 0
        self._had_queue = False
        self._dropped_effort = 0

    @property
    def top_follows_suggestion(self) -> bool:
        """Whether there is a request in the queue that has the suggested effort at least."""
        return bool(self) and self.top_effort >= self.suggested_effort

    def add(self, request: T, effort: int, now: float) -> None:
        super().add(request, effort, now)
        self._total_effort += effort
        self._had_queue |= len(self) >= self._low_level

    def pop(self, now: float) -> T | None:
        request = super().pop(now)
        self._handled += request is not None
        return request

    def update_effort(self) -> None:
        """Look at the period that ends now, and begin another."""
        if self._dropped_effort > self.suggested_effort or (self._had_queue and self.top_follows_suggestion):
            mean = self._total_effort // self._handled if self._handled else 0
            self.suggested_effort = min(max(self.suggested_effort + 1, mean), EFFORT_MAX)
        elif not self._had_queue and len(self) < self._low_level:
            self.suggested_effort = 2 * self.suggested_effort // 3
        self._start_period()

    def _drop(self, effort: int) -> None:
        self._dropped_effort = max(self._dropped_effort, effort)
