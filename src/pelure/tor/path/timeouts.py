"""How long to wait for a circuit: learned from those that were built (path-spec section 2.4).

Build times are taken to follow a Pareto distribution; its parameters are estimated from the last 1000
circuits of three hops, and the time-out is the quantile by which most of them were there. Times are in
milliseconds inside, as in the specification and in its consensus parameters, and in seconds outside.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

HISTORY = 1000
BIN_MS = 10
ESTIMATE_EVERY = 10
"""So many new circuits between two estimates, each of which looks at the whole history."""
STATE_VERSION = 1
MAX_MS = 2**31 - 1
FLOOR_SECONDS = 1.5
TESTING_FLOOR_SECONDS = 10.0
"""Least time-out on a testing network: many processes share one machine there, and stutter together."""


def _param(params: Mapping[str, int], name: str, default: int, low: int, high: int) -> int:
    return min(max(params.get(name, default), low), high)


class BuildTimeouts:
    """Learns circuit build times. ``params``: of the consensus; ``state``: of an earlier run, or None."""

    def __init__(self, params: Mapping[str, int], *, testing: bool = False, state: Any = None) -> None:
        self._floor = TESTING_FLOOR_SECONDS if testing else FLOOR_SECONDS
        self._times: deque[int] = deque(maxlen=HISTORY)
        self._unseen = 0
        self._load(state)
        self.set_params(params)

    def set_params(self, params: Mapping[str, int]) -> None:
        """Use the parameters of a new consensus."""
        self._disabled = _param(params, "cbtdisabled", 0, 0, 1) == 1
        self._modes = _param(params, "cbtnummodes", 10, 1, 20)
        self._max_timeouts = _param(params, "cbtmaxtimeouts", 18, 3, 10000)
        self._least = _param(params, "cbtmincircs", 100, 1, 10000)
        self._quantile = _param(params, "cbtquantile", 80, 10, 99) / 100
        self._close_quantile = _param(params, "cbtclosequantile", 99, 10, 99) / 100
        self._min_ms = _param(params, "cbtmintimeout", 10, 10, MAX_MS)
        self._initial_ms = max(_param(params, "cbtinitialtimeout", 60000, 10, MAX_MS), self._min_ms)
        self._recent: deque[bool] = deque(maxlen=_param(params, "cbtrecentcount", 20, 3, 1000))
        self._timeout_ms = self._abandon_ms = float(self._initial_ms)
        self._estimate()

    @property
    def timeout(self) -> float:
        """Seconds after which a circuit of three hops is given up for use."""
        return max(self._timeout_ms / 1000, self._floor)

    @property
    def abandon(self) -> float:
        """Seconds after which it isn't even measured any longer; never less than ``timeout``."""
        return max(self._abandon_ms / 1000, self.timeout)

    def built(self, seconds: float) -> None:
        """A circuit of three hops took ``seconds``, whether or not it came in time."""
        self._times.append(min(max(round(seconds * 1000), 1), MAX_MS))
        if seconds <= self.timeout:
            self._recent.append(False)
        self._unseen += 1
        if self._unseen >= ESTIMATE_EVERY or len(self._times) <= self._least:
            self._estimate()

    def timed_out(self) -> None:
        """A circuit of three hops was late. Too many of them of late: the network changed, learn anew."""
        self._recent.append(True)
        if sum(self._recent) < self._max_timeouts:
            return
        longer = max(2 * self.timeout * 1000, float(self._initial_ms))
        self._times.clear()
        self._recent.clear()
        self._timeout_ms = self._abandon_ms = min(longer, 8.0 * self._initial_ms)

    def state(self) -> dict[str, Any]:
        """The build times as a histogram of bins of 10 ms, fit for JSON."""
        bins = Counter(time // BIN_MS for time in self._times)
        return {"version": STATE_VERSION, "bins": sorted(bins.items())}

    def _load(self, state: Any) -> None:
        if not isinstance(state, dict) or state.get("version") != STATE_VERSION:
            return
        try:
            bins = [(int(number), int(count)) for number, count in state["bins"]]
        except (KeyError, TypeError, ValueError):
            return  # what can't be read is learned again
        for number, count in bins:
            if 0 <= number <= MAX_MS // BIN_MS and count > 0:
                self._times.extend([number * BIN_MS + BIN_MS // 2] * min(count, HISTORY))

    def _estimate(self) -> None:
        """Fit the distribution (path-spec 2.4.2) once there are enough circuits."""
        self._unseen = 0
        if self._disabled or len(self._times) < self._least:
            return
        minimum = self._x_m()
        # Times below the mode's estimate count as the mode itself.
        logs = sum(math.log(max(time, minimum) / minimum) for time in self._times)
        alpha = len(self._times) / logs if logs > 0 else math.inf
        self._timeout_ms = max(minimum / (1 - self._quantile) ** (1 / alpha), self._min_ms)
        self._abandon_ms = max(minimum / (1 - self._close_quantile) ** (1 / alpha), self._initial_ms)

    def _x_m(self) -> float:
        """Xm: the mean of the most frequent bins' centres, weighted by how often they occur."""
        bins = Counter(time // BIN_MS for time in self._times)
        common = bins.most_common(self._modes)
        total = sum(count for _, count in common)
        return sum((number * BIN_MS + BIN_MS / 2) * count for number, count in common) / total
