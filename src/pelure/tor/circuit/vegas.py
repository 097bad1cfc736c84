"""Tor Vegas: the congestion window of one side of a circuit (proposal 324 §2.1 and §3.3).

Vegas estimates how many of its own cells wait in queues along the path, as the window less the
bandwidth-delay product, and keeps that number between thresholds. Times are whole microseconds, and every
division is the integer one of the proposal, so that the result is the same as other implementations'.
"""

from __future__ import annotations

from pelure.tor.circuit.params import CircuitParams, VegasQueue

CLOCK_JUMP_RATIO = 5000
"""A round trip this many times longer than the average is a clock that jumped, not a network that slowed."""


class RoundTripTime:
    """Smoothed and least round-trip time in microseconds; 0 until the first measurement."""

    def __init__(self, params: CircuitParams) -> None:
        self._params = params
        self._stalled = False
        self.ewma = 0
        self.least = 0

    def update(self, rtt: int, *, slow_start: bool, update_rate: int, at_minimum: bool) -> bool:
        """Take in one measurement; returns False when the clock can't have been right.

        ``update_rate``: SENDMEs between window updates; ``at_minimum``: the window is as small as it gets.
        """
        if not self._plausible(rtt, slow_start):
            return False
        count = self._smoothing(slow_start, update_rate)
        self.ewma = (2 * rtt + (count - 1) * self.ewma) // (count + 1) if self.ewma else rtt
        if self.least == 0:
            self.least = self.ewma
        elif at_minimum and not slow_start:
            high, low = max(self.ewma, self.least), min(self.ewma, self.least)
            percent = self._params.rtt_reset_pct
            self.least = percent * high // 100 + (100 - percent) * low // 100
        else:
            self.least = min(self.least, self.ewma)
        return True

    def _plausible(self, rtt: int, slow_start: bool) -> bool:
        if rtt <= 0:
            self._stalled = True
            return False
        if slow_start or not self.ewma:
            return True
        if self.ewma > rtt * CLOCK_JUMP_RATIO:
            return not self._stalled
        if rtt > self.ewma * CLOCK_JUMP_RATIO:
            return False
        self._stalled = False
        return True

    def _smoothing(self, slow_start: bool, update_rate: int) -> int:
        if slow_start:
            return max(self._params.ewma_ss, 2)
        return max(min(update_rate * self._params.ewma_cwnd_pct // 100, self._params.ewma_max), 2)


class Vegas:
    """The state of one sender: ``cwnd`` cells may be in flight, ``inflight`` are."""

    def __init__(self, params: CircuitParams, queue: VegasQueue, increment: int) -> None:
        self._params = params
        self._queue = queue
        self._increment = increment
        self.cwnd = params.cwnd_init
        self.inflight = 0
        self.slow_start = True
        self.full = False
        self.blocked = False
        self.bdp = params.cwnd_init
        self.rtt = RoundTripTime(params)
        self._until_update = self._update_rate()
        self._until_window = 0

    def acknowledged(self, rtt: int, blocked: bool) -> None:
        """Run the algorithm for one SENDME that came ``rtt`` microseconds after the cell it acknowledges."""
        self._until_update = max(self._until_update - 1, 0)
        self._until_window = max(self._until_window - 1, 0)
        if self._estimate(rtt, blocked):
            queued = max(0, self.cwnd - self.bdp)
            self._judge_fullness()
            if self.slow_start:
                self._slow_start(queued)
            elif self._until_update == 0:
                self._steady(queued)
            self._schedule()
        self.inflight -= self._increment

    def _estimate(self, rtt: int, blocked: bool) -> bool:
        """Update round-trip time and bandwidth-delay product; False when there is nothing to go by."""
        measured = self.rtt.update(
            rtt,
            slow_start=self.slow_start,
            update_rate=self._update_rate(),
            at_minimum=self.cwnd == self._params.cwnd_min,
        )
        if not self.rtt.ewma:
            self.bdp = self.cwnd
            self.blocked = blocked
            return blocked
        self.bdp = self.cwnd * self.rtt.least // self.rtt.ewma
        if blocked != self.blocked:
            self.blocked = blocked
            self._until_update = 0
        return measured or blocked

    def _judge_fullness(self) -> None:
        if self.inflight + self._params.cwnd_full_gap * self._increment >= self.cwnd:
            self.full = True
        elif 100 * self.inflight < self._params.cwnd_full_minpct * self.cwnd:
            self.full = False

    def _slow_start(self, queued: int) -> None:
        params = self._params
        if queued < self._queue.gamma and not self.blocked:
            if self.full:
                grown = self._limited_increment()
                self.cwnd += grown
                if grown * self._sendmes_per_window() <= params.cwnd_inc * params.cwnd_inc_rate:
                    self.slow_start = False
        else:
            self.cwnd = self.bdp + self._queue.gamma
            self.slow_start = False
        if self.cwnd >= params.ss_max:
            self.cwnd = params.ss_max
            self.slow_start = False
        self.cwnd = min(self.cwnd, params.cwnd_max)

    def _limited_increment(self) -> int:
        """RFC 3742 limited slow start."""
        if self.cwnd <= self._queue.ss_cap:
            return (self._params.cwnd_inc_pct_ss * self._increment + 50) // 100
        return max((self._increment * self._queue.ss_cap + self.cwnd) // (2 * self.cwnd), 1)

    def _steady(self, queued: int) -> None:
        params, queue = self._params, self._queue
        if queued > queue.delta:
            self.cwnd = self.bdp + queue.delta - params.cwnd_inc
        elif queued > queue.beta or self.blocked:
            self.cwnd -= params.cwnd_inc
        elif self.full and queued < queue.alpha:
            self.cwnd += params.cwnd_inc
        self.cwnd = min(max(self.cwnd, params.cwnd_min), params.cwnd_max)

    def _schedule(self) -> None:
        if self._until_window == 0:
            self._until_window = self._sendmes_per_window()
        if self._until_update == 0:
            self._until_update = self._update_rate()
        if self._params.cwnd_full_per_cwnd:
            if self._until_window == self._sendmes_per_window():
                self.full = False
        elif self._until_update == self._update_rate():
            self.full = False

    def _sendmes_per_window(self) -> int:
        return (self.cwnd + self._increment // 2) // self._increment

    def _update_rate(self) -> int:
        """SENDMEs between two updates of the window."""
        if self.slow_start:
            return 1
        cells = self._params.cwnd_inc_rate * self._increment
        return (self.cwnd + cells // 2) // cells
