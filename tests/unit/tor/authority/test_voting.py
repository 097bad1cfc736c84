"""Votes made from descriptors, and voting rounds of three authorities in memory (dir-spec 3.2, 3.10)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import DirectoryError
from pelure.tor.authority import voting
from pelure.tor.authority.descriptors import Descriptors
from pelure.tor.authority.flags import FlagOptions
from pelure.tor.authority.history import History
from pelure.tor.authority.keys import AuthorityKeys
from pelure.tor.authority.relay_list import RelayList
from pelure.tor.authority.schedule import Round, VotingTimes, next_round
from pelure.tor.authority.shared_random import SharedRandomState
from pelure.tor.authority.vote_builder import VoteBuilder, is_general_exit, version_of_platform
from pelure.tor.authority.voting import VotingRound, split_votes
from pelure.tor.directory.consensus import DirSource, SharedRandomValue, parse_consensus
from pelure.tor.directory.consensus_verify import check_signatures
from pelure.tor.directory.exit_policy import ExitPolicy
from pelure.tor.directory.vote import Vote, parse_vote
from pelure.tor.directory.vote_encode import encode_vote
from unit.tor.authority.conftest import NOW, MadeRelay

TIMES = VotingTimes(10, 2, 2, 12, 5, 2, 2)
WHEN = next_round(NOW, TIMES, (10, 2, 2))
VALUE = SharedRandomValue(3, b"v" * 32)


def builder(
    keys: AuthorityKeys, relays: Sequence[MadeRelay], options: FlagOptions | None = None
) -> VoteBuilder:
    descriptors = Descriptors()
    for relay in relays:
        descriptors.upload(relay.documents(), NOW)
    return VoteBuilder(
        source=DirSource("pelure", keys.identity, "1.2.3.1", "1.2.3.1", 7000, 9001, "nobody"),
        certificate=keys.certificate,
        times=TIMES,
        flags=options or FlagOptions.for_testing(),
        descriptors=descriptors,
        history=History(NOW),
        running=lambda rsa_id: True,
        authorities=frozenset({relays[0].rsa_id}) if relays else frozenset(),
        params={"circwindow": 500},
    )


def ballot(keys: AuthorityKeys, relays: Sequence[MadeRelay], when: Round = WHEN) -> bytes:
    state = SharedRandomState(current=VALUE)
    state.prepare(when.valid_after, TIMES.interval, keys.identity, lambda n: bytes(n))
    return encode_vote(builder(keys, relays).build(when.valid_after, state, NOW), keys.signing)


@pytest.fixture
def rounds(authority_keys: list[AuthorityKeys]) -> list[VotingRound]:
    names = {keys.identity: f"authority{n}" for n, keys in enumerate(authority_keys)}
    return [VotingRound(WHEN, names, keys) for keys in authority_keys]


def take(voting: VotingRound, vote: bytes, now: float, *, posted: bool) -> bool:
    return voting.add_vote(voting.read_vote(vote), now, posted=posted)


def exchange_votes(rounds: list[VotingRound], votes: list[bytes]) -> None:
    for one in rounds:
        for vote in votes:
            assert take(one, vote, NOW, posted=True)


# -- the vote


def test_a_vote_is_what_others_parse(
    authority_keys: list[AuthorityKeys], relays: Sequence[MadeRelay]
) -> None:
    vote = parse_vote(ballot(authority_keys[0], relays))
    assert vote.valid_after == WHEN.valid_after and vote.fresh_until == WHEN.valid_after + 10
    assert [entry.rsa_id for entry in vote.entries] == sorted(relay.rsa_id for relay in relays)
    entry = next(entry for entry in vote.entries if entry.rsa_id == relays[0].rsa_id)
    assert entry.flags >= {
        "Authority",
        "Exit",
        "Fast",
        "Guard",
        "HSDir",
        "Running",
        "Stable",
        "V2Dir",
        "Valid",
    }
    assert (entry.version, entry.exit_summary) == ("Tor 0.4.9.11", "accept 80,443")
    assert entry.bandwidth == 1000 or entry.bandwidth == 20, "advertised, at least the testing minimum"
    assert vote.shared_rand_participates and vote.shared_rand_current == VALUE
    assert vote.params["circwindow"] == 500
    assert vote.flag_thresholds.startswith("stable-uptime=")


def test_microdescriptors_of_the_vote(
    authority_keys: list[AuthorityKeys], relays: Sequence[MadeRelay]
) -> None:
    made = builder(authority_keys[0], relays)
    vote = made.build(WHEN.valid_after, SharedRandomState(), NOW)
    for entry in vote.entries:
        digest = entry.microdesc_digest(vote.methods[-1])
        assert digest is not None and hashlib.sha256(made.microdescriptors[digest]).digest() == digest


def test_measured_bandwidths_are_voted(
    authority_keys: list[AuthorityKeys], relays: Sequence[MadeRelay]
) -> None:
    made = builder(authority_keys[0], relays)
    made.measured = {relays[1].rsa_id: 77, relays[0].rsa_id: 78}
    entries = {
        entry.rsa_id: entry for entry in made.build(WHEN.valid_after, SharedRandomState(), NOW).entries
    }
    assert entries[relays[1].rsa_id].measured == 77 and entries[relays[2].rsa_id].measured is None
    assert entries[relays[0].rsa_id].measured is None, "it is an authority's, which shall carry no traffic"


def test_advertised_bandwidths_are_not_believed_where_enough_is_measured(
    authority_keys: list[AuthorityKeys], relays: Sequence[MadeRelay]
) -> None:
    options = replace(FlagOptions.for_testing(), min_measured_to_ignore_advertised=1, fast_guarantee=0)
    made = builder(authority_keys[0], relays, options)
    made.measured = {relay.rsa_id: 1 for relay in relays[:2]}
    vote = made.build(WHEN.valid_after, SharedRandomState(), NOW)
    fast = {entry.rsa_id for entry in vote.entries if "Fast" in entry.flags}
    assert fast == {relay.rsa_id for relay in relays[:2]}


def test_relays_that_share_an_ipv6_address_are_sybils(
    authority_keys: list[AuthorityKeys], relays: Sequence[MadeRelay]
) -> None:
    made = builder(authority_keys[0], (), replace(FlagOptions.for_testing(), max_servers_per_address=2))
    for relay in relays:
        made.descriptors.upload(relay.documents(ipv6=("2606:4700::1", 9001)), NOW)
    vote = made.build(WHEN.valid_after, SharedRandomState(), NOW)
    sybils = {entry.rsa_id for entry in vote.entries if entry.flags == {"Sybil"}}
    assert sybils == {relay.rsa_id for relay in relays[:2]}, "the two with least bandwidth"


def test_the_consensus_bounds_what_is_fast(
    authority_keys: list[AuthorityKeys], relays: Sequence[MadeRelay]
) -> None:
    made = builder(authority_keys[0], relays)
    made.consensus_params = {"FastFlagMaxThreshold": 0}
    assert " fast-speed=0 " in made.build(WHEN.valid_after, SharedRandomState(), NOW).flag_thresholds


def test_what_is_known_of_a_relay(authority_keys: list[AuthorityKeys], relays: Sequence[MadeRelay]) -> None:
    made = builder(authority_keys[0], relays)
    relay = relays[1]
    router = made.descriptors.routers[relay.rsa_id]
    now = NOW + 100
    made.history.note(relay.rsa_id, True, NOW + 40)
    one = made._candidate(router, now)
    assert (one.age, one.uptime, one.real_uptime) == (100, 3600, 3700)
    assert (one.observed_uptime, one.mtbf, one.time_known) == (60, 60, 60)
    assert (one.bandwidth, one.measured, one.running, one.authority) == (2000, False, True, False)
    assert made._candidate(made.descriptors.routers[relays[0].rsa_id], now).authority
    made.running = lambda rsa_id: rsa_id != relay.rsa_id
    made.measured = {relay.rsa_id: 7}
    one = made._candidate(router, now)
    assert (one.bandwidth, one.measured, one.running) == (7, True, False)
    made.running = lambda rsa_id: True
    asleep = made._candidate(replace(router, hibernating=True), now)
    assert asleep.hibernating and not asleep.running, "a relay that says so is not there for anybody"


def test_claimed_uptime_counts_until_it_could_have_been_observed(
    authority_keys: list[AuthorityKeys], relays: Sequence[MadeRelay]
) -> None:
    made = builder(authority_keys[0], relays, replace(FlagOptions(), min_uptime_hsdir=1000))
    router = made.descriptors.routers[relays[1].rsa_id]
    made.history.note(router.rsa_id, True, NOW)
    assert made._candidate(router, NOW + 1100).observed_uptime == 4700
    assert made._candidate(router, NOW + 1101).observed_uptime == 1101


def test_bandwidths_are_voted_within_bounds(
    authority_keys: list[AuthorityKeys], relays: Sequence[MadeRelay]
) -> None:
    made = builder(authority_keys[0], relays)
    router = made.descriptors.routers[relays[0].rsa_id]

    def bandwidth(observed: int) -> int:
        return made._bandwidth(replace(router, bandwidth=(1 << 30, 1 << 30, observed)))

    assert [bandwidth(observed) for observed in (0, 30_000, 1 << 30)] == [20_000, 30_000, 10_000_000]
    made.flags = FlagOptions()
    assert bandwidth(0) == 0, "only relays of a testing network are trusted in advance"


def test_flags_are_voted_on_only_where_relays_are_marked(authority_keys: list[AuthorityKeys]) -> None:
    made = builder(authority_keys[0], ())
    marked = frozenset({bytes(20)})
    for marks, expected in (
        (RelayList(), set()),
        (RelayList(rejected=marked), set()),
        (RelayList(bad_exits=marked), {"BadExit"}),
        (RelayList(middle_only=marked), {"BadExit", "MiddleOnly"}),
    ):
        made.marks = marks
        flags = made.build(WHEN.valid_after, SharedRandomState(), NOW).known_flags
        assert set(flags) & {"BadExit", "MiddleOnly"} == expected and list(flags) == sorted(flags)


def test_microdescriptors_are_those_of_the_last_vote(
    authority_keys: list[AuthorityKeys], relays: Sequence[MadeRelay]
) -> None:
    made = builder(authority_keys[0], relays)
    made.build(WHEN.valid_after, SharedRandomState(), NOW)
    everything = dict(made.microdescriptors)
    del made.descriptors.routers[relays[0].rsa_id]
    made.build(WHEN.valid_after, SharedRandomState(), NOW)
    assert made.microdescriptors.items() < everything.items()


def test_versions_of_platforms() -> None:
    assert version_of_platform("Tor 0.4.9.11 on Linux") == "Tor 0.4.9.11"
    assert version_of_platform("Tor 0.4.9.1-alpha (rabcdef) on Linux") == "Tor 0.4.9.1-alpha (rabcdef)"
    assert version_of_platform("other 1.0 on Linux") is version_of_platform("Tor 0.4.9.11") is None


@pytest.mark.parametrize(
    ("lines", "exits"),
    [
        (["accept *:*"], True),
        (["reject *:*"], False),
        (["accept *:80", "reject *:*"], False),
        (["reject 1.2.3.4:*", "accept *:80", "accept *:443", "reject *:*"], True),
        (["accept 18.0.0.0/8:*", "reject *:*"], True),
        (["accept 18.1.0.0/16:*", "reject *:*"], False),
        (["accept 10.0.0.0/8:*", "reject *:*"], False),
        (["accept 127.0.0.0/8:*", "accept 0.0.0.0/8:*", "reject *:*"], False),
        (["accept 1.0.0.0/8:*", "reject *:*"], True),
        (["accept 254.0.0.0/8:*", "reject *:*"], True),
        (["accept 18.0.0.0/8:81-442", "accept *:80", "reject *:*"], False),
        (["reject 18.0.0.1:*", "accept 18.0.0.0/8:*", "reject *:*"], False),
        (["reject 18.0.0.0/8:*", "accept 19.0.0.0/8:*", "reject *:*"], True),
        (["reject 16.0.0.0/6:*", "accept 19.0.0.0/8:*", "reject *:*"], False),
        (["reject 16.0.0.0/6:*", "accept 20.0.0.0/8:*", "reject *:*"], True),
        (["accept *6:*", "reject *:*"], False),
        (["reject *6:*", "accept *:*"], True),
    ],
)
def test_general_exits(lines: list[str], exits: bool) -> None:
    assert is_general_exit(ExitPolicy.parse(lines)) is exits


# -- the round


def test_three_authorities_sign_one_consensus(
    rounds: list[VotingRound], authority_keys: list[AuthorityKeys], relays: Sequence[MadeRelay]
) -> None:
    # Each authority knows of three of the four relays, and so they all know of all.
    votes = [ballot(keys, relays[:n] + relays[n + 1 :]) for n, keys in enumerate(authority_keys)]
    exchange_votes(rounds, votes)
    signatures = [one.adopt(one.compute(srv_is_fresh=False)) for one in rounds]
    assert all(one.missing_signatures for one in rounds)
    for one in rounds:
        assert sum(one.add_signatures(document) for document in signatures) == 4
        assert not one.missing_signatures
    published = [one.publish() for one in rounds]
    assert published[0] == published[1] == published[2]
    consensus = parse_consensus(published[0]["microdesc"])
    assert check_signatures(consensus, rounds[0].names, rounds[0].certificates).good == set(rounds[0].names)
    assert len(consensus.routers) == 4
    assert consensus.shared_rand_current == VALUE


def test_signatures_that_come_before_the_consensus_wait(
    rounds: list[VotingRound], authority_keys: list[AuthorityKeys], relays: Sequence[MadeRelay]
) -> None:
    exchange_votes(rounds, [ballot(keys, relays) for keys in authority_keys])
    early = rounds[0].adopt(rounds[0].compute(srv_is_fresh=False))
    assert rounds[1].add_signatures(early) == 0
    rounds[1].adopt(rounds[1].compute(srv_is_fresh=False))
    assert all(len(one.signatures) == 2 for one in rounds[1].pending.values())
    assert set(rounds[1].publish()) == {"ns", "microdesc"}


def test_two_of_three_suffice_and_one_does_not(
    rounds: list[VotingRound], authority_keys: list[AuthorityKeys], relays: Sequence[MadeRelay]
) -> None:
    one = rounds[0]
    assert take(one, ballot(authority_keys[0], relays), NOW, posted=False)
    with pytest.raises(DirectoryError, match="only 1 of 3"):
        one.compute(srv_is_fresh=False)
    take(one, ballot(authority_keys[1], relays), NOW, posted=True)
    one.adopt(one.compute(srv_is_fresh=False))
    assert one.publish() == {}, "our own signature alone is no majority"


def test_which_votes_are_refused(
    rounds: list[VotingRound], authority_keys: list[AuthorityKeys], relays: Sequence[MadeRelay]
) -> None:
    one, other = rounds[0], ballot(authority_keys[1], relays)
    with pytest.raises(DirectoryError, match="too late"):
        take(one, other, WHEN.fetch_votes_at + 1, posted=True)
    assert take(one, other, WHEN.fetch_votes_at + 1, posted=False), "one that we asked for may come later"
    assert not take(one, other, NOW, posted=True), "known already"
    assert one.knows(other) and not one.knows(other + b"\n")
    wrong_round = next_round(NOW + 20, TIMES, (10, 2, 2))
    with pytest.raises(DirectoryError, match="valid-after"):
        take(one, ballot(authority_keys[2], relays, wrong_round), NOW, posted=True)
    stranger = VotingRound(WHEN, {authority_keys[0].identity: "only"}, authority_keys[0])
    with pytest.raises(DirectoryError, match="recognized"):
        take(stranger, other, NOW, posted=True)
    damaged = other.replace(b"known-flags ", b"known-flags A ", 1)
    with pytest.raises(DirectoryError):
        take(rounds[2], damaged, NOW, posted=True)


def test_the_newest_vote_of_an_authority_counts(
    rounds: list[VotingRound], authority_keys: list[AuthorityKeys], relays: Sequence[MadeRelay]
) -> None:
    one, keys = rounds[0], authority_keys[1]
    assert keys.identity in one.missing_votes and len(one.missing_votes) == 3

    def vote(published: int, contact: str = "nobody") -> bytes:
        made = parse_vote(ballot(keys, relays))
        source = replace(made.source, contact=contact)
        return encode_vote(replace(made, published=published, source=source), keys.signing)

    assert take(one, vote(int(NOW)), NOW, posted=True)
    for published, contact in ((int(NOW) - 1, "nobody"), (int(NOW), "somebody")):
        with pytest.raises(DirectoryError, match="newer vote"):
            take(one, vote(published, contact), NOW, posted=True)
    assert take(one, vote(int(NOW) + 1), NOW, posted=True)
    assert one.votes[keys.identity].published == NOW + 1
    assert keys.identity not in one.missing_votes and len(one.missing_votes) == 2


def test_votes_that_come_after_the_consensus_or_with_an_old_certificate_do_not_count(
    rounds: list[VotingRound], authority_keys: list[AuthorityKeys], relays: Sequence[MadeRelay]
) -> None:
    one, late = rounds[0], ballot(authority_keys[2], relays)
    exchange_votes(rounds[:1], [ballot(keys, relays) for keys in authority_keys[:2]])
    with pytest.raises(DirectoryError, match="certificate"):
        take(one, late, authority_keys[2].certificate.expires + 1, posted=False)
    assert take(one, ballot(authority_keys[1], relays), WHEN.fetch_votes_at, posted=True) is False
    one.adopt(one.compute(srv_is_fresh=False))
    with pytest.raises(DirectoryError, match="too late"):
        take(one, late, NOW, posted=False)


def test_a_consensus_needs_votes_on_who_is_running(
    rounds: list[VotingRound], authority_keys: list[AuthorityKeys], relays: Sequence[MadeRelay]
) -> None:
    for number, keys in enumerate(authority_keys):
        made = parse_vote(ballot(keys, relays))
        flags = tuple(flag for flag in made.known_flags if flag != "Running")
        entries = [replace(entry, flags=entry.flags - {"Running"}) for entry in made.entries]
        silent = encode_vote(replace(made, known_flags=flags, entries=entries), keys.signing)
        assert take(rounds[0], silent, NOW, posted=True)
        if number:  # one authority that tells is enough for the others' consensus
            assert take(rounds[1], silent, NOW, posted=True)
    with pytest.raises(DirectoryError, match="running"):
        rounds[0].compute(srv_is_fresh=False)
    assert take(rounds[1], ballot(authority_keys[0], relays), NOW, posted=True)
    rounds[1].compute(srv_is_fresh=False)


def test_half_of_the_authorities_are_not_enough(
    authority_keys: list[AuthorityKeys], relays: Sequence[MadeRelay]
) -> None:
    names = {keys.identity: "one" for keys in authority_keys} | {bytes(20): "absent"}
    rounds = [VotingRound(WHEN, names, keys) for keys in authority_keys]
    votes = [ballot(keys, relays) for keys in authority_keys]
    exchange_votes(rounds, votes[:2])
    with pytest.raises(DirectoryError, match="only 2 of 4"):
        rounds[0].compute(srv_is_fresh=False)
    exchange_votes(rounds, votes[2:])
    signatures = [one.adopt(one.compute(srv_is_fresh=False)) for one in rounds]
    rounds[0].add_signatures(signatures[1])
    assert rounds[0].publish() == {}
    rounds[0].add_signatures(signatures[2])
    assert set(rounds[0].publish()) == {"ns", "microdesc"}


def test_a_vote_that_can_not_count_is_refused_before_its_entries_are_read(
    rounds: list[VotingRound], authority_keys: list[AuthorityKeys], relays: Sequence[MadeRelay]
) -> None:
    other = ballot(authority_keys[1], relays)
    stranger = VotingRound(WHEN, {authority_keys[0].identity: "only"}, authority_keys[0])
    wrong_round = ballot(authority_keys[2], relays, next_round(NOW + 20, TIMES, (10, 2, 2)))
    with mock.patch("pelure.tor.directory.vote._parse_entries") as entries:
        for one, vote in ((stranger, other), (rounds[0], wrong_round)):
            with pytest.raises(DirectoryError):
                one.read_vote(vote)
        for start in (b"network-status-version 3\n", other):
            with pytest.raises(DirectoryError, match="too long"):
                rounds[0].read_vote(start + b"x y z\n" * 200_000 + b"directory-footer\n")
        entries.assert_not_called()


def test_signatures_on_another_consensus(
    rounds: list[VotingRound], authority_keys: list[AuthorityKeys], relays: Sequence[MadeRelay]
) -> None:
    votes = [ballot(keys, relays) for keys in authority_keys]
    exchange_votes(rounds[:1], votes)
    exchange_votes(rounds[1:2], votes[:2])
    rounds[0].adopt(rounds[0].compute(srv_is_fresh=False))
    with pytest.raises(DirectoryError, match="another consensus"):
        rounds[0].add_signatures(rounds[1].adopt(rounds[1].compute(srv_is_fresh=False)))


def test_signatures_on_a_consensus_of_other_times(
    rounds: list[VotingRound], authority_keys: list[AuthorityKeys], relays: Sequence[MadeRelay]
) -> None:
    exchange_votes(rounds, [ballot(keys, relays) for keys in authority_keys])
    one, other = rounds[:2]
    one.adopt(one.compute(srv_is_fresh=False))
    computed = other.compute(srv_is_fresh=False)
    start, fresh, end = computed.times
    for times in ((start - 10, fresh, end), (start, fresh + 1, end), (start, fresh, end + 1)):
        with pytest.raises(DirectoryError, match="other times"):
            one.add_signatures(other.adopt(replace(computed, times=times)))
    assert one.add_signatures(other.adopt(computed)) == 2


def test_signatures_that_come_early_are_kept_in_bounded_number(
    rounds: list[VotingRound],
    authority_keys: list[AuthorityKeys],
    relays: Sequence[MadeRelay],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(voting, "MAX_QUEUED_SIGNATURES", 1)
    exchange_votes(rounds, [ballot(keys, relays) for keys in authority_keys])
    for one in rounds[1:]:
        rounds[0].add_signatures(one.adopt(one.compute(srv_is_fresh=False)))
    rounds[0].adopt(rounds[0].compute(srv_is_fresh=False))
    assert all(len(one.signatures) == 2 for one in rounds[0].pending.values())


def test_votes_served_together_are_split(
    authority_keys: list[AuthorityKeys], relays: Sequence[MadeRelay]
) -> None:
    votes = [ballot(keys, relays) for keys in authority_keys]
    assert list(split_votes(b"".join(votes))) == votes
    assert list(split_votes(b"rubbish")) == list(split_votes(b"")) == []


def test_a_vote_survives_the_way_out_and_in(
    authority_keys: list[AuthorityKeys], relays: Sequence[MadeRelay]
) -> None:
    text = ballot(authority_keys[0], relays)
    vote: Vote = parse_vote(text)
    assert encode_vote(vote, authority_keys[0].signing) == text


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=200))
def test_random_documents(data: bytes) -> None:
    one = _empty_round()
    for document in (data, b"network-status-version 3\n" + data, b"consensus-digest " + data):
        with pytest.raises(DirectoryError):
            take(one, document, NOW, posted=True)
        try:
            one.add_signatures(document)
        except DirectoryError:
            pass


def _empty_round() -> VotingRound:
    keys = AuthorityKeys.__new__(AuthorityKeys)
    return VotingRound(WHEN, {bytes(20): "only"}, keys)
