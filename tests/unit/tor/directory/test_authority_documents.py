"""Key certificates, votes and detached signatures (dir-spec 3.1, 3.4, 3.10)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import DirectoryError
from pelure.tor.directory import vote as vote_module
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


SIGNER = b"directory-signature 5B591AD684C1AB8E0AB76C839E93FD097526A4BC"
SIGNATURE = VOTE[VOTE.index(b"directory-signature") :]
ENTRY = VOTE[VOTE.index(b"\nr ") + 1 : VOTE.index(b"\nr ", VOTE.index(b"\nr ") + 1) + 1]
COMMIT = b"shared-rand-commit 1 sha3-256 "
MANY_FLAGS = b" ".join(b"B%02d" % number for number in range(54)) + b" "
ED_IDS = b"K4J8iajotiPih+acp0jNJ9babrIkQackRYWnBLnL8pY", b"yhO6nETO5AUdvJbLgPnw4mFjozGXWMCqOp30nY6nM8E"


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b"network-status-version 3\n", b"network-status-version 4\n", "not a version 3"),
        (b"network-status-version 3\n", b"packages a\nnetwork-status-version 3\n", "not a version 3"),
        (b"vote-status vote", b"vote-status consensus", "a consensus where"),
        (b"known-flags Authority Exit", b"known-flags Exit Authority", "known-flags"),
        (b"known-flags Authority Exit", b"known-flags Authority Authority Exit", "known-flags"),
        (b"known-flags Authority ", b"known-flags Authority " + MANY_FLAGS, "known-flags"),
        (b"directory-footer\n", b"", "footer"),
        (b"voting-delay 4 4", b"voting-delay 1 4", "out of range"),
        (b"voting-delay 4 4", b"voting-delay 4 1", "out of range"),
        (b"valid-after 2000-01-01 00:02:40", b"valid-after 2000-01-01 00:03:00", "times"),
        (b"fresh-until 2000-01-01 00:03:00", b"fresh-until 2000-01-01 00:03:20", "times"),
        (b"dir-source test002a 5B", b"dir-source test002a 5C", "owner of its certificate"),
        (b"shared-rand-participate\n", b"shared-rand-participate\n" + (COMMIT + b"00" * 20 + b" AA\n") * 253,
         "too many shared random"),
        (SIGNER, b"directory-signature " + b"0" * 40, "another authority"),
        (SIGNER, SIGNER.replace(b"signature ", b"signature sha256 "), "another authority"),
        (b" AB9141CB596D", b" BB9141CB596D", "another key"),
        (SIGNATURE, SIGNATURE + SIGNATURE, "exactly one signature"),
        (SIGNATURE, SIGNATURE + b"something else\n", "exactly one signature"),
        (ENTRY, ENTRY + ENTRY, "out of order"),
        (*ED_IDS, "twice"),
        (b"s Exit Fast", b"s Exit Faster", "flag that it does not know"),
        (b"pr Conflux=1 ", b"pr Conflux=x ", "protocol"),
        (b"p reject 1-65535", b"p refuse 1-65535", "exit policy"),
        (b"required-client-protocols Cons=2", b"required-client-protocols Cons=x", "protocol"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_vote(old: bytes, new: bytes, why: str) -> None:
    assert old in VOTE
    with signatures_unchecked():
        parse_vote(VOTE)
        with pytest.raises(DirectoryError, match=why):
            parse_vote(VOTE.replace(old, new, 1))


def test_a_changed_vote_is_refused() -> None:
    with pytest.raises(DirectoryError, match="does not verify"):
        parse_vote(VOTE.replace(b"w Bandwidth=208", b"w Bandwidth=1", 1))
    with pytest.raises(DirectoryError):
        parse_vote(VOTE.replace(b"dir-key-certificate-version 3", b"dir-key-certificate-version 4", 1))


def test_what_a_vote_says_that_is_not_known_yet_is_passed_over() -> None:
    unsaid = {
        b"id ed25519 " + ED_IDS[1]: b"id future x",
        b"w Bandwidth=208\n": b"w Bandwidth=208 MeasuredButAuthority=7 Future=1\n",
    }
    text = VOTE
    for old, new in unsaid.items():
        text = text.replace(old, new, 1)
    with signatures_unchecked():
        first = parse_vote(text).entries[0]
    assert (first.ed_id, first.bandwidth, first.measured) == (None, 208, None)


def test_commitments_count_where_the_voter_takes_part_in_a_protocol_that_is_known() -> None:
    def commits(old: bytes, new: bytes) -> int:
        with signatures_unchecked():
            return len(parse_vote(VOTE.replace(old, new)).commits)

    assert commits(b"", b"") == 4
    assert commits(b"shared-rand-participate\n", b"") == 0
    more = b"shared-rand-participate\n" + (COMMIT + b"00" * 20 + b" AA\n") * 252
    assert commits(b"shared-rand-participate\n", more) == 256
    assert commits(COMMIT + b"0B", COMMIT.replace(b" 1 ", b" 2 ") + b"0B") == 3
    assert commits(COMMIT + b"0B", COMMIT.replace(b"sha3-256", b"blake3") + b"0B") == 3


def test_microdescriptors_by_method() -> None:
    entry = parse_vote(VOTE).entries[0]
    entry.microdescs = ["1,2 sha1=x sha256=" + "A" * 43, "3 sha1=x", "4 sha256=" + "B" * 43]
    assert entry.microdesc_digest(2) == bytes(32)
    assert entry.microdesc_digest(4) not in (None, bytes(32))
    assert entry.microdesc_digest(3) is entry.microdesc_digest(5) is entry.microdesc_digest(12) is None


def test_the_number_of_routers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    count = len(parse_vote(VOTE).entries)
    monkeypatch.setattr(vote_module, "MAX_ROUTERS", count)
    parse_vote(VOTE)
    monkeypatch.setattr(vote_module, "MAX_ROUTERS", count - 1)
    with pytest.raises(DirectoryError, match="too many routers"):
        parse_vote(VOTE)


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
