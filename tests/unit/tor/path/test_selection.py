"""Path selection, vanguards, restrictions and weights (path-spec 2.2, proposals 292 and 333)."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import PathError
from pelure.tor.directory.netdir import NetDir
from pelure.tor.directory.relay import Relay
from pelure.tor.path.guards import GuardManager
from pelure.tor.path.restrictions import Restrictions
from pelure.tor.path.selection import PathSelector
from pelure.tor.path.vanguards import DAY, HOUR, RESPITE, VanguardManager
from pelure.tor.path.weights import Position, Sampler, position_weight
from unit.tor.path.support import ALL_FLAGS, NOW, netdir, network_of, rng, status


def selector(directory: NetDir, seed: int = 1, *, full: bool = False, now: float = NOW) -> PathSelector:
    source = rng(seed)
    vanguards = VanguardManager(source, full=full)
    vanguards.update(directory, NOW)
    return PathSelector(directory, GuardManager(None, directory, source, NOW), vanguards, source, lambda: now)


def names(path: list[Relay]) -> list[str]:
    return [relay.nickname for relay in path]


def test_no_path_is_chosen_by_a_consensus_that_ended_more_than_a_day_ago() -> None:
    """Who keeps newer ones from a client does not hold it to the relays of that day."""
    directory = network_of(20)
    end = directory.consensus.valid_until + DAY
    chooser = selector(directory, now=end)
    assert len(chooser.exit_path(80)) == len(chooser.internal_path(3)) == 3
    chooser = selector(directory, now=end + 1)
    for choose in (lambda: chooser.exit_path(80), lambda: chooser.internal_path(3)):
        with pytest.raises(PathError, match="too old"):
            choose()


class TestWeights:
    def test_the_consensus_weighs_relays_by_position(self) -> None:
        directory = netdir([status(0)], weights={"Wgd": 0, "Wmd": 5000, "Wed": 7000})
        relay = directory.relays[0]
        assert [position_weight(relay, one, directory.consensus.bandwidth_weights) for one in Position] == [
            0,
            500_000,
            700_000,
        ]

    def test_draws_follow_the_weights(self) -> None:
        relays = [
            netdir([status(index, bandwidth=weight)]).relays[0] for index, weight in enumerate((0, 100, 300))
        ]
        sampler = Sampler.for_position(relays, Position.MIDDLE, {})
        counts = Counter(sampler.draw(rng(seed), lambda relay: True) for seed in range(800))
        assert counts[relays[0]] == 0
        assert 500 < counts[relays[2]] < 700

    def test_without_bandwidth_all_are_equal(self) -> None:
        directory = netdir([status(index, bandwidth=0) for index in range(3)])
        sampler = Sampler.for_position(directory.relays, Position.MIDDLE, {})
        assert len({sampler.draw(rng(seed), lambda relay: True) for seed in range(50)}) == 3
        assert Sampler([], []).draw(rng(), lambda relay: True) is None
        assert sampler.draw(rng(), lambda relay: False) is None


class TestRestrictions:
    def test_subnets(self) -> None:
        one, other = status(1), status(2)
        other.ip = "10.1.99.9"
        public, testing = netdir([one, other]), netdir([one, other], testing=True)
        assert Restrictions(public).related(*public.relays)
        assert not Restrictions(testing).related(*testing.relays)

    def test_families_must_be_mutual(self) -> None:
        one, other = status(1), status(2)
        listed = {one.nickname: {f"${other.rsa_id.hex().upper()}"}}
        assert not Restrictions(directory := netdir([one, other], families=listed)).related(*directory.relays)
        listed[other.nickname] = {f"${one.rsa_id.hex().upper()}"}
        assert Restrictions(directory := netdir([one, other], families=listed)).related(*directory.relays)
        off = netdir([one, other], families=listed, params={"use-family-lists": 0})
        assert not Restrictions(off).related(*off.relays)


class TestExitPaths:
    def test_three_different_relays_the_last_allows_the_port(self) -> None:
        directory = netdir(
            [status(index) for index in range(20)], policies=dict.fromkeys(range(19), "reject 25")
        )
        for seed in range(20):
            path = selector(directory, seed).exit_path(25)
            assert len(set(path)) == 3
            assert path[-1].nickname == "relay19"

    def test_bad_exits_and_excluded_ones_are_left_out(self) -> None:
        directory = netdir([status(0, ALL_FLAGS | {"BadExit"}), *(status(index) for index in range(1, 6))])
        chooser = selector(directory)
        wanted = next(relay for relay in directory.relays if relay.nickname == "relay3")
        others = [relay for relay in directory.relays if relay != wanted]
        assert chooser.exit_path(80, exclude=others)[-1] == wanted
        with pytest.raises(PathError, match="port 80"):
            chooser.exit_path(80, exclude=[*others, wanted])
        with pytest.raises(PathError, match="IPv6"):
            chooser.exit_path(80, "2001:db8::1")

    def test_no_two_of_one_subnet(self) -> None:
        routers = [status(index) for index in range(9)]
        for router in routers[:7]:
            router.ip = "10.77.0.1"
        directory = netdir(routers)
        for seed in range(30):
            path = selector(directory, seed).exit_path(80)
            assert sum(relay.addresses[0][0] == "10.77.0.1" for relay in path) <= 1

    def test_a_network_in_one_subnet_still_has_paths(self) -> None:
        routers = [status(index) for index in range(4)]
        for router in routers:
            router.ip = "10.77.0.1"
        assert len(set(selector(netdir(routers)).exit_path(80))) == 3

    def test_long_lived_ports_prefer_stable_exits(self) -> None:
        directory = netdir(
            [status(index, ALL_FLAGS - {"Stable"} if index < 4 else ALL_FLAGS) for index in range(8)]
        )
        assert all("Stable" in selector(directory, seed).exit_path(22)[-1].flags for seed in range(20))

    def test_too_few_relays(self) -> None:
        with pytest.raises(PathError):
            selector(network_of(2, testing=True)).exit_path(80)
        with pytest.raises(PathError):
            GuardManager(None, network_of(0), rng(), NOW).select(NOW)


class TestInternalPaths:
    @pytest.mark.parametrize("count", [5, 6, 8])
    @pytest.mark.parametrize("length", [3, 4, 5])
    @pytest.mark.parametrize("full", [False, True])
    def test_tiny_networks_have_paths_to_every_relay(self, count: int, length: int, full: bool) -> None:
        directory = network_of(count, testing=True)
        for seed in range(10):
            chooser = selector(directory, seed, full=full)
            for last in directory.relays:
                path = chooser.internal_path(length, last)
                assert len(path) == length and path[-1] == last
                assert all(one != other for one, other in pairwise(path)), names(path)
                assert len(set(path)) >= min(length, 4) - (length > 3), names(path)

    @pytest.mark.parametrize("full", [False, True])
    def test_relays_to_be_excluded_are_no_end(self, full: bool) -> None:
        directory = network_of(12, testing=True)
        for seed in range(20):
            excluded = directory.relays[:3]
            path = selector(directory, seed, full=full).internal_path(4, exclude=excluded)
            assert path[-1] not in excluded

    @pytest.mark.parametrize("full", [False, True])
    def test_guard_and_vanguards_stay_where_the_end_is_to_be_another(self, full: bool) -> None:
        """Whoever left them because they are introduction points would tell which they are (prop. 292)."""
        directory = network_of(30)
        chooser = selector(directory, full=full)
        guard, second = chooser.internal_path(4)[:2]
        paths = [chooser.internal_path(4, exclude=[guard, second]) for _ in range(40)]
        assert {path[0] for path in paths} == {guard}
        assert second in {path[1] for path in paths}
        assert all(path[-1] not in (guard, second) for path in paths)

    def test_without_a_last_relay_any_middle_ends_the_path(self) -> None:
        directory = network_of(30)
        ends = {selector(directory, seed).internal_path(3)[-1] for seed in range(40)}
        assert len(ends) > 10

    def test_a_relay_known_by_link_specifiers_only_can_be_the_last(self) -> None:
        directory = network_of(8)
        stranger = Relay("unknown", b"u" * 20, None, b"k" * 32, (("192.0.2.1", 443),))
        assert selector(directory).internal_path(4, stranger)[-1] is stranger

    def test_one_and_two_hops(self) -> None:
        directory = network_of(8)
        last = directory.relays[3]
        assert selector(directory).internal_path(1, last) == [last]
        assert len(selector(directory).internal_path(1)) == 1
        assert selector(directory).internal_path(2, last)[1] == last
        with pytest.raises(PathError):
            selector(directory).internal_path(0)

    def test_the_second_hop_is_a_vanguard(self) -> None:
        directory = network_of(60)
        chooser = selector(directory)
        seconds = {chooser.internal_path(4, last)[1] for last in directory.relays}
        assert len(seconds) <= 5  # four vanguards, and rarely a stand-in where one is the last relay itself

    def test_the_third_hop_is_one_of_six_with_full_vanguards(self) -> None:
        directory = network_of(60)
        chooser = selector(directory, full=True)
        thirds = Counter(chooser.internal_path(5)[2] for _ in range(300))
        assert len(thirds) <= 7

    @settings(deadline=None, max_examples=50)
    @given(st.integers(4, 9), st.integers(2, 5), st.integers(0, 1 << 30), st.booleans())
    def test_paths_never_bounce(self, count: int, length: int, seed: int, full: bool) -> None:
        directory = network_of(count, testing=True)
        chooser = selector(directory, seed, full=full)
        try:
            path = chooser.internal_path(length, directory.relays[seed % count])
        except PathError:
            assert count < 6 and length > 3
            return
        assert all(one != other for one, other in pairwise(path))
        assert all(one != other for one, other in zip(path, path[2:], strict=False))


class TestVanguards:
    def test_lite_is_four_for_days(self) -> None:
        directory = network_of(50)
        vanguards = VanguardManager(rng())
        vanguards.update(directory, NOW)
        first = {vanguards.pick(2, lambda relay: True, NOW) for _ in range(200)}
        assert len(first) == 4 and vanguards.extra_hops == 0
        vanguards.update(directory, NOW + DAY / 2)
        assert {vanguards.pick(2, lambda relay: True, NOW) for _ in range(200)} == first
        vanguards.update(directory, NOW + 13 * DAY)
        assert {vanguards.pick(2, lambda relay: True, NOW) for _ in range(200)} != first
        assert vanguards.pick(3, lambda relay: True, NOW) is None
        assert vanguards.state()["layers"] == []

    def test_full_ones_are_kept_on_disk(self) -> None:
        directory = network_of(50)
        vanguards = VanguardManager(rng(), full=True)
        vanguards.update(directory, NOW)
        state = json.loads(json.dumps(vanguards.state()))
        assert [len(layer) for layer in state["layers"]] == [4, 6] and vanguards.extra_hops == 1
        again = VanguardManager(rng(5), full=True, state=state)
        again.update(directory, NOW + HOUR / 2)
        assert json.loads(json.dumps(again.state())) == state
        for damaged in (3, {"version": 1}, {"version": 1, "layers": [[1], []]}, {"version": 1, "layers": []}):
            other = VanguardManager(rng(), full=True, state=damaged)
            other.update(directory, NOW)
            assert other.pick(3, lambda relay: True, NOW) is not None

    def test_those_that_left_are_replaced(self) -> None:
        directory = network_of(50)
        vanguards = VanguardManager(rng())
        vanguards.update(directory, NOW)
        one = vanguards.pick(2, lambda relay: True, NOW)
        assert one is not None
        vanguards.update(netdir([s for s in directory.consensus.routers if s.rsa_id != one.rsa_id]), NOW)
        assert vanguards.pick(2, lambda relay: relay == one, NOW) is None

    @pytest.mark.parametrize("full", [False, True])
    def test_those_that_fail_are_not_replaced(self, full: bool) -> None:
        """The relay before them says so, and would have others come until one of its own is among them."""
        directory = network_of(50)
        vanguards = VanguardManager(rng(), full=full)
        vanguards.update(directory, NOW)
        first = {vanguards.pick(2, lambda relay: True, NOW) for _ in range(200)}
        for _ in range(10):
            for dead in first:
                assert dead is not None
                vanguards.failed(dead, NOW)
        vanguards.update(directory, NOW)
        assert {vanguards.pick(2, lambda relay: True, NOW) for _ in range(200)} == first

    def test_those_that_failed_lately_come_last(self) -> None:
        vanguards = VanguardManager(rng())
        vanguards.update(network_of(50), NOW)
        dead = vanguards.pick(2, lambda relay: True, NOW)
        assert dead is not None
        vanguards.failed(dead, NOW)
        assert all(vanguards.pick(2, lambda relay: True, NOW) != dead for _ in range(50))
        assert vanguards.pick(2, lambda relay: relay == dead, NOW) == dead
        assert any(vanguards.pick(2, lambda relay: True, NOW + RESPITE) == dead for _ in range(100))
        vanguards.succeeded(dead)
        assert any(vanguards.pick(2, lambda relay: True, NOW) == dead for _ in range(100))

    def test_before_a_directory_there_are_none(self) -> None:
        assert VanguardManager(rng()).pick(2, lambda relay: True, NOW) is None
