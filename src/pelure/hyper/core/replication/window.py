"""How many requests to keep in flight to one peer, sized to the link by the delay of its answers.

The window grows by one with each answer while answers come nearly as fast as they ever did, so it
doubles each round trip, and shrinks by one with each answer once they take several times as long, for
then more in flight only makes the queue longer. It settles at about two bandwidth-delay products, from
a loopback connection to an onion circuit. (The idea is that of TCP Vegas; the figures are measured.)
"""

from __future__ import annotations

START = 64
MINIMUM = 16
MAXIMUM = 1024
MAX_BYTES = 32 * 1024 * 1024
"""Bytes that the answers in flight may amount to, going by the mean size of the last ones."""

_FRESH_SECONDS = 15.0
_GROW_SLACK = 0.02
_SHRINK_SLACK = 0.1


class Window:
    """The window of one peer; times are seconds of any one clock."""

    def __init__(self) -> None:
        self.latency: float | None = None
        """Smoothed seconds from request to answer; ``None`` before the first answer."""
        self._size = float(START)
        self._mean_bytes = 65536.0
        self._recent_floor = self._older_floor = float("inf")
        self._floor_since = 0.0

    @property
    def size(self) -> int:
        """How many requests may be in flight."""
        if self._mean_bytes * self._size <= MAX_BYTES:
            return int(self._size)
        return max(2, int(MAX_BYTES / self._mean_bytes))

    @property
    def mean_bytes(self) -> int:
        """The mean size of the last answers."""
        return int(self._mean_bytes)

    def answered(self, latency: float, size: int, full: bool, now: float) -> None:
        """Take note of an answer of ``size`` bytes; ``full``: the window was in use to its limit."""
        if now - self._floor_since > _FRESH_SECONDS:
            self._older_floor, self._recent_floor = self._recent_floor, float("inf")
            self._floor_since = now
        self._recent_floor = min(self._recent_floor, latency)
        floor = min(self._recent_floor, self._older_floor)
        self.latency = latency if self.latency is None else self.latency + (latency - self.latency) / 16
        self._mean_bytes += (size - self._mean_bytes) / 16
        if latency > 4 * floor + _SHRINK_SLACK:
            self._size = max(self._size - 1, MINIMUM)
        elif full and latency <= 2 * floor + _GROW_SLACK:
            self._size = min(self._size + 1, MAXIMUM)
