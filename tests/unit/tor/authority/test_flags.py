"""Flags and their thresholds (dir-spec 3.4.2), measured against small made-up networks."""

from __future__ import annotations

from pelure.tor.authority.flags import (
    Candidate,
    FlagOptions,
    Thresholds,
    assign_flags,
    compute_thresholds,
    find_sybils,
)

PUBLIC = FlagOptions()
DAY = 86400.0


def relay(number: int, **changes: object) -> Candidate:
    """An old, reliable relay of ``number`` × 100 kilobytes a second."""
    fields: dict[str, object] = {
        "rsa_id": bytes([number]) * 20,
        "addresses": (f"10.0.0.{number}",),
        "age": 600.0,
        "uptime": 100 * DAY,
        "bandwidth": number * 100,
        "measured": False,
        "running": True,
        "dir_cache": True,
        "wants_hsdir": True,
        "observed_uptime": 100 * DAY,
        "mtbf": 50 * DAY,
        "fractional_uptime": 1.0,
        "time_known": 100 * DAY,
    }
    return Candidate(**{**fields, **changes})  # type: ignore[arg-type]


NETWORK = [relay(number) for number in range(1, 17)]
NONE: frozenset[bytes] = frozenset()


def flags(one: Candidate, options: FlagOptions = PUBLIC) -> frozenset[str]:
    network = [one, *NETWORK[1:]]
    return assign_flags(one, compute_thresholds(network, NONE, options, True, {}), NONE, options)


def test_thresholds_of_a_network() -> None:
    found = compute_thresholds(NETWORK, NONE, PUBLIC, True, {})
    assert found.fast == 102, "the 12.5th percentile is 300, but 100 KB always suffice"
    assert (found.guard_with_exits, found.guard_without_exits) == (1300, 1300)
    assert found.guard_time_known == 8 * DAY and found.guard_fractional_uptime == 0.98
    assert found.line.startswith(
        "stable-uptime=8640600 stable-mtbf=4320000 fast-speed=102000 guard-wfu=98.000%"
    )


def test_a_strong_relay_has_every_flag_but_exit() -> None:
    assert flags(relay(16)) == {"Fast", "Guard", "HSDir", "Running", "Stable", "V2Dir", "Valid"}
    assert "Exit" in flags(relay(16, exits=True))
    assert "Authority" in flags(relay(16, authority=True))


def test_what_costs_the_guard_flag() -> None:
    assert "Guard" not in flags(relay(12)) and "Guard" in flags(relay(13))
    assert "Guard" not in flags(relay(16, fractional_uptime=0.9))
    assert "Guard" not in flags(relay(16, time_known=7 * DAY))
    assert "Guard" not in flags(relay(16, dir_cache=False))
    assert "Guard" not in flags(relay(16, mtbf=1 * DAY))
    slow = Thresholds(fast=20_000)  # faster than what always makes a guard
    assert not {"Guard", "HSDir"} & assign_flags(relay(16, bandwidth=10_000), slow, NONE, PUBLIC)


def test_a_guard_is_among_the_fastest_or_fast_enough() -> None:
    def is_guard(bandwidth: int, with_exits: int, without_exits: int, **changes: int) -> bool:
        thresholds = Thresholds(guard_with_exits=with_exits, guard_without_exits=without_exits)
        options = FlagOptions(**changes)
        return "Guard" in assign_flags(relay(1, bandwidth=bandwidth), thresholds, NONE, options)

    assert is_guard(500, 500, 900) and is_guard(500, 900, 500)
    assert not is_guard(499, 500, 900) and not is_guard(499, 900, 500)
    assert is_guard(2097, 5000, 5000) and not is_guard(2096, 5000, 5000)
    assert not is_guard(4999, 5000, 5000, guard_bandwidth_guarantee=0)


def test_what_costs_the_hsdir_flag() -> None:
    assert "HSDir" not in flags(relay(16, observed_uptime=95 * 3600.0))
    assert "HSDir" not in flags(relay(16, wants_hsdir=False))
    assert "HSDir" not in flags(relay(16, hibernating=True))
    assert "HSDir" not in flags(relay(16, running=False))
    assert "HSDir" not in flags(relay(16, valid=False))
    assert "HSDir" not in flags(relay(16, dir_cache=False))
    assert "HSDir" not in flags(relay(16, mtbf=1 * DAY))
    assert "HSDir" in flags(relay(16, observed_uptime=96 * 3600.0))
    assert "HSDir" not in flags(relay(16, uptime=95 * 3600.0))


def test_slow_down_and_stale() -> None:
    assert "Fast" not in flags(relay(1, bandwidth=20))
    assert "Running" not in flags(relay(16, running=False))
    assert "StaleDesc" in flags(relay(16, age=19 * 3600.0))


def test_stable_by_uptime_while_failures_were_not_watched() -> None:
    thresholds = compute_thresholds(NETWORK, NONE, PUBLIC, False, {})
    young = relay(16, uptime=DAY)
    assert "Stable" not in assign_flags(young, thresholds, NONE, PUBLIC)
    assert "Stable" in assign_flags(relay(16, uptime=31 * DAY), thresholds, NONE, PUBLIC)


def test_sybils_lose_everything() -> None:
    crowd = [relay(number, addresses=("10.0.0.1",)) for number in range(1, 5)]
    sybils = find_sybils(crowd, 2)
    assert sybils == {crowd[0].rsa_id, crowd[1].rsa_id}, "the two with most bandwidth stay"
    assert assign_flags(crowd[0], Thresholds(), sybils, PUBLIC) == {"Sybil"}
    assert find_sybils(crowd, 0) == frozenset()
    assert find_sybils(crowd, 1) == {one.rsa_id for one in crowd[:3]}


def test_sybils_share_an_address_of_either_family() -> None:
    crowd = [relay(number, addresses=(f"10.0.0.{number}", "2001:db8::1")) for number in range(1, 5)]
    assert find_sybils(crowd, 2) == {crowd[0].rsa_id, crowd[1].rsa_id}


def test_of_sybils_authorities_and_then_running_relays_stay() -> None:
    def one(number: int, **changes: object) -> Candidate:
        return relay(number, addresses=("10.0.0.1",), **changes)

    crowd = [one(1, authority=True), one(2), one(3, running=False), one(2, rsa_id=bytes(20))]
    assert find_sybils(crowd, 3) == {crowd[2].rsa_id}
    assert find_sybils(crowd, 2) == {crowd[2].rsa_id, crowd[1].rsa_id}, "of two alike the lower identity"


def test_who_counts_for_the_thresholds() -> None:
    """Relays that are not active, are Sybils or have next to no bandwidth change nothing."""
    options = FlagOptions(fast_guarantee=0)
    expected = compute_thresholds(NETWORK, NONE, options, True, {})
    assert (expected.fast, expected.guard_with_exits) == (300, 1300)
    for changes in (
        {"running": False},
        {"valid": False},
        {"hibernating": True},
        {"bandwidth": 3},
        {"rsa_id": b"sybil"},
    ):
        others = [relay(100, **changes) for _ in range(40)]
        assert compute_thresholds([*NETWORK, *others], frozenset({b"sybil"}), options, True, {}) == expected
    four = [relay(1, bandwidth=4) for _ in range(200)]
    assert compute_thresholds([*NETWORK, *four], NONE, options, True, {}).fast == 4


def test_exits_and_what_is_left_of_them_as_guards() -> None:
    """Bad exits are no exits: who would use them as such?"""
    strong_exits = [relay(number, exits=number > 8) for number in range(1, 17)]
    thresholds = compute_thresholds(strong_exits, NONE, PUBLIC, True, {})
    assert (thresholds.guard_with_exits, thresholds.guard_without_exits) == (1300, 700)
    bad = [relay(number, exits=number > 8, bad_exit=True) for number in range(1, 17)]
    assert compute_thresholds(bad, NONE, PUBLIC, True, {}).guard_without_exits == 1300


def test_a_slow_network_does_not_make_the_slowest_fast() -> None:
    def fast(*bandwidths: int, **params: int) -> int:
        network = [relay(1, bandwidth=bandwidth) for bandwidth in bandwidths]
        return compute_thresholds(network, NONE, PUBLIC, True, params).fast

    assert fast(*range(37, 45)) == 38, "the 12.5th percentile"
    assert fast(*range(36, 44)) == 38, "the 25th percentile: 37 is too low"
    assert fast(*range(36, 44), FastFlagMinThreshold=50_000) == 50
    assert fast(*range(60, 68), FastFlagMaxThreshold=50_000) == 50
    assert fast(*range(200, 208)) == 102, "it always suffices"


def test_measured_bandwidths_are_enough_beyond_a_number() -> None:
    network = [relay(number, measured=number > 10) for number in range(1, 17)]
    for least, enough in ((5, True), (6, False)):
        options = FlagOptions(min_measured_to_ignore_advertised=least)
        assert compute_thresholds(network, NONE, options, True, {}).measured_only == enough


def test_guarantees_are_met_exactly() -> None:
    old = Thresholds(stable_uptime=90 * DAY, stable_mtbf=90 * DAY)
    assert "Stable" in assign_flags(relay(1, uptime=30 * DAY, age=0.0), old, NONE, PUBLIC)
    assert "Stable" not in assign_flags(relay(1, uptime=30 * DAY - 1, age=0.0), old, NONE, PUBLIC)
    watched = Thresholds(stable_uptime=90 * DAY, stable_mtbf=90 * DAY, enough_mtbf=True)
    assert "Stable" in assign_flags(relay(1, mtbf=5 * DAY), watched, NONE, PUBLIC)
    assert "Stable" not in assign_flags(relay(1, mtbf=5 * DAY - 1), watched, NONE, PUBLIC)


def test_advertised_bandwidth_counts_for_nothing_where_enough_is_measured() -> None:
    options = FlagOptions(min_measured_to_ignore_advertised=3)
    network = [relay(number, measured=number > 4) for number in range(1, 17)]
    thresholds = compute_thresholds(network, NONE, options, True, {})
    assert thresholds.measured_only
    assert "Fast" not in assign_flags(relay(16), thresholds, NONE, options)
    assert "Fast" in assign_flags(relay(16, measured=True), thresholds, NONE, options)


def test_a_testing_network_gives_every_flag_to_fresh_relays() -> None:
    options = FlagOptions.for_testing()
    fresh = [
        relay(n, bandwidth=0, uptime=0.0, age=1.0, observed_uptime=0.0, mtbf=0.0, time_known=0.0)
        for n in (1, 2)
    ]
    thresholds = compute_thresholds(fresh, NONE, options, False, {})
    expected = {"Exit", "Fast", "Guard", "HSDir", "Running", "Stable", "V2Dir", "Valid"}
    assert [assign_flags(one, thresholds, NONE, options) for one in fresh] == [expected, expected]


def test_an_empty_network() -> None:
    assert compute_thresholds([], NONE, PUBLIC, True, {}) == Thresholds(enough_mtbf=True)
