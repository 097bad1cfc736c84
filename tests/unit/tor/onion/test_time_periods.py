"""Time periods and shared random values (rend-spec-v3 2.2).

Known answers are from C tor's test_hs_common.c.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import DirectoryError
from pelure.tor.onion.time_periods import PeriodSchedule, TimePeriod, disaster_srv

DAY_1985 = 499132800  # 1985-10-26 00:00:00 UTC
CURRENT, PREVIOUS = b"c" * 32, b"p" * 32


@dataclass
class Times:
    valid_after: float
    fresh_until: float
    params: dict[str, int] = field(default_factory=dict)
    shared_rand_current: bytes | None = CURRENT
    shared_rand_previous: bytes | None = PREVIOUS


def hourly(valid_after: int, **changes: object) -> PeriodSchedule:
    return PeriodSchedule.from_consensus(
        Times(valid_after, valid_after + 3600, **changes),
        testing=False,  # type: ignore[arg-type]
    )


def in_testing_network(valid_after: int, interval: int) -> PeriodSchedule:
    return PeriodSchedule.from_consensus(Times(valid_after, valid_after + interval), testing=True)


def test_the_specifications_example_of_a_period_number() -> None:
    schedule = hourly(1460546100)
    assert schedule.period_at(1460546101) == TimePeriod(16903, 1440)
    assert schedule.period_at(1460548800 - 1).number == 16903
    assert schedule.period_at(1460548800).number == 16904


@pytest.mark.parametrize(("hour", "between"), [(0, False), (11, False), (12, True), (23, True), (24, False)])
def test_segments_between_period_and_srv(hour: int, between: bool) -> None:
    assert hourly(DAY_1985 + hour * 3600).between_period_and_srv is between


def test_a_testing_network_has_periods_as_long_as_an_srv_run() -> None:
    schedule = in_testing_network(1460505600, 10)  # 2016-04-13 00:00:00
    assert (schedule.length, schedule.offset_minutes, schedule.run_length) == (4, 2, 240)
    first = schedule.period_at(1460505600)
    assert schedule.period_at(1460505600 + 119) == first
    assert schedule.period_at(1460505600 + 120) == first.shifted(1)
    assert (in_testing_network(1460505600, 20).length, in_testing_network(1460505600, 20).offset_minutes) == (
        8,
        4,
    )


def test_hsdir_interval_is_read_and_clamped_outside_testing_networks() -> None:
    assert hourly(DAY_1985, params={"hsdir_interval": 60}).length == 60
    assert hourly(DAY_1985, params={"hsdir_interval": 1}).length == 30
    assert hourly(DAY_1985, params={"hsdir_interval": 1 << 30}).length == 14400


def test_client_and_service_slots_before_and_after_the_srv() -> None:
    after_period = hourly(DAY_1985 + 13 * 3600)
    assert after_period.fetch_slot().srv == CURRENT
    first, second = after_period.publish_slots()
    assert second == after_period.fetch_slot()
    assert (first.period, first.srv) == (second.period.shifted(-1), PREVIOUS)
    after_srv = hourly(DAY_1985 + 3600)
    assert after_srv.fetch_slot().srv == PREVIOUS
    first, second = after_srv.publish_slots()
    assert first == after_srv.fetch_slot()
    assert (second.period, second.srv) == (first.period.shifted(1), CURRENT)
    assert (first.srv_start, second.srv_start) == (DAY_1985 - 86400, DAY_1985)


def test_the_disaster_srv_stands_in_for_a_missing_value() -> None:
    assert disaster_srv(TimePeriod(1, 1440)).hex().upper() == (
        "F8A4948707653837FA44ABB5BBC75A12F6F101E7F8FAF699B9715F4965D3507D"
    )
    slot = hourly(DAY_1985, shared_rand_previous=None).fetch_slot()
    assert slot.srv == disaster_srv(slot.period)


@pytest.mark.parametrize("fresh_until", [DAY_1985, DAY_1985 - 5])
def test_impossible_times_are_refused(fresh_until: int) -> None:
    with pytest.raises(DirectoryError):
        PeriodSchedule.from_consensus(Times(DAY_1985, fresh_until), testing=True)


@settings(deadline=None, max_examples=100)
@given(
    start=st.integers(1_000_000, 3_000_000),
    interval=st.sampled_from([10, 20, 60, 300]),
    service_lag=st.integers(0, 6),
)
def test_a_service_with_an_older_consensus_still_serves_the_clients_period(
    start: int, interval: int, service_lag: int
) -> None:
    """Whatever round it is, what a client looks up is among a slightly lagging service's two slots."""

    def at(round_number: int) -> PeriodSchedule:
        run = round_number // 24
        values = {"shared_rand_current": b"%32d" % run, "shared_rand_previous": b"%32d" % (run - 1)}
        valid_after = round_number * interval
        times = Times(valid_after, valid_after + interval, {}, **values)
        return PeriodSchedule.from_consensus(times, testing=True)

    client, service = at(start), at(start - service_lag)
    fetch = client.fetch_slot()
    assert (fetch.period, fetch.srv) in [(slot.period, slot.srv) for slot in service.publish_slots()]
