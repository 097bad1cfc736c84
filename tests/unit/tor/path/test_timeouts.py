"""Learned circuit build time-outs (path-spec 2.4)."""

from __future__ import annotations

import json
import random

import pytest

from pelure.tor.path.timeouts import FLOOR_SECONDS, TESTING_FLOOR_SECONDS, BuildTimeouts


def pareto(count: int, minimum: float = 2.0, alpha: float = 3.0, seed: int = 1) -> list[float]:
    rng = random.Random(seed)
    return [minimum * rng.paretovariate(alpha) for _ in range(count)]


def test_the_time_out_begins_high_and_is_learned_from_a_hundred_circuits() -> None:
    times = BuildTimeouts({})
    samples = pareto(1000)
    for seconds in samples[:99]:
        times.built(seconds)
        assert times.timeout == times.abandon == 60
    for seconds in samples[99:]:
        times.built(seconds)
    in_time = sum(seconds <= times.timeout for seconds in samples) / len(samples)
    assert 0.7 < in_time < 0.9
    assert times.abandon >= 60


def test_consensus_parameters() -> None:
    times = BuildTimeouts({"cbtinitialtimeout": 20_000, "cbtmincircs": 10})
    assert times.timeout == 20
    for seconds in pareto(10):
        times.built(seconds)
    assert times.timeout < 20
    off = BuildTimeouts({"cbtdisabled": 1, "cbtmincircs": 1})
    off.built(1)
    assert off.timeout == 60


def test_it_never_gets_too_short() -> None:
    for testing, floor in ((False, FLOOR_SECONDS), (True, TESTING_FLOOR_SECONDS)):
        times = BuildTimeouts({}, testing=testing)
        for _ in range(200):
            times.built(0.005)
        assert times.timeout == floor


def test_a_network_that_got_slow_is_learned_anew() -> None:
    times = BuildTimeouts({})
    for seconds in pareto(300):
        times.built(seconds)
    learned = times.timeout
    for _ in range(18):
        times.timed_out()
    assert times.timeout >= 60 > learned
    for _ in range(18):
        times.timed_out()
    assert times.timeout == 120
    for _ in range(2000):
        times.timed_out()
    assert times.timeout <= 480


def test_some_late_circuits_are_normal() -> None:
    times = BuildTimeouts({})
    for seconds in pareto(300):
        times.built(seconds)
    learned = times.timeout
    for _ in range(10):
        times.timed_out()
        times.built(0.1)
    assert times.timeout < 2 * learned


def test_state_survives_a_restart() -> None:
    times = BuildTimeouts({})
    for seconds in pareto(300):
        times.built(seconds)
    again = BuildTimeouts({}, state=json.loads(json.dumps(times.state())))
    assert again.timeout == pytest.approx(times.timeout, rel=0.05)


@pytest.mark.parametrize(
    "state",
    [
        None,
        3,
        {},
        {"version": 1},
        {"version": 1, "bins": [["a", 1]]},
        {"version": 1, "bins": [[-1, 1], [5, 10**9]]},
    ],
)
def test_damaged_state_does_no_harm(state: object) -> None:
    assert BuildTimeouts({}, state=state).timeout > 0
