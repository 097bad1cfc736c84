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
        "address": f"10.0.0.{number}",
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
    return assign_flags(one, compute_thresholds(network, NONE, options, True), NONE, options)


def test_thresholds_of_a_network() -> None:
    found = compute_thresholds(NETWORK, NONE, PUBLIC, True)
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
    assert "Guard" not in flags(relay(12))
    assert "Guard" not in flags(relay(16, fractional_uptime=0.9))
    assert "Guard" not in flags(relay(16, time_known=7 * DAY))
    assert "Guard" not in flags(relay(16, dir_cache=False))
    assert "Guard" not in flags(relay(16, mtbf=1 * DAY))


def test_what_costs_the_hsdir_flag() -> None:
    assert "HSDir" not in flags(relay(16, observed_uptime=95 * 3600.0))
    assert "HSDir" not in flags(relay(16, wants_hsdir=False))
    assert "HSDir" not in flags(relay(16, hibernating=True))


def test_slow_down_and_stale() -> None:
    assert "Fast" not in flags(relay(1, bandwidth=20))
    assert "Running" not in flags(relay(16, running=False))
    assert "StaleDesc" in flags(relay(16, age=19 * 3600.0))


def test_stable_by_uptime_while_failures_were_not_watched() -> None:
    thresholds = compute_thresholds(NETWORK, NONE, PUBLIC, False)
    young = relay(16, uptime=DAY)
    assert "Stable" not in assign_flags(young, thresholds, NONE, PUBLIC)
    assert "Stable" in assign_flags(relay(16, uptime=31 * DAY), thresholds, NONE, PUBLIC)


def test_sybils_lose_everything() -> None:
    crowd = [relay(number, address="10.0.0.1") for number in range(1, 5)]
    sybils = find_sybils(crowd, 2)
    assert sybils == {crowd[0].rsa_id, crowd[1].rsa_id}, "the two with most bandwidth stay"
    assert assign_flags(crowd[0], Thresholds(), sybils, PUBLIC) == {"Sybil"}
    assert find_sybils(crowd, 0) == frozenset()


def test_advertised_bandwidth_counts_for_nothing_where_enough_is_measured() -> None:
    options = FlagOptions(min_measured_to_ignore_advertised=3)
    network = [relay(number, measured=number > 4) for number in range(1, 17)]
    thresholds = compute_thresholds(network, NONE, options, True)
    assert thresholds.measured_only
    assert "Fast" not in assign_flags(relay(16), thresholds, NONE, options)
    assert "Fast" in assign_flags(relay(16, measured=True), thresholds, NONE, options)


def test_a_testing_network_gives_every_flag_to_fresh_relays() -> None:
    options = FlagOptions.for_testing()
    fresh = [
        relay(n, bandwidth=0, uptime=0.0, age=1.0, capacity=False, observed_uptime=0.0, mtbf=0.0)
        for n in (1, 2)
    ]
    thresholds = compute_thresholds(fresh, NONE, options, False)
    expected = {"Exit", "Fast", "Guard", "HSDir", "Running", "Stable", "V2Dir", "Valid"}
    assert [assign_flags(one, thresholds, NONE, options) for one in fresh] == [expected, expected]


def test_an_empty_network() -> None:
    assert compute_thresholds([], NONE, PUBLIC, True) == Thresholds(enough_mtbf=True)
