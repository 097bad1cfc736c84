"""How many requests to keep in flight to one peer, sized to the link by the delay of its answers.

The window grows by one with each answer while answers take at most twice as long as on the idle link, so it
doubles each round trip, and shrinks by one with each answer once they take over four times as long, for
then more in flight only makes the queue longer. It settles at about two bandwidth-delay products, from a
loopback connection to an onion circuit, and never shrinks below that. Now and then the queue is let run
dry for a moment to see how long an answer takes on the idle link by now. (TCP Vegas has the first idea and
BBR the second.)
"""

from __future__ import annotations

START = 64
MINIMUM = 16
MAXIMUM = 1024
MAX_BYTES = 32 * 1024 * 1024
"""Bytes that the answers in flight may amount to, going by the mean size of the last ones."""

_PROBE_SECONDS = 30.0
_PROBE_SIZE = 2
_GROW_SLACK = 0.02
_SHRINK_SLACK = 0.1


class Window:
    """The window of one peer; times are seconds of any one clock."""

    def __init__(self) -> None:
        self.latency: float | None = None
        """Smoothed seconds from request to answer; ``None`` before the first answer."""
        self._size = float(START)
        self._mean_bytes = 65536.0
        self._floor: float | None = None
        self._floor_time = 0.0
        self._probing_since: float | None = None

    @property
    def size(self) -> int:
        """How many requests may be in flight."""
        if self._probing_since is not None:
            return _PROBE_SIZE
        if self._mean_bytes * self._size <= MAX_BYTES:
            return int(self._size)
        return max(_PROBE_SIZE, int(MAX_BYTES / self._mean_bytes))

    @property
    def mean_bytes(self) -> int:
        """The mean size of the last answers."""
        return int(self._mean_bytes)

    def answered(self, latency: float, size: int, ahead: int, full: bool, now: float) -> None:
        """Take note of an answer of ``size`` bytes.

        When it was asked for, ``ahead`` requests were in flight, itself included; ``full``: as many as the
        window allowed.
        """
        self._mean_bytes += (size - self._mean_bytes) / 16
        if self._probing_since is not None:
            if now - latency >= self._probing_since:  # asked for after the queue had run dry
                self._probing_since = None
                self._set_floor(latency, now)
            return
        self.latency = latency if self.latency is None else self.latency + (latency - self.latency) / 16
        floor = self._floor
        if floor is None or latency <= floor:
            self._set_floor(latency, now)
        elif now - self._floor_time > _PROBE_SECONDS:
            if full:
                self._probing_since = now
            else:
                self._set_floor(latency, now)
        elif latency > 4 * floor + _SHRINK_SLACK:
            two_products = 2 * floor * ahead / latency  # ahead / latency answers come a second
            self._size = max(self._size - 1, MINIMUM, min(two_products, self._size))
        elif full and latency <= 2 * floor + _GROW_SLACK:
            self._size = min(self._size + 1, MAXIMUM)

    def _set_floor(self, latency: float, now: float) -> None:
        self._floor = latency
        self._floor_time = now
