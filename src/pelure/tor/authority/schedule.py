"""When an authority votes, computes, and publishes (dir-spec section 1.4 and 3.2; C tor's testing intervals).

Pure functions of the clock. Times are seconds since the epoch; intervals and delays are whole seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

DAY = 86400


@dataclass(frozen=True, slots=True)
class VotingTimes:
    """An authority's preferred timing, as it votes for it.

    ``interval``: from one consensus to the next; ``vote_delay``: for votes to spread; ``dist_delay``: for
    signatures to spread; ``intervals_valid``: how many intervals a consensus stays valid. While no consensus
    is live the ``initial_*`` values hold (``TestingV3AuthInitial…``).
    """

    interval: int = 3600
    vote_delay: int = 300
    dist_delay: int = 300
    intervals_valid: int = 3
    initial_interval: int = 1800
    initial_vote_delay: int = 300
    initial_dist_delay: int = 300
    start_offset: int = 0


@dataclass(frozen=True, slots=True)
class Round:
    """One voting round; it ends with the publication of the consensus at ``valid_after``."""

    valid_after: int
    interval: int
    vote_at: float
    fetch_votes_at: float
    compute_at: float
    fetch_signatures_at: float


def next_interval_start(now: float, interval: int, offset: int = 0) -> int:
    """The next start of an interval after ``now``.

    Midnight (UTC) always starts an interval; a last interval of the day that would be cut to less than half
    its length is part of the one before.
    """
    second = int(now)
    midnight = second - second % DAY
    tomorrow = midnight + DAY
    start = midnight + ((second - midnight) // interval + 1) * interval
    if start + interval // 2 > tomorrow:
        start = tomorrow
    start += offset
    return start - interval if start - interval > now else start


def next_round(now: float, times: VotingTimes, live: tuple[int, int, int] | None) -> Round:
    """The first round that starts (with ``valid_after``) after ``now``.

    ``live`` is (interval, vote delay, distribution delay) of the consensus that is valid now, or None.
    """
    interval, vote_delay, dist_delay = live or (
        times.initial_interval,
        times.initial_vote_delay,
        times.initial_dist_delay,
    )
    if vote_delay + dist_delay > interval // 2:
        vote_delay = dist_delay = interval // 4
    start = next_interval_start(now, interval, times.start_offset)
    return Round(
        valid_after=start,
        interval=interval,
        vote_at=start - dist_delay - vote_delay,
        fetch_votes_at=start - dist_delay - vote_delay // 2,
        compute_at=start - dist_delay,
        fetch_signatures_at=start - dist_delay // 2,
    )
