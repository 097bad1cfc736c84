"""What a relay says of its own bandwidth (dir-spec 2.1.1, "bandwidth": rate, burst, observed).

*Observed* is measured from real traffic: the most that was carried during any ten seconds of the last five
days, the lesser of reading and writing. A relay that carried nothing yet claims the least one may have.
"""

from __future__ import annotations

from collections import deque
from typing import Any

WINDOW_SECONDS = 10.0
KEPT_SECONDS = 5 * 86400.0
PERIOD_SECONDS = 3600.0  # the maximum of each hour is remembered
LEAST_OBSERVED = 75 * 1024  # bytes a second: what C tor asks of relays


class BandwidthMeter:
    """Feed :meth:`note` about once a second with what has been read and written so far."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int, int]] = deque()
        self._peaks: deque[tuple[float, float, float]] = deque()

    def note(self, now: float, read: int, written: int) -> None:
        """``read``, ``written``: bytes since the start, never falling; ``now``: epoch seconds."""
        if self._samples and now < self._samples[-1][0]:  # the clock was set back
            self._samples.clear()
            self._peaks = deque(peak for peak in self._peaks if peak[0] <= now)
        self._samples.append((now, read, written))
        while len(self._samples) > 1 and self._samples[1][0] <= now - WINDOW_SECONDS:
            self._samples.popleft()
        since, read_then, written_then = self._samples[0]
        if now - since < WINDOW_SECONDS:
            return
        read_rate, write_rate = (read - read_then) / (now - since), (written - written_then) / (now - since)
        if self._peaks and self._peaks[-1][0] > now - PERIOD_SECONDS:
            began, best_read, best_write = self._peaks[-1]
            self._peaks[-1] = (began, max(best_read, read_rate), max(best_write, write_rate))
        else:
            self._peaks.append((now, read_rate, write_rate))
        while self._peaks[0][0] < now - KEPT_SECONDS:
            self._peaks.popleft()

    @property
    def observed(self) -> int:
        """Bytes a second."""
        if not self._peaks:
            return LEAST_OBSERVED
        read = max(peak[1] for peak in self._peaks)
        written = max(peak[2] for peak in self._peaks)
        return max(LEAST_OBSERVED, int(min(read, written)))

    def state(self) -> list[list[float]]:
        """What to keep on disk."""
        return [list(peak) for peak in self._peaks]

    def restore(self, state: Any, now: float) -> None:
        """Take up what :meth:`state` gave in an earlier run; damaged state is ignored."""
        try:
            peaks = [(float(began), float(read), float(written)) for began, read, written in state]
        except (TypeError, ValueError):
            return
        self._peaks = deque(peak for peak in peaks if now - KEPT_SECONDS < peak[0] <= now)
