"""The voting schedule (dir-spec 1.4): interval starts, delays, the initial intervals of a testing network."""

from __future__ import annotations

import calendar

from pelure.tor.authority.schedule import DAY, VotingTimes, next_interval_start, next_round

NOON = calendar.timegm((2026, 3, 1, 12, 0, 0))
MIDNIGHT = NOON + DAY // 2


def test_intervals_start_at_multiples_since_midnight() -> None:
    assert next_interval_start(NOON, 3600) == NOON + 3600
    assert next_interval_start(NOON + 1, 1800) == NOON + 1800
    assert next_interval_start(NOON + 3599.9, 10) == NOON + 3600


def test_midnight_starts_an_interval() -> None:
    # 7 hours: 21:00 would leave 3 hours, less than half, to midnight.
    assert next_interval_start(NOON + 8 * 3600, 7 * 3600) == MIDNIGHT
    assert next_interval_start(MIDNIGHT - 1, 10) == MIDNIGHT


def test_offset() -> None:
    assert next_interval_start(NOON, 100, 30) == NOON + 30
    assert next_interval_start(NOON + 31, 100, 30) == NOON + 130


def test_a_round_with_a_live_consensus() -> None:
    found = next_round(NOON + 5, VotingTimes(), (3600, 300, 300))
    assert found.valid_after == NOON + 3600
    assert (found.vote_at, found.compute_at) == (NOON + 3000, NOON + 3300)
    assert (found.fetch_votes_at, found.fetch_signatures_at) == (NOON + 3150, NOON + 3450)


def test_the_first_rounds_use_the_initial_interval() -> None:
    times = VotingTimes(10, 2, 2, initial_interval=5, initial_vote_delay=2, initial_dist_delay=2)
    found = next_round(NOON, times, None)
    # Delays that fill more than half of the interval are cut to a quarter of it.
    assert (found.valid_after, found.vote_at, found.compute_at) == (NOON + 5, NOON + 3, NOON + 4)
