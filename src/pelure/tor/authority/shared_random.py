"""The shared random protocol of one authority (srv-spec): commit, reveal, compute.

Twelve rounds of commitments, twelve of reveals; then the shared random value of the run is computed from
what was revealed. :mod:`pelure.tor.authority.sr_state` keeps the state across restarts. No I/O.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from enum import Enum

from pelure.errors import DirectoryError
from pelure.tor.crypto.digests import equal, sha3_256
from pelure.tor.directory.consensus import SharedRandomValue
from pelure.tor.directory.vote import SharedRandomCommit

ROUNDS_A_PHASE = 12
ROUNDS_A_RUN = 2 * ROUNDS_A_PHASE
PROTOCOL_VERSION = 1
ALGORITHM = "sha3-256"
_VALUE_LENGTH = 40
"""A decoded COMMIT or REVEAL: 8 bytes of time and 32 of digest or random number."""


class Phase(Enum):
    """The half of a protocol run that a round belongs to."""

    COMMIT = "commit"
    REVEAL = "reveal"


def phase_of(valid_after: int, interval: int) -> Phase:
    """The phase of the round whose consensus becomes valid at ``valid_after``."""
    return Phase.COMMIT if valid_after // interval % ROUNDS_A_RUN < ROUNDS_A_PHASE else Phase.REVEAL


def run_end(valid_after: int, interval: int) -> int:
    """When the protocol run of the round of ``valid_after`` ends."""
    return valid_after + (ROUNDS_A_RUN - valid_after // interval % ROUNDS_A_RUN) * interval


@dataclass(frozen=True, slots=True)
class Commit:
    """An authority's commitment and, once known, its reveal; both as they stand in votes (base64).

    ``identity`` is the authority's v3 identity digest (20 bytes). Our own reveal is secret until the reveal
    phase, hence no ``repr``.
    """

    identity: bytes
    commit: str
    reveal: str = field(default="", repr=False)

    @classmethod
    def generate(cls, identity: bytes, timestamp: int, random: bytes) -> Commit:
        """Make a commitment for the run whose first round is ``timestamp`` from 32 random bytes (4.1.1)."""
        reveal = _encode(timestamp, sha3_256(random))
        return cls(identity, _encode(timestamp, sha3_256(reveal.encode())), reveal)

    @classmethod
    def parse(cls, words: list[str]) -> Commit:
        """Parse the arguments of a ``Commit`` line of the state file (4.3). Raises ``DirectoryError``."""
        if len(words) < 4 or words[0] != str(PROTOCOL_VERSION) or words[1] != ALGORITHM:
            raise DirectoryError("a shared random commitment of unknown version or algorithm")
        try:
            identity = bytes.fromhex(words[2])
        except ValueError:
            identity = b""
        if len(identity) != 20:
            raise DirectoryError("a shared random commitment with a malformed identity")
        return cls.checked(SharedRandomCommit(identity, words[3], words[4] if len(words) > 4 else ""))

    @classmethod
    def checked(cls, line: SharedRandomCommit) -> Commit:
        """Take the line of a vote (4.1.4) if its values are well formed. Raises ``DirectoryError``."""
        for value in (line.commit, line.reveal) if line.reveal else (line.commit,):
            _decode(value)
        return cls(line.identity, line.commit, line.reveal)

    @property
    def hashed_reveal(self) -> bytes:
        """What the commitment commits to: SHA3-256 of the encoded reveal."""
        return _decode(self.commit)[1]

    def reveal_matches(self) -> bool:
        """Whether the reveal is that of the commitment, with the same timestamp (4.1.2)."""
        committed_at, digest = _decode(self.commit)
        revealed_at, _ = _decode(self.reveal)
        return committed_at == revealed_at and equal(sha3_256(self.reveal.encode()), digest)

    @property
    def arguments(self) -> str:
        """The arguments of its line in the state file, the reveal included."""
        line = f"{PROTOCOL_VERSION} {ALGORITHM} {self.identity.hex().upper()} {self.commit}"
        return f"{line} {self.reveal}" if self.reveal else line


def _encode(timestamp: int, digest: bytes) -> str:
    return base64.b64encode(struct.pack(">Q", timestamp) + digest).decode()


def _decode(value: str) -> tuple[int, bytes]:
    try:
        raw = binascii.a2b_base64(value, strict_mode=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != _VALUE_LENGTH:
        raise DirectoryError("a shared random commitment or reveal is malformed")
    return struct.unpack(">Q", raw[:8])[0], raw[8:]


def compute(commits: Iterable[Commit], previous: SharedRandomValue | None) -> SharedRandomValue:
    """The value that a run's revealed commitments give (3.3.1), in order of their hashed reveals."""
    revealed = sorted((one for one in commits if one.reveal), key=lambda one: one.hashed_reveal)
    reveals = "".join(f"{one.identity.hex().upper()}{one.reveal}" for one in revealed)
    message = b"shared-random" + struct.pack(">QI", len(revealed), PROTOCOL_VERSION)
    message += sha3_256(reveals.encode()) + (previous.value if previous else bytes(32))
    return SharedRandomValue(len(revealed), sha3_256(message))


@dataclass(slots=True)
class SharedRandomState:
    """Where one authority stands in the protocol, as of the round of ``valid_after`` (0: none yet).

    ``fresh`` says that ``current`` was computed by us for this round and is in no consensus yet: it then
    needs a supermajority (``AuthDirNumSRVAgreements``) to enter one.
    """

    valid_after: int = 0
    valid_until: int = 0
    phase: Phase = Phase.COMMIT
    commits: dict[bytes, Commit] = field(default_factory=dict)
    previous: SharedRandomValue | None = None
    current: SharedRandomValue | None = None
    fresh: bool = False

    def prepare(self, valid_after: int, interval: int, identity: bytes, rng: Callable[[int], bytes]) -> bool:
        """Get ready for the round of ``valid_after``; returns whether anything changed.

        Starting a new run computes the value of the one that ended and makes a new commitment for
        ``identity``; so does a commit phase in which we know no commitment yet.
        """
        if valid_after <= self.valid_after:
            return False
        phase = phase_of(valid_after, interval)
        if phase is Phase.COMMIT and (self.phase is Phase.REVEAL or self._expired(valid_after)):
            self._new_run(valid_after)
        if phase is Phase.COMMIT and not self.commits:
            self.commits[identity] = Commit.generate(identity, valid_after, rng(32))
        self.phase = phase
        self.valid_after = valid_after
        self.valid_until = run_end(valid_after, interval)
        return True

    def _expired(self, valid_after: int) -> bool:
        return bool(self.valid_until) and valid_after >= self.valid_until

    def _new_run(self, valid_after: int) -> None:
        # After a gap of a whole run or more the known values are from no recent run; start from nothing.
        if self.phase is Phase.REVEAL and valid_after <= self.valid_until:
            self.previous, self.current = self.current, None
            self.current = compute(self.commits.values(), self.previous)
            self.fresh = True
        self.commits.clear()

    def keep_only(self, authorities: Collection[bytes]) -> None:
        """Drop the commitments of who is no authority any more: others will not count them either."""
        self.commits = {who: one for who, one in self.commits.items() if who in authorities}

    def receive(
        self, commits: Iterable[SharedRandomCommit], voter: bytes, authorities: Collection[bytes]
    ) -> bool:
        """Take the commitments in ``voter``'s vote; returns whether the state changed.

        Only the voter's own counts. In the commit phase the first is kept; in the reveal phase a reveal is
        added to a known commitment that it matches. Everything else is ignored.
        """
        changed = False
        for line in commits:
            if line.identity != voter or voter not in authorities:
                continue
            try:
                commit = Commit.checked(line)
            except DirectoryError:
                continue
            if self._wanted(commit):
                self.commits[voter] = commit
                changed = True
        return changed

    def _wanted(self, commit: Commit) -> bool:
        known = self.commits.get(commit.identity)
        if self.phase is Phase.COMMIT:
            return known is None and not commit.reveal
        if known is None or known.commit != commit.commit or known.reveal or not commit.reveal:
            return False
        return commit.reveal_matches()

    def vote_commits(self) -> list[SharedRandomCommit]:
        """The commitments for our vote (4.1.4), in the order of their lines; reveals in their phase only."""
        revealing = self.phase is Phase.REVEAL
        return [
            SharedRandomCommit(one.identity, one.commit, one.reveal if revealing else "")
            for one in sorted(self.commits.values(), key=lambda one: one.identity)
        ]

    def accept_consensus(self, previous: SharedRandomValue | None, current: SharedRandomValue | None) -> None:
        """Take over the values that a consensus has: the majority's word counts, not ours."""
        self.previous, self.current, self.fresh = previous, current, False
