"""Computing consensuses (dir-spec 3.8): the published votes give C tor's very documents; then tie by tie."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pelure.errors import DirectoryError
from pelure.tor.directory.consensus import SharedRandomValue, parse_consensus
from pelure.tor.directory.consensus_compute import (
    ComputeOptions,
    choose_method,
    compute_consensus,
    compute_params,
)
from pelure.tor.directory.consensus_entries import collate, most_frequent
from pelure.tor.directory.vote import Vote, VoteEntry, parse_vote
from unit.tor.directory.support import FakeNetwork, vector, vector_votes


@pytest.mark.parametrize("flavour", ["ns", "microdesc"])
def test_the_published_votes_give_the_published_consensus(flavour: str) -> None:
    votes = [parse_vote(document) for document in vector_votes()]
    expected = vector(f"computed-consensus-{flavour}")
    assert compute_consensus(votes, flavour, ComputeOptions(4)) == expected
    assert compute_consensus(votes[::-1], flavour, ComputeOptions(4)) == expected


@pytest.fixture
def network() -> FakeNetwork:
    return FakeNetwork(relays=4)


def votes_of(network: FakeNetwork) -> list[Vote]:
    return [network.vote(index) for index in range(3)]


def result(votes: list[Vote], flavour: str = "microdesc", **options: bool) -> str:
    return compute_consensus(votes, flavour, ComputeOptions(3, **options)).decode()


def each(votes: list[Vote], index: int) -> list[VoteEntry]:
    return [vote.entries[index] for vote in votes]


def test_a_relay_needs_more_than_half_of_the_authorities(network: FakeNetwork) -> None:
    votes = votes_of(network)
    nickname = votes[0].entries[0].nickname
    del votes[0].entries[0]
    assert f"r {nickname} " in result(votes)
    del votes[1].entries[0]
    assert f"r {nickname} " not in result(votes)


def test_flags_are_decided_by_those_who_vote_on_them(network: FakeNetwork) -> None:
    votes = votes_of(network)
    entries = each(votes, 0)
    entries[0].flags -= {"Guard"}
    entries[1].flags -= {"Guard"}
    line = next(text for text in result(votes).split("\nr ")[1].split("\n") if text.startswith("s "))
    assert "Guard" not in line
    for entry in entries:
        entry.flags -= {"Running"}
    assert f"r {entries[0].nickname} " not in result(votes)


def test_middle_only_takes_flags_away_and_adds_bad_exit(network: FakeNetwork) -> None:
    votes = votes_of(network)
    for vote in votes:
        vote.known_flags = (*vote.known_flags, "BadExit", "MiddleOnly")
        vote.entries[0].flags |= {"MiddleOnly", "Exit"}
    line = next(text for text in result(votes).split("\nr ")[1].split("\n") if text.startswith("s "))
    assert line == "s BadExit Fast MiddleOnly Running Stable Valid"


def test_the_most_popular_descriptor_wins_then_the_later_one(network: FakeNetwork) -> None:
    votes = votes_of(network)
    one, other, third = each(votes, 0)
    one.descriptor_digest, one.published = b"\1" * 20, 100.0
    for entry in (other, third):
        entry.descriptor_digest, entry.published = b"\2" * 20, 50.0
    assert "AgICAgICAgICAgICAgICAgICAgI 1970-01-01 00:00:50" in result(votes, "ns")
    third.descriptor_digest, third.published = b"\3" * 20, 200.0
    assert "AwMDAwMDAwMDAwMDAwMDAwMDAwM 1970-01-01 00:03:20" in result(votes, "ns")


def test_bandwidth_is_the_low_median_and_measured_counts_from_three_on(network: FakeNetwork) -> None:
    votes = votes_of(network)
    for entry, bandwidth in zip(each(votes, 0), (100, 500, 300), strict=True):
        entry.bandwidth = bandwidth
    assert "w Bandwidth=300 Unmeasured=1" in result(votes)
    for entry, bandwidth in zip(each(votes, 0)[:2], (7, 9), strict=True):
        entry.measured = bandwidth
    assert "w Bandwidth=300 Unmeasured=1" in result(votes)
    votes[2].entries[0].measured = 8
    text = result(votes)
    assert "w Bandwidth=8\n" in text
    assert "w Bandwidth=20 Unmeasured=1" in text  # the others are capped now that three measure


def test_versions_and_protocols_by_frequency(network: FakeNetwork) -> None:
    votes = votes_of(network)
    for entry, version in zip(each(votes, 0), ("Tor 0.4.9.11", "Tor 0.4.9.9", "Tor 0.4.9.9"), strict=True):
        entry.version = version
    assert "v Tor 0.4.9.9\n" in result(votes)
    votes[2].entries[0].version = "Tor 0.4.9.10"
    assert "v Tor 0.4.9.11\n" in result(votes)  # all once: the highest version


def test_entries_without_a_microdescriptor_are_in_the_ns_flavour_only(network: FakeNetwork) -> None:
    votes = votes_of(network)
    for entry in each(votes, 0):
        entry.microdescs = []
    nickname = votes[0].entries[0].nickname
    assert f"r {nickname} " not in result(votes)
    assert f"r {nickname} " in result(votes, "ns")


def test_ipv6_addresses(network: FakeNetwork) -> None:
    votes = votes_of(network)
    for entry in each(votes, 0)[:2]:
        entry.ipv6 = ("2001:db8::1", 443)
    assert "\na [2001:db8::1]:443\n" in result(votes)


def test_disagreement_on_the_ed25519_identity(network: FakeNetwork) -> None:
    votes = votes_of(network)
    votes[0].entries[0].ed_id = b"\1" * 32
    assert "NoEdConsensus" not in result(votes).split("\nr ")[1]
    votes[1].entries[0].ed_id = b"\2" * 32
    assert "NoEdConsensus" in result(votes).split("\nr ")[1]
    ((entries, agreement), *_) = collate(votes, 3)
    assert (len(entries), agreement) == (3, 0)


def test_an_entry_that_lists_no_ed25519_identity_goes_with_the_majority(network: FakeNetwork) -> None:
    votes = votes_of(network)
    votes[0].entries[0].ed_id = None
    ((entries, agreement), *_) = collate(votes, 3)
    assert (len(entries), agreement) == (3, 2)


def test_methods_need_more_than_two_thirds(network: FakeNetwork) -> None:
    votes = votes_of(network)
    assert choose_method(votes) == 35
    votes[0].methods = (32, 33)
    assert choose_method(votes) == 33
    votes[0].methods = (99,)
    assert choose_method(votes) == 35


def test_method_32_publishes_times_in_the_microdesc_flavour(network: FakeNetwork) -> None:
    votes = votes_of(network)
    assert "2038-01-01 00:00:00" in result(votes)
    for vote in votes:
        vote.methods = (32,)
    assert "2038-01-01 00:00:00" not in result(votes)


def test_parameters_need_a_majority_or_three_votes(network: FakeNetwork) -> None:
    votes = votes_of(network)
    for vote, params in zip(votes, ({"a": 1, "b": 5}, {"a": 9}, {"a": 4, "b": -3}), strict=True):
        vote.params = params
    assert compute_params(votes, 3) == {"a": 4, "b": -3}
    assert compute_params(votes, 4) == {"a": 4}
    assert compute_params(votes, 9) == {"a": 4}


def test_shared_random_values_need_agreement(network: FakeNetwork) -> None:
    votes = votes_of(network)
    value = SharedRandomValue(3, b"\7" * 32)
    for vote in votes[:2]:
        vote.shared_rand_participates = True
        vote.shared_rand_current = value
    assert "shared-rand-current-value 3 BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=" in result(votes)
    votes[0].params["AuthDirNumSRVAgreements"] = votes[1].params["AuthDirNumSRVAgreements"] = 3
    votes[2].params["AuthDirNumSRVAgreements"] = 3
    assert "shared-rand-current-value" in result(votes)
    assert "shared-rand-current-value" not in result(votes, srv_is_fresh=True)
    votes[1].shared_rand_participates = False
    assert "shared-rand-current-value" not in result(votes)


def test_recommended_versions_and_protocols(network: FakeNetwork) -> None:
    votes = votes_of(network)
    for vote, versions in zip(votes, ("0.4.9.11,0.4.9.9", "0.4.9.9,0.4.10.1", None), strict=True):
        vote.client_versions = versions
    votes[2].protocol_lists = {"required-client-protocols": "Link=4-5"}
    text = result(votes)
    assert "\nclient-versions 0.4.9.9\n" in text
    assert "\nrequired-client-protocols Link=4 Relay=2\n" in text
    assert "\nrecommended-relay-protocols \n" in text


def test_package_lines_need_three_voters(network: FakeNetwork) -> None:
    votes = votes_of(network)
    line = "pelure 1.0 https://example.org sha256=abc"
    for vote in votes[:2]:
        vote.packages = [line]
    assert "package" not in result(votes)
    votes[2].packages = ["pelure 1.0 https://example.org sha256=xyz"]
    assert f"\npackage {line}\n" in result(votes)


def test_legacy_keys_are_listed(network: FakeNetwork) -> None:
    votes = votes_of(network)
    votes[0].legacy_identity = b"\0" * 20
    assert "\ndir-source auth0-legacy " + "00" * 20 in result(votes)


def test_what_is_computed_parses_again(network: FakeNetwork) -> None:
    consensus = parse_consensus(network.consensus("ns"))
    assert len(consensus.routers) == 4
    assert set(consensus.bandwidth_weights) >= {"Wgg", "Wee", "Wmm"}


def test_no_votes_or_too_many(network: FakeNetwork) -> None:
    with pytest.raises(DirectoryError):
        compute_consensus([], "ns", ComputeOptions(3))
    with pytest.raises(DirectoryError):
        compute_consensus(votes_of(network), "ns", ComputeOptions(2))


def test_ties_go_to_the_last() -> None:
    assert most_frequent(["a", "a", "b", "b", "c"]) == "b"
    assert most_frequent(["a"]) == "a"
    assert most_frequent(["a", "b", "b"]) == "b"


def test_a_vote_from_the_future_does_not_move_the_median(network: FakeNetwork) -> None:
    votes = votes_of(network)
    votes[0] = replace(
        votes[0], valid_after=votes[0].valid_after + 999, fresh_until=votes[0].fresh_until + 999
    )
    assert parse_consensus(network.consensus()).valid_after == votes[1].valid_after
