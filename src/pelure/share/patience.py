"""How long programs that read a mounted drive wait for a publisher who is away.

A call waits for :data:`WAIT_SECONDS`. The kernel asks again for a page that it did not get, and a program for
the next file; neither is to wait as long for one who has been missed for that time already.
"""

from __future__ import annotations

import time
from collections.abc import Callable

WAIT_SECONDS = 60.0
AWAY_SECONDS = 1.0
"""What calls wait once :data:`WAIT_SECONDS` have passed, until the publisher is back."""


class Patience:
    """The wait that is left. ``connected`` tells whether there is anybody to answer, ``clock`` seconds."""

    def __init__(self, connected: Callable[[], bool], clock: Callable[[], float] = time.monotonic) -> None:
        self._connected = connected
        self._clock = clock
        self._until: float | None = None

    def left(self) -> float:
        """Seconds that a call which begins now may take."""
        now = self._clock()
        if self._connected():
            self._until = None
            return WAIT_SECONDS
        if self._until is None:
            self._until = now + WAIT_SECONDS
        return max(self._until - now, AWAY_SECONDS)

    def answered(self) -> None:
        """A call had what it asked for: if somebody is connected, who is missed later is missed from then."""
        if self._connected():
            self._until = None

    def exhausted(self) -> bool:
        """A call got nothing in the time it had; return whether it is the first of this absence."""
        first = self._until is None or self._clock() < self._until + AWAY_SECONDS
        self._until = self._clock() if self._until is None else self._until
        return first
