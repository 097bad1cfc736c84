"""Key certificates, votes and detached signatures (dir-spec 3.1, 3.4, 3.10)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import DirectoryError
from pelure.tor.directory.consensus import SharedRandomValue, parse_consensus
from pelure.tor.directory.consensus_compute import ComputeOptions, compute_consensus
from pelure.tor.directory.consensus_verify import verify_consensus
from pelure.tor.directory.detached import DetachedSignatures, PendingConsensus, parse_detached
from pelure.tor.directory.key_certificate import (
    build_key_certificate,
    parse_key_certificate,
    split_key_certificates,
)
from pelure.tor.directory.vote import NO_ED25519_ID, SharedRandomCommit, Vote, parse_vote
from pelure.tor.directory.vote_encode import encode_vote
from unit.tor.directory.support import (
    NOW,
    FakeNetwork,
    authority_keys,
    damaged,
    signatures_unchecked,
    survives,
    vector,
    vector_votes,
)

NETWORK = FakeNetwork(relays=3)
CERTIFICATE = NETWORK.certificates[0].text
VOTE = vector_votes()[0]


def test_the_published_certificates() -> None:
    parsed = [parse_key_certificate(text) for text in split_key_certificates(vector("cached-certs"))]
    assert len(parsed) == 4
    assert all(one.signing_key.identity == one.signing_key_digest for one in parsed)
    assert all(one.valid_at(one.published + 1) and not one.valid_at(one.expires + 1) for one in parsed)


def test_a_built_certificate() -> None:
    identity, signing = authority_keys(0)
    read = parse_key_certificate(build_key_certificate(identity, signing, NOW, NOW + 86400, "127.0.0.1:80"))
    assert (read.published, read.expires, read.address) == (NOW, NOW + 86400, "127.0.0.1:80")
    assert read.identity == identity.public.identity


def test_a_certificate_of_other_keys_is_refused() -> None:
    one, other = NETWORK.certificates[:2]
    head, tail = one.text.split(b"dir-signing-key\n")
    rest = tail.split(b"dir-key-crosscert\n")[1]
    stolen = other.text.split(b"dir-signing-key\n")[1].split(b"dir-key-crosscert\n")[0]
    with pytest.raises(DirectoryError):
        parse_key_certificate(head + b"dir-signing-key\n" + stolen + b"dir-key-crosscert\n" + rest)


def test_a_published_vote_is_written_again_as_it_was() -> None:
    vote = parse_vote(VOTE)
    signed, _ = VOTE.split(b"directory-signature ")

    class NoKey:
        """The authority's key is secret: only the text before the signature can be compared."""

        public = vote.certificate.signing_key

        def sign(self, digest: bytes) -> bytes:
            return b"\0" * 256

    again = encode_vote(vote, NoKey())  # type: ignore[arg-type]
    assert again.split(b"directory-signature ")[0] == signed


def test_a_vote_with_everything_in_it() -> None:
    vote = NETWORK.vote(
        0,
        client_versions="0.4.9.11,0.4.9.12",
        server_versions="",
        packages=["pelure 1 https://example.org sha256=abc"],
        legacy_identity=b"\1" * 20,
        shared_rand_participates=True,
        commits=[
            SharedRandomCommit(b"\2" * 20, "Y29tbWl0", "cmV2ZWFs"),
            SharedRandomCommit(b"\3" * 20, "Yw=="),
        ],
        shared_rand_previous=SharedRandomValue(2, b"\4" * 32),
        shared_rand_current=SharedRandomValue(3, b"\5" * 32),
        flag_thresholds="stable-uptime=1",
    )
    vote.entries[0].ipv6 = ("2001:db8::1", 443)
    vote.entries[0].measured = 5
    vote.entries[1].ed_id = NO_ED25519_ID
    vote.entries[1].stats = "wfu=1.000000 tk=1 mtbf=1"
    again = parse_vote(encode_vote(vote, authority_keys(0)[1]))
    for name in Vote.__dataclass_fields__:
        if name not in ("text", "digest"):
            assert getattr(again, name) == getattr(vote, name), name


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"vote-status vote", b"vote-status consensus"),
        (b"known-flags Authority Exit", b"known-flags Exit Authority"),
        (b"w Bandwidth=208", b"w Bandwidth=1"),
        (b"directory-footer\n", b""),
        (b"voting-delay 4 4", b"voting-delay 1 4"),
        (b"dir-key-certificate-version 3", b"dir-key-certificate-version 4"),
    ],
)
def test_a_changed_vote_is_refused(old: bytes, new: bytes) -> None:
    assert old in VOTE
    with pytest.raises(DirectoryError):
        parse_vote(VOTE.replace(old, new, 1))


def test_a_vote_may_not_be_signed_by_another_authority() -> None:
    vote = NETWORK.vote(0)
    with pytest.raises(DirectoryError):
        parse_vote(encode_vote(vote, authority_keys(1)[1]))


def test_signatures_are_gathered_until_there_is_a_consensus() -> None:
    votes = [NETWORK.vote(index) for index in range(3)]
    options = ComputeOptions(3)
    bodies = {flavour: compute_consensus(votes, flavour, options) for flavour in ("ns", "microdesc")}
    sides = [{flavour: PendingConsensus(flavour, body) for flavour, body in bodies.items()} for _ in range(2)]
    times = (votes[0].valid_after, votes[0].fresh_until, votes[0].valid_until)
    for index, side in enumerate(sides):
        for pending in side.values():
            pending.sign(votes[index].identity, authority_keys(index)[1])
    sent = parse_detached(DetachedSignatures.of(sides[1], times).encode())
    assert sent == DetachedSignatures.of(sides[1], times)
    identities = [one.identity for one in NETWORK.certificates]
    for flavour, pending in sides[0].items():
        with pytest.raises(DirectoryError):
            verify_consensus(parse_consensus(pending.document()), identities, NETWORK.store)
        assert sent.matches(pending)
        assert pending.add(sent.signatures[flavour], {}) == 0
        assert pending.add(sent.signatures[flavour], NETWORK.store) == 1
        assert pending.add(sent.signatures[flavour], NETWORK.store) == 0
        verify_consensus(parse_consensus(pending.document()), identities, NETWORK.store)
    other = PendingConsensus("ns", sides[0]["ns"].body.replace(b"cc_alg=2", b"cc_alg=0"))
    assert not sent.matches(other)
    assert other.add(sent.signatures["ns"], NETWORK.store) == 0


def test_published_signatures_fit_the_published_consensus() -> None:
    document = vector("cached-microdesc-consensus")
    store = {(one.identity, one.signing_key_digest): one for one in
             map(parse_key_certificate, split_key_certificates(vector("cached-certs")))}  # fmt: skip
    pending = PendingConsensus("microdesc", document[: document.index(b"directory-signature ")])
    assert pending.add(parse_consensus(document).signatures, store) == 4
    assert pending.document() == document


DETACHED = DetachedSignatures.of(
    {
        flavour: PendingConsensus(flavour, b"body\n", {one.identity: one for one in consensus.signatures})
        for flavour, consensus in (
            ("ns", parse_consensus(vector("cached-consensus"))),
            ("microdesc", parse_consensus(vector("cached-microdesc-consensus"))),
        )
    },
    (NOW, NOW + 1, NOW + 2),
).encode()


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=300))
def test_random_bytes(data: bytes) -> None:
    survives(parse_vote, data)
    survives(parse_key_certificate, data)
    survives(parse_detached, data)
    survives(parse_detached, b"consensus-digest " + b"A" * 40 + b"\n" + data)


@settings(deadline=None, max_examples=100)
@given(damaged(CERTIFICATE))
def test_damaged_certificates(document: bytes) -> None:
    survives(parse_key_certificate, document)


@settings(deadline=None, max_examples=100)
@given(damaged(VOTE))
def test_damaged_votes(document: bytes) -> None:
    survives(parse_vote, document)
    with signatures_unchecked():
        survives(parse_vote, document)


@settings(deadline=None, max_examples=100)
@given(damaged(DETACHED))
def test_damaged_detached_signatures(document: bytes) -> None:
    survives(parse_detached, document)
