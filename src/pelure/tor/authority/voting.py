"""One voting round as an authority sees it (dir-spec sections 3.2 and 3.10): votes, consensus, signatures.

Takes documents and the time, returns documents; :mod:`pelure.tor.authority.server` exchanges them over HTTP.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pelure.errors import DirectoryError
from pelure.tor.authority.keys import AuthorityKeys
from pelure.tor.authority.schedule import Round
from pelure.tor.directory.consensus import parse_consensus
from pelure.tor.directory.consensus_compute import ComputeOptions, compute_consensus
from pelure.tor.directory.detached import DetachedSignatures, PendingConsensus, parse_detached
from pelure.tor.directory.key_certificate import KeyCertificate
from pelure.tor.directory.vote import Vote, parse_vote

FLAVOURS = ("ns", "microdesc")
MAX_QUEUED_SIGNATURES = 64
_VOTE_START = b"network-status-version "
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Computed:
    """Unpublished consensuses by flavour; ``times``: valid-after, fresh-until and valid-until."""

    pending: dict[str, PendingConsensus]
    times: tuple[float, float, float]


class VotingRound:
    """The votes and signatures of one round.

    ``names`` maps the v3 identities (20 bytes) of all authorities, this one included, to their nicknames.
    """

    def __init__(self, when: Round, names: Mapping[bytes, str], keys: AuthorityKeys) -> None:
        self.when = when
        self.names = names
        self.keys = keys
        self.votes: dict[bytes, Vote] = {}
        self.pending: dict[str, PendingConsensus] = {}
        self._times = (0.0, 0.0, 0.0)
        self._certificates: dict[tuple[bytes, bytes], KeyCertificate] = {}
        self._queued: list[bytes] = []

    def read_vote(self, document: bytes) -> Vote:
        """Parse a vote for this round, for :meth:`add_vote`; takes seconds if it lists thousands of relays.

        It changes nothing here and may run in another thread. Raises ``DirectoryError`` if it is malformed,
        of no known authority, or of another round.
        """
        return parse_vote(document, self._check_voter)

    def _check_voter(self, identity: bytes, valid_after: float) -> None:
        if identity not in self.names:
            raise DirectoryError("the vote is not from a recognized authority")
        if valid_after != self.when.valid_after:
            raise DirectoryError("the vote has another valid-after time than this round")

    def add_vote(self, vote: Vote, now: float, *, posted: bool) -> bool:
        """Take a vote; ``posted`` if it came by itself, not by our asking. False if it is already known.

        Raises ``DirectoryError`` if it is of no known authority, of another round, or too late:
        a vote that only some authorities have in time would split the consensus.
        """
        self._check_voter(vote.identity, vote.valid_after)
        if not vote.certificate.valid_at(now):
            raise DirectoryError("the voting authority's certificate is not valid now")
        known = self.votes.get(vote.identity)
        if known is not None and known.digest == vote.digest:
            return False
        if self.pending or (posted and now > self.when.fetch_votes_at):
            raise DirectoryError("the vote came too late to be counted")
        if known is not None and known.published >= vote.published:
            raise DirectoryError("a newer vote of this authority is already here")
        self.votes[vote.identity] = vote
        certificate = vote.certificate
        self._certificates[certificate.identity, certificate.signing_key_digest] = certificate
        return True

    def knows(self, document: bytes) -> bool:
        """Whether ``document`` is, byte for byte, a vote that is here."""
        return any(vote.text == document for vote in self.votes.values())

    @property
    def missing_votes(self) -> list[bytes]:
        """The identities of authorities whose vote isn't here."""
        return [identity for identity in self.names if identity not in self.votes]

    @property
    def missing_signatures(self) -> bool:
        """Whether any voter's signature on a computed consensus isn't here."""
        return any(len(one.signatures) < len(self.votes) for one in self.pending.values())

    def compute(self, *, srv_is_fresh: bool) -> Computed:
        """Compute and sign the consensus of each flavour, for :meth:`adopt`; changes nothing here.

        Takes long with many relays: it may run in another thread. Raises ``DirectoryError`` if too few
        authorities voted, none of them on who is running, or the result is none that we would accept.
        """
        if len(self.votes) <= len(self.names) // 2:
            raise DirectoryError(f"only {len(self.votes)} of {len(self.names)} authorities voted")
        votes = list(self.votes.values())
        if not any("Running" in vote.known_flags for vote in votes):
            raise DirectoryError("no authority voted on which relays are running")
        options = ComputeOptions(len(self.names), srv_is_fresh=srv_is_fresh)
        pending = {}
        for flavour in FLAVOURS:
            consensus = PendingConsensus(flavour, compute_consensus(votes, flavour, options))
            consensus.sign(self.keys.identity, self.keys.signing)
            pending[flavour] = consensus
        result = parse_consensus(pending["ns"].document())
        return Computed(pending, (result.valid_after, result.fresh_until, result.valid_until))

    def adopt(self, computed: Computed) -> bytes:
        """Gather signatures on these consensuses from now on; returns our detached signatures."""
        self._times = computed.times
        self.pending = computed.pending
        queued, self._queued = self._queued, []
        for document in queued:
            try:
                self.add_signatures(document)
            except DirectoryError as error:
                log.warning("signatures that came early are of no use: %s", error)
        return self.signatures()

    def signatures(self) -> bytes:
        """The detached signatures gathered so far. Raises ``DirectoryError`` before :meth:`adopt`."""
        return DetachedSignatures.of(self.pending, self._times).encode()

    def add_signatures(self, document: bytes) -> int:
        """Take a detached signatures document; returns how many signatures were new.

        Before the consensus is computed the document is kept for then. Raises ``DirectoryError`` if it is
        malformed or of another consensus than ours.
        """
        detached = parse_detached(document)
        if not self.pending:
            if len(self._queued) < MAX_QUEUED_SIGNATURES:
                self._queued.append(document)
            return 0
        if (detached.valid_after, detached.fresh_until, detached.valid_until) != self._times:
            raise DirectoryError("the signatures are on a consensus of other times")
        if not any(detached.matches(one) for one in self.pending.values()):
            raise DirectoryError("the signatures are on another consensus than ours")
        return sum(
            one.add(detached.signatures.get(flavour, ()), self._certificates)
            for flavour, one in self.pending.items()
            if detached.matches(one)
        )

    def publish(self) -> dict[str, bytes]:
        """The consensuses, by flavour, that more than half of the authorities signed."""
        needed = len(self.names) // 2 + 1
        return {
            flavour: one.document() for flavour, one in self.pending.items() if len(one.signatures) >= needed
        }

    @property
    def certificates(self) -> dict[tuple[bytes, bytes], KeyCertificate]:
        """The certificates that came with the votes, by (identity, signing key digest)."""
        return self._certificates


def split_votes(documents: bytes) -> Iterator[bytes]:
    """Yield each vote of a run, as directories give several at once."""
    start = 0 if documents.startswith(_VOTE_START) else -1
    while start >= 0:
        following = documents.find(b"\n" + _VOTE_START, start)
        yield documents[start:] if following < 0 else documents[start : following + 1]
        start = following + 1 if following >= 0 else -1
