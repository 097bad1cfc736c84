"""Consensus parsing and verification (dir-spec 3.4, 3.9) on published documents and on damaged ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import DirectoryError
from pelure.tor.directory.consensus import parse_consensus
from pelure.tor.directory.consensus_verify import (
    ClockError,
    check_clock,
    check_signatures,
    verify_consensus,
)
from pelure.tor.directory.key_certificate import (
    KeyCertificate,
    parse_key_certificate,
    split_key_certificates,
)
from unit.tor.directory.support import FakeNetwork, damaged, survives, vector

MICRODESC = vector("cached-microdesc-consensus")
NS = vector("cached-consensus")


def certificates() -> dict[tuple[bytes, bytes], KeyCertificate]:
    parsed = map(parse_key_certificate, split_key_certificates(vector("cached-certs")))
    return {(one.identity, one.signing_key_digest): one for one in parsed}


def test_the_published_microdesc_consensus() -> None:
    consensus = parse_consensus(MICRODESC)
    assert (consensus.flavour, consensus.method, len(consensus.routers)) == ("microdesc", 35, 7)
    assert consensus.fresh_until - consensus.valid_after == 20
    assert consensus.params == {"AuthDirMaxServersPerAddr": 0, "cc_alg": 2}
    assert consensus.param("cc_alg", 0) == 2
    assert consensus.param("cc_alg", 0, 3, 9) == 3
    assert consensus.param("absent", 7) == 7
    first = consensus.routers[0]
    assert (first.nickname, first.ip, first.orport, first.bandwidth) == ("test002a", "127.0.0.1", 5102, 208)
    assert first.unmeasured and "Guard" in first.flags and first.protocols.supports("Relay", 4)
    assert len(first.md_digest) == 32
    assert consensus.bandwidth_weights["Wgd"] == 3333
    assert consensus.required_client.supports("Link", 4)
    assert [source.nickname for source in consensus.sources] == [
        "test001a",
        "test002a",
        "test003a",
        "test000a",
    ]
    assert all(len(source.vote_digest) == 20 for source in consensus.sources)


def test_the_published_ns_consensus() -> None:
    consensus = parse_consensus(NS)
    assert consensus.flavour == "ns"
    assert len(consensus.routers[0].descriptor_digest) == 20
    assert str(consensus.routers[0].exit_summary) == "reject 1-65535"
    assert consensus.digest == consensus.digests["sha1"]


@pytest.mark.parametrize("document", [MICRODESC, NS])
def test_all_published_signatures_are_good(document: bytes) -> None:
    known = certificates()
    outcome = check_signatures(parse_consensus(document), [key[0] for key in known], known)
    assert len(outcome.good) == 4
    assert not outcome.missing
    assert outcome.enough


def test_a_changed_consensus_is_refused() -> None:
    known = certificates()
    changed = parse_consensus(MICRODESC.replace(b"Bandwidth=208", b"Bandwidth=209"))
    with pytest.raises(DirectoryError, match="0 good signatures"):
        verify_consensus(changed, [key[0] for key in known], known)


def test_more_than_half_of_the_authorities_must_sign() -> None:
    known = certificates()
    identities = [key[0] for key in known]
    consensus = parse_consensus(MICRODESC)
    strangers = [bytes([value]) * 20 for value in range(4)]
    verify_consensus(consensus, [*identities, *strangers[:3]], known)
    with pytest.raises(DirectoryError):
        verify_consensus(consensus, [*identities, *strangers], known)


def test_missing_certificates_are_named() -> None:
    consensus = parse_consensus(MICRODESC)
    outcome = check_signatures(consensus, [one.identity for one in consensus.signatures], {})
    assert outcome.missing == {(one.identity, one.signing_key) for one in consensus.signatures}
    assert not outcome.enough


def test_certificates_expire() -> None:
    known = certificates()
    identities = [key[0] for key in known]
    consensus = parse_consensus(MICRODESC)
    expiry = min(one.expires for one in known.values())
    verify_consensus(consensus, identities, known, expiry)
    outcome = check_signatures(consensus, identities, known, expiry + 10)
    assert not outcome.good and len(outcome.missing) == len(outcome.expired) == 4
    with pytest.raises(DirectoryError, match="clock is probably fast"):
        verify_consensus(consensus, identities, known, expiry + 10)


def test_the_clock_is_blamed_only_for_what_it_explains() -> None:
    """Too few signatures are too few, whatever the time is; one signature told twice counts once."""
    known = certificates()
    identities = [key[0] for key in known]
    strangers = [bytes([value]) * 20 for value in range(5)]
    consensus = parse_consensus(MICRODESC)
    expiry = min(one.expires for one in known.values())
    for now in (None, expiry - 10, expiry + 10):
        with pytest.raises(DirectoryError) as refused:
            verify_consensus(consensus, [*identities, *strangers], known, now)
        assert not isinstance(refused.value, ClockError)
    with pytest.raises(ClockError):  # those that have expired would have been just enough
        verify_consensus(consensus, [*identities, *strangers[:3]], known, expiry + 10)
    twice = replace(consensus, signatures=consensus.signatures[:1] * 4)
    with pytest.raises(DirectoryError, match="1 good signatures"):
        verify_consensus(twice, identities, known)


def test_a_signature_of_an_unknown_kind_is_none() -> None:
    consensus = parse_consensus(MICRODESC)
    strange = tuple(replace(one, algorithm="md5") for one in consensus.signatures)
    known = certificates()
    outcome = check_signatures(replace(consensus, signatures=strange), [key[0] for key in known], known)
    assert not outcome.good


def test_the_bounds_of_a_clock_that_is_right() -> None:
    consensus = parse_consensus(MICRODESC)
    for now in (consensus.valid_after - 100, consensus.valid_until + 100):
        check_clock(consensus, now, tolerance=100)
    for now in (consensus.valid_after - 101, consensus.valid_until + 101):
        with pytest.raises(ClockError):
            check_clock(consensus, now, tolerance=100)


def test_a_wrong_clock_is_named() -> None:
    consensus = parse_consensus(MICRODESC)
    check_clock(consensus, consensus.valid_after + 5)
    with pytest.raises(DirectoryError, match="clock is probably slow"):
        check_clock(consensus, consensus.valid_after - 90_000)
    with pytest.raises(DirectoryError, match="clock is probably fast"):
        check_clock(consensus, consensus.valid_until + 90_000)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"network-status-version 3 microdesc", b"network-status-version 4 microdesc"),
        (b"network-status-version 3 microdesc", b"network-status-version 3 jumbo"),
        (b"vote-status consensus", b"vote-status vote"),
        (b"fresh-until 2000-01-01 00:02:40", b"fresh-until 2000-01-01 00:02:20"),
        (b"fresh-until 2000-01-01 00:02:40", b"fresh-until 2000-02-31 00:02:40"),
        (b"cc_alg=2", b"cc_alg=99999999999"),
        (b"cc_alg=2", b"cc_alg"),
        (b"directory-footer\n", b""),
        (b"127.0.0.1 5102 7102\nm ", b"127.0.0.1 65536 7102\nm "),
        (b"127.0.0.1 5102 7102\nm ", b"::1 5102 7102\nm "),
        (b"r test002a ", b"r not-a-nickname "),
        (b"Relay=2-6\nw", b"Relay=6-2\nw"),
        (b"consensus-method 35", b"consensus-method 35\nconsensus-method 35"),
    ],
)
def test_malformed_consensuses(old: bytes, new: bytes) -> None:
    assert old in MICRODESC
    with pytest.raises(DirectoryError):
        parse_consensus(MICRODESC.replace(old, new, 1))


def test_entries_out_of_order_are_refused() -> None:
    head, first, second, *rest = MICRODESC.split(b"\nr ")
    swapped = b"\nr ".join([head, second, first, *rest])
    with pytest.raises(DirectoryError, match="out of order"):
        parse_consensus(swapped)


def test_an_empty_network_has_a_consensus() -> None:
    network = FakeNetwork(relays=0)
    assert parse_consensus(network.consensus()).routers == []


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=400))
def test_random_bytes(data: bytes) -> None:
    survives(parse_consensus, data)


@settings(deadline=None, max_examples=100)
@given(damaged(MICRODESC))
def test_damaged_microdesc_consensus(document: bytes) -> None:
    survives(parse_consensus, document)


@settings(deadline=None, max_examples=100)
@given(damaged(NS))
def test_damaged_ns_consensus(document: bytes) -> None:
    survives(parse_consensus, document)
