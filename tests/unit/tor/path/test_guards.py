"""Entry guards (guard-spec), section by section."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import PathError
from pelure.tor.directory.relay import Relay
from pelure.tor.path.guards import DAY, HOUR, MINUTE, GuardManager
from unit.tor.path.support import ALL_FLAGS, NOW, netdir, network_of, rng, status


def manager(count: int = 60, state: object = None, seed: int = 1, **options: object) -> GuardManager:
    return GuardManager(state, network_of(count, **options), rng(seed), NOW)


def saved(guards: GuardManager) -> dict[str, object]:
    return json.loads(json.dumps(guards.state()))


def test_4_1_the_sample_has_the_least_size_and_not_much_more() -> None:
    state = manager(200).state()
    assert len(state["sampled"]) == 20
    assert all(NOW - 12 * DAY <= one["added_on"] <= NOW for one in state["sampled"])


def test_4_1_only_relays_with_all_the_flags_are_sampled() -> None:
    routers = [
        status(index, ALL_FLAGS - {missing})
        for index, missing in enumerate(["Guard", "Stable", "Fast", "V2Dir"])
    ]
    guards = GuardManager(None, netdir([*routers, status(9)]), rng(), NOW)
    assert [relay.nickname for relay in guards.primary] == ["relay9"]
    testing = GuardManager(None, netdir([*routers, status(9)], testing=True), rng(), NOW)
    assert len(testing.primary) == 3


def test_4_4_the_first_primary_guard_is_used_and_stays() -> None:
    guards = manager()
    first = guards.primary[0]
    for step in range(10):
        assert guards.select(NOW + step) == first
        assert guards.succeeded(first, NOW + step)
    assert guards.primary[0] == first


def test_4_6_directory_requests_are_spread_over_the_primary_guards() -> None:
    guards = manager()
    assert {guards.select(NOW, directory=True) for _ in range(60)} == set(guards.primary)


def test_4_7_unreachable_guards_give_way_to_the_next() -> None:
    guards = manager()
    primary = guards.primary
    for index in range(2):
        chosen = guards.select(NOW)
        assert chosen == primary[index]
        guards.failed(chosen, NOW)
    third = guards.select(NOW)
    assert third == primary[2]
    assert guards.succeeded(third, NOW)
    assert guards.primary[0] == third  # confirmed guards come first from now on


def test_4_5_primary_guards_are_tried_again_after_ten_minutes() -> None:
    guards = manager()
    first = guards.primary[0]
    guards.failed(first, NOW)
    assert guards.select(NOW + 9 * MINUTE) != first
    assert guards.select(NOW + 10 * MINUTE) == first
    guards.failed(first, NOW + 7 * HOUR)
    assert guards.select(NOW + 7 * HOUR + 11 * MINUTE) != first
    assert guards.select(NOW + 7 * HOUR + 91 * MINUTE) == first


def test_4_5_a_clock_that_was_set_back_does_not_prolong_the_pause() -> None:
    guards = manager()
    first = guards.primary[0]
    guards.failed(first, NOW + 365 * 24 * HOUR)
    assert guards.select(NOW) == first


def test_4_8_a_circuit_by_another_guard_waits_while_a_primary_one_may_be_there() -> None:
    guards = manager()
    primary = guards.primary
    guards.succeeded(primary[0], NOW)
    for relay in primary:
        guards.failed(relay, NOW)
    spare = guards.select(NOW + 1)
    assert spare not in primary
    assert guards.succeeded(spare, NOW + 2)
    later = NOW + HOUR
    for relay in guards.primary:
        guards.failed(relay, later)
    spare = guards.select(later)
    assert not guards.succeeded(spare, later)  # the first sign of life in an hour: ask the primary ones first
    assert guards.select(later + 1) in guards.primary


def test_4_9_a_better_guard_that_is_the_circuits_own_end_is_not_waited_for() -> None:
    guards = manager()
    up, *down = guards.primary
    guards.succeeded(up, NOW)
    for relay in down:
        guards.failed(relay, NOW)
    spare = guards.select(NOW, accept=lambda relay: relay != up)
    assert not guards.succeeded(spare, NOW, down[0])
    assert guards.succeeded(spare, NOW, up)


def test_4_6_when_all_are_unreachable_all_are_tried_again() -> None:
    guards = manager(5, testing=True)
    seen = set()
    for step in range(20):
        relay = guards.select(NOW + step / 100)
        seen.add(relay)
        guards.failed(relay, NOW + step / 100)
    assert len(seen) == 5


def test_restrictions_of_one_circuit() -> None:
    guards = manager(5, testing=True)
    first = guards.primary[0]
    assert guards.select(NOW, accept=lambda relay: relay != first) != first
    assert guards.select(NOW) == first
    with pytest.raises(PathError):
        guards.select(NOW, accept=lambda relay: False)


def test_state_survives_a_restart() -> None:
    guards = manager()
    chosen = guards.select(NOW)
    guards.failed(chosen, NOW)
    second = guards.select(NOW)
    guards.succeeded(second, NOW)
    again = manager(state=saved(guards), seed=99)
    assert again.primary[0] == second
    assert {one["rsa_id"] for one in again.state()["sampled"]} == {
        one["rsa_id"] for one in guards.state()["sampled"]
    }


def test_4_10_guards_that_left_the_consensus_come_back_or_go() -> None:
    routers = [status(index) for index in range(30)]
    guards = GuardManager(None, netdir(routers), rng(), NOW)
    first = guards.select(NOW)
    guards.succeeded(first, NOW)
    without = netdir([one for one in routers if one.rsa_id != first.rsa_id])
    guards.update(without, NOW + DAY)
    assert first not in guards.primary
    guards.update(netdir(routers), NOW + 2 * DAY)
    assert guards.primary[0] == first
    guards.update(without, NOW + 3 * DAY)
    guards.update(without, NOW + 24 * DAY)
    assert first.rsa_id.hex() not in {one["rsa_id"] for one in guards.state()["sampled"]}


def test_4_1_guards_are_replaced_after_their_lifetime() -> None:
    guards = manager()
    chosen = guards.select(NOW)
    guards.succeeded(chosen, NOW)
    before = {one["rsa_id"] for one in guards.state()["sampled"]}
    guards.update(network_of(60), NOW + 121 * DAY)
    after = {one["rsa_id"] for one in guards.state()["sampled"]}
    assert chosen.rsa_id.hex() not in after
    assert len(before & after) < len(before)


@pytest.mark.parametrize(
    "state",
    [None, 7, [], {}, {"version": 99}, {"version": 1, "sampled": [{}], "confirmed": []},
     {"version": 1, "sampled": [], "confirmed": ["zz"]}, {"version": 1, "sampled": 5, "confirmed": 6}],
)  # fmt: skip
def test_damaged_state_is_replaced(state: object) -> None:
    assert len(manager(state=state).primary) == 3


def test_unknown_relays_are_nobodys_guards() -> None:
    guards = manager()
    stranger = Relay("x", b"x" * 20, None, None, ())
    assert guards.succeeded(stranger, NOW)
    guards.failed(stranger, NOW)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.floats(0, 100_000)), max_size=60), st.integers(1, 12))
def test_there_is_always_a_guard(history: list[tuple[bool, float]], count: int) -> None:
    guards = manager(count)
    now = NOW
    for works, pause in history:
        now += pause
        relay = guards.select(now)
        if works:
            guards.succeeded(relay, now)
        else:
            guards.failed(relay, now)
    manager(count, state=saved(guards))
