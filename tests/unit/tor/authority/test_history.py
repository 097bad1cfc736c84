"""What an authority remembers of relays' uptimes (dir-spec 3.4.2)."""

from __future__ import annotations

import json

import pytest

from pelure.tor.authority.history import DECAY, DECAY_INTERVAL, ENOUGH_STABILITY, History

ONE, OTHER = bytes([1]) * 20, bytes([2]) * 20
START = 1_700_000_000.0
HOUR = 3600.0


def test_uptime_and_runs() -> None:
    history = History(START)
    history.note(ONE, True, START)
    history.note(ONE, True, START + 2 * HOUR)
    assert history.uptime(ONE, START + 3 * HOUR) == 3 * HOUR
    history.note(ONE, False, START + 4 * HOUR)
    assert history.uptime(ONE, START + 5 * HOUR) == 0
    history.note(ONE, True, START + 6 * HOUR)
    assert history.mean_time_between_failures(ONE, START + 8 * HOUR) == 3 * HOUR
    assert history.fractional_uptime(ONE, START + 8 * HOUR) == pytest.approx(0.75)
    assert history.time_known(ONE, START + 8 * HOUR) == 8 * HOUR


def test_the_past_counts_for_less() -> None:
    history = History(START)
    history.note(ONE, True, START)
    history.note(ONE, False, START + HOUR)
    history.decay(START + DECAY_INTERVAL)
    assert history.time_known(ONE, START + DECAY_INTERVAL) == pytest.approx(DECAY_INTERVAL * DECAY)
    assert history.mean_time_between_failures(ONE, START + DECAY_INTERVAL) == pytest.approx(HOUR)


def test_relays_long_gone_are_forgotten() -> None:
    history = History(START)
    history.note(ONE, True, START)
    history.note(ONE, False, START + HOUR)
    history.decay(START + 400 * 86400)
    assert history.time_known(ONE, START + 400 * 86400) == 0


DAY = 24 * HOUR


def kept(history: History, days: float) -> bool:
    """Whether relay ONE is still known so many days after the start."""
    history.decay(START + days * DAY)
    return history.time_known(ONE, START + days * DAY) > 0


def test_a_relay_that_is_up_is_never_forgotten() -> None:
    history = History(START)
    history.note(ONE, True, START)
    assert kept(history, 400) and history.uptime(ONE, START + 400 * DAY) == 400 * DAY


def test_a_relay_that_was_never_up_is_forgotten_after_a_month() -> None:
    history = History(START)
    for hours in (0, 10, 20):  # it went down once
        history.note(ONE, False, START + hours * HOUR)
    assert kept(history, 30) and not kept(history, 30.1)


def test_a_relay_with_a_past_is_remembered_for_longer() -> None:
    history = History(START)
    history.note(ONE, True, START)
    history.note(ONE, False, START + HOUR)
    assert kept(history, 60) and not kept(history, 120)


def test_uptime_long_ago_counts_for_less_than_downtime_now() -> None:
    history = History(START)
    history.note(ONE, True, START)
    history.decay(START + 10 * DAY)
    history.note(ONE, False, START + 10 * DAY)
    history.decay(START + 20 * DAY)
    up, down = (sum(DECAY**n for n in numbers) for numbers in (range(21, 41), range(1, 21)))
    assert history.fractional_uptime(ONE, START + 20 * DAY) == pytest.approx(up / (up + down))


def test_an_unknown_relay() -> None:
    history = History(START)
    assert history.mean_time_between_failures(OTHER, START) == 0
    assert history.fractional_uptime(OTHER, START) == 0
    assert not history.enough(START + HOUR) and history.enough(START + ENOUGH_STABILITY)


def test_it_survives_a_restart() -> None:
    history = History(START)
    history.note(ONE, True, START)
    history.note(OTHER, False, START + HOUR)
    history.decay(START + DAY)
    again = History.from_json(json.loads(json.dumps(history.to_json())), START + DAY)
    assert again.to_json() == history.to_json()


@pytest.mark.parametrize(
    "damaged", [None, [], {}, {"started": "x"}, {"started": 1, "decayed_at": 1, "relays": 3}]
)
def test_a_damaged_file_starts_anew(damaged: object) -> None:
    assert History.from_json(damaged, START).started == START


def test_a_file_from_the_future_starts_anew() -> None:
    assert History.from_json(History(START + HOUR).to_json(), START).started == START
