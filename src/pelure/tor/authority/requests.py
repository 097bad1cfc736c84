"""The requests that only an authority answers (dir-spec sections 3.2, 3.10, 4.1 and appendix B)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Protocol

from pelure.errors import DirectoryError
from pelure.tor.authority.voting import VotingRound
from pelure.tor.directory.http import DirReply, DirRequest, encoded_reply
from pelure.tor.directory.tokenizer import parse_hex
from pelure.tor.directory.vote import Vote

UPLOAD_PATHS = ("/tor/", "/tor")
VOTE_PATH = "/tor/post/vote"
SIGNATURE_PATH = "/tor/post/consensus-signature"
NEXT, CURRENT = "/tor/status-vote/next/", "/tor/status-vote/current/"
log = logging.getLogger(__name__)


class Handler(Protocol):
    """What is done with what is posted; each raises ``DirectoryError`` with a message for the sender."""

    @property
    def round(self) -> VotingRound:
        """The round under way."""
        ...

    def upload(self, body: bytes, now: float) -> bool:
        """Take descriptors; whether any was new."""
        ...

    async def take_vote(self, document: bytes, *, posted: bool) -> bool:
        """Take a vote; whether it was new."""
        ...

    def take_signatures(self, document: bytes) -> int:
        """Take detached signatures; how many were new."""
        ...


class AuthorityRequests:
    """Answers from the round under way and the votes of the one before."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._previous: dict[bytes, Vote] = {}

    def remember(self, votes: Mapping[bytes, Vote]) -> None:
        """Keep the votes of the round that just ended, to be served as ``current``."""
        self._previous = dict(votes)

    async def answer(self, request: DirRequest, now: float) -> DirReply | None:
        """The reply, or None if the request is not one for an authority."""
        try:
            if request.method == "POST":
                return await self._answer_post(request, now)
            if request.method == "GET":
                documents = self._documents(request.path)
                if documents is not None:
                    body = b"".join(documents)
                    return encoded_reply(request, body) if body else DirReply(404)
        except DirectoryError as error:
            log.info("refused: %s %s: %s", request.method, request.path[:60], error)
            return DirReply(400, reason=str(error))
        return None

    async def _answer_post(self, request: DirRequest, now: float) -> DirReply | None:
        if request.path in UPLOAD_PATHS:
            changed = self._handler.upload(request.body, now)
            return DirReply(200, reason="Descriptor accepted" if changed else "Descriptor not newer")
        if request.path == VOTE_PATH:
            new = await self._handler.take_vote(request.body, posted=True)
            return DirReply(200, reason="Vote stored" if new else "Duplicate discarded")
        if request.path == SIGNATURE_PATH:
            self._handler.take_signatures(request.body)
            return DirReply(200, reason="Signatures stored")
        return None

    def _documents(self, path: str) -> Iterable[bytes] | None:
        if path.startswith(NEXT):
            return self._next(path.removeprefix(NEXT))
        if path.startswith(CURRENT) and not path.startswith(f"{CURRENT}consensus"):
            return self._votes(path.removeprefix(CURRENT), [self._previous])
        return None

    def _next(self, resource: str) -> Iterable[bytes]:
        pending = self._handler.round.pending
        name, _, flavour = resource.partition("-")
        if name == "consensus" and flavour != "signatures":
            consensus = pending.get(flavour or "ns")
            return [consensus.document()] if consensus else []
        if resource == "consensus-signatures":
            return [self._handler.round.signatures()] if pending else []
        return self._votes(resource, [self._handler.round.votes])

    def _votes(self, resource: str, tables: list[dict[bytes, Vote]]) -> Iterable[bytes]:
        if resource == "authority":
            identity = self._handler.round.keys.identity
            return [table[identity].text for table in tables if identity in table]
        if resource.startswith("d/"):
            tables = [self._handler.round.votes, self._previous]
            by_digest = {vote.digest: vote.text for table in tables for vote in table.values()}
            wanted = [parse_hex(word, 20) for word in resource.removeprefix("d/").split("+")]
            return [by_digest[digest] for digest in wanted if digest in by_digest]
        wanted = [parse_hex(word, 20) for word in resource.split("+")]
        return [table[identity].text for table in tables for identity in wanted if identity in table]
