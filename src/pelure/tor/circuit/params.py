"""The consensus parameters that govern a circuit (param-spec, "Network protocol"; proposal 324 §6.5).

Where proposal 324 and C tor 0.4.9 differ in a default, C tor's is taken, for it is what the network runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pelure.tor.cell.commands import RELAY_BODY_LEN

INT32_MAX = 2**31 - 1
_OUTBUF = 62
"""Cells in two full TLS records: the unit in which Vegas' queue thresholds are chosen."""


def _get(params: Mapping[str, int], name: str, default: int, low: int, high: int) -> int:
    return min(max(params.get(name, default), low), high)


@dataclass(frozen=True)
class VegasQueue:
    """How many cells Vegas lets queue along a path, by kind of path (proposal 324 §3.3)."""

    alpha: int = 3 * _OUTBUF
    beta: int = 4 * _OUTBUF
    gamma: int = 3 * _OUTBUF
    delta: int = 5 * _OUTBUF
    ss_cap: int = 600

    @classmethod
    def from_consensus(cls, params: Mapping[str, int], kind: str, defaults: VegasQueue) -> VegasQueue:
        """Read the parameters whose names end in ``kind`` ("exit" or "onion")."""
        return cls(
            alpha=_get(params, f"cc_vegas_alpha_{kind}", defaults.alpha, 0, 1000),
            beta=_get(params, f"cc_vegas_beta_{kind}", defaults.beta, 0, 1000),
            gamma=_get(params, f"cc_vegas_gamma_{kind}", defaults.gamma, 0, 1000),
            delta=_get(params, f"cc_vegas_delta_{kind}", defaults.delta, 0, INT32_MAX),
            ss_cap=_get(params, f"cc_sscap_{kind}", defaults.ss_cap, 100, INT32_MAX),
        )


@dataclass(frozen=True, slots=True)
class SignalLimits:
    """Bytes that a stream must have sent for each XOFF, and for each XON that follows no XOFF."""

    xoff: int
    xon: int


EXIT_QUEUE = VegasQueue()
ONION_QUEUE = VegasQueue(
    alpha=3 * _OUTBUF, beta=6 * _OUTBUF, gamma=4 * _OUTBUF, delta=7 * _OUTBUF, ss_cap=475
)


@dataclass(frozen=True)
class CircuitParams:
    """What a circuit needs to know of the consensus; the defaults hold where it says nothing."""

    cc_alg: int = 2
    """0: fixed windows; anything else: Vegas, the only other algorithm C tor has left."""
    circwindow: int = 1000
    """Initial circuit window in cells, without congestion control."""
    sendme_inc: int = 31
    """Cells that one circuit-level SENDME acknowledges, with congestion control."""
    cwnd_init: int = 124
    cwnd_min: int = 124
    cwnd_max: int = INT32_MAX
    cwnd_inc: int = 1
    cwnd_inc_rate: int = 31
    cwnd_inc_pct_ss: int = 100
    cwnd_full_gap: int = 4
    cwnd_full_minpct: int = 25
    cwnd_full_per_cwnd: bool = True
    ss_max: int = 5000
    ewma_cwnd_pct: int = 50
    ewma_max: int = 10
    ewma_ss: int = 2
    rtt_reset_pct: int = 100
    exit_queue: VegasQueue = field(default=EXIT_QUEUE)
    onion_queue: VegasQueue = field(default=ONION_QUEUE)
    xoff_client: int = 500
    """Cells of unread data at which a client or service sends XOFF."""
    xoff_exit: int = 500
    """The same for an exit."""
    xon_rate: int = 500
    """Cells of data on a stream between two XONs that only advise a rate."""

    @property
    def signal_limits(self) -> SignalLimits:
        """How often streams may get XON and XOFF.

        Half of what proposal 324 §4.1.4 has, as in arti: the other side's consensus may be another, and
        which kind it is of is not known here.
        """
        xoff = min(self.xoff_client, self.xoff_exit) * RELAY_BODY_LEN // 2
        return SignalLimits(xoff, self.xon_rate * RELAY_BODY_LEN // 2)

    @property
    def congestion_control(self) -> bool:
        """Whether the network wants congestion control where both ends support it."""
        return self.cc_alg != 0

    @classmethod
    def from_consensus(cls, params: Mapping[str, int]) -> CircuitParams:
        """Read a consensus' ``params``; values out of range move to the nearest bound."""
        return cls(
            cc_alg=_get(params, "cc_alg", 2, 0, 3),
            circwindow=_get(params, "circwindow", 1000, 100, 1000),
            sendme_inc=_get(params, "cc_sendme_inc", 31, 1, 254),
            cwnd_init=_get(params, "cc_cwnd_init", 124, 31, 10000),
            cwnd_min=_get(params, "cc_cwnd_min", 124, 31, 1000),
            cwnd_max=_get(params, "cc_cwnd_max", INT32_MAX, 500, INT32_MAX),
            cwnd_inc=_get(params, "cc_cwnd_inc", 1, 1, 1000),
            cwnd_inc_rate=_get(params, "cc_cwnd_inc_rate", 31, 1, 250),
            cwnd_inc_pct_ss=_get(params, "cc_cwnd_inc_pct_ss", 100, 1, 500),
            cwnd_full_gap=_get(params, "cc_cwnd_full_gap", 4, 0, 32767),
            cwnd_full_minpct=_get(params, "cc_cwnd_full_minpct", 25, 0, 100),
            cwnd_full_per_cwnd=bool(_get(params, "cc_cwnd_full_per_cwnd", 1, 0, 1)),
            ss_max=_get(params, "cc_ss_max", 5000, 500, INT32_MAX),
            ewma_cwnd_pct=_get(params, "cc_ewma_cwnd_pct", 50, 1, 255),
            ewma_max=_get(params, "cc_ewma_max", 10, 2, INT32_MAX),
            ewma_ss=_get(params, "cc_ewma_ss", 2, 2, INT32_MAX),
            rtt_reset_pct=_get(params, "cc_rtt_reset_pct", 100, 0, 100),
            exit_queue=VegasQueue.from_consensus(params, "exit", EXIT_QUEUE),
            onion_queue=VegasQueue.from_consensus(params, "onion", ONION_QUEUE),
            xoff_client=_get(params, "cc_xoff_client", 500, 1, 10000),
            xoff_exit=_get(params, "cc_xoff_exit", 500, 1, 10000),
            xon_rate=_get(params, "cc_xon_rate", 500, 1, 5000),
        )
