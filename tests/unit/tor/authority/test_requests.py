"""What is asked of an authority, and what it answers (dir-spec 3.2, 3.10, 4.1)."""

from __future__ import annotations

from unittest import mock

import pytest

from pelure.errors import DirectoryError
from pelure.tor.authority.requests import AuthorityRequests
from pelure.tor.directory.http import DirReply, DirRequest

ME, OTHER, STRANGER = (bytes([n]) * 20 for n in (1, 2, 3))
NEXT, CURRENT = "/tor/status-vote/next/", "/tor/status-vote/current/"


def vote(name: str) -> mock.Mock:
    return mock.Mock(text=name.encode(), digest=name.encode().ljust(20, b"."))


@pytest.fixture
def handler() -> mock.Mock:
    made = mock.Mock(take_vote=mock.AsyncMock())
    made.round.votes = {ME: vote("mine"), OTHER: vote("other")}
    made.round.keys.identity = ME
    made.round.pending = {}
    return made


@pytest.fixture
def requests(handler: mock.Mock) -> AuthorityRequests:
    made = AuthorityRequests(handler)
    made.remember({ME: vote("my last"), STRANGER: vote("gone")})
    return made


async def get(requests: AuthorityRequests, path: str) -> tuple[int, bytes] | None:
    reply = await requests.answer(DirRequest("GET", path, {}, b""), 0.0)
    return (reply.status, reply.body) if reply is not None else None


async def post(requests: AuthorityRequests, path: str) -> DirReply | None:
    return await requests.answer(DirRequest("POST", path, {}, b"body"), 0.0)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (f"{NEXT}authority", b"mine"),
        (f"{CURRENT}authority", b"my last"),
        (f"{NEXT}{OTHER.hex()}", b"other"),
        (f"{NEXT}{OTHER.hex()}+{ME.hex()}", b"othermine"),
        (f"{CURRENT}{STRANGER.hex()}+{OTHER.hex()}", b"gone"),
        (f"{NEXT}d/{vote('gone').digest.hex()}+{vote('mine').digest.hex()}", b"gonemine"),
        (f"{CURRENT}d/{vote('other').digest.hex()}", b"other"),
    ],
)
async def test_votes(requests: AuthorityRequests, path: str, body: bytes) -> None:
    assert await get(requests, path) == (200, body)


@pytest.mark.parametrize(
    "path",
    [
        f"{NEXT}{STRANGER.hex()}",
        f"{CURRENT}{OTHER.hex()}",
        f"{NEXT}d/{'00' * 20}",
        f"{NEXT}consensus",
        f"{NEXT}consensus-microdesc",
        f"{NEXT}consensus-signatures",
    ],
)
async def test_what_is_not_there(requests: AuthorityRequests, path: str) -> None:
    assert await get(requests, path) == (404, b"")


@pytest.mark.parametrize("path", [f"{NEXT}", f"{NEXT}d/xyz", f"{CURRENT}{'0' * 39}", f"{CURRENT}{'0' * 42}"])
async def test_what_is_malformed(requests: AuthorityRequests, path: str) -> None:
    reply = await get(requests, path)
    assert reply is not None and reply[0] == 400


async def test_an_authority_that_has_not_voted(handler: mock.Mock) -> None:
    handler.round.votes = {}
    assert await get(AuthorityRequests(handler), f"{NEXT}authority") == (404, b"")


async def test_the_consensus_before_it_is_published(handler: mock.Mock, requests: AuthorityRequests) -> None:
    for flavour in ("ns", "microdesc"):
        handler.round.pending[flavour] = mock.Mock(document=lambda flavour=flavour: flavour.encode())
    handler.round.signatures = lambda: b"signed"
    assert await get(requests, f"{NEXT}consensus") == (200, b"ns")
    assert await get(requests, f"{NEXT}consensus-microdesc") == (200, b"microdesc")
    assert await get(requests, f"{NEXT}consensus-signatures") == (200, b"signed")
    assert await get(requests, f"{NEXT}consensus-future") == (404, b"")


@pytest.mark.parametrize(
    "path", [f"{CURRENT}consensus", f"{CURRENT}consensus-microdesc", "/tor/keys/all", "/"]
)
async def test_what_any_directory_answers(requests: AuthorityRequests, path: str) -> None:
    assert await get(requests, path) is None
    assert await post(requests, path) is None
    assert await requests.answer(DirRequest("HEAD", f"{NEXT}authority", {}, b""), 0.0) is None


async def test_what_is_posted(handler: mock.Mock, requests: AuthorityRequests) -> None:
    for new, told in ((True, "accepted"), (False, "not newer")):
        handler.upload.return_value = new
        for path in ("/tor/", "/tor"):
            reply = await post(requests, path)
            assert reply is not None and reply.status == 200 and told in reply.reason
    handler.upload.assert_called_with(b"body", 0.0)
    for new, told in ((True, "stored"), (False, "Duplicate")):
        handler.take_vote.return_value = new
        reply = await post(requests, "/tor/post/vote")
        assert reply is not None and reply.status == 200 and told in reply.reason
    handler.take_vote.assert_called_with(b"body", posted=True)
    reply = await post(requests, "/tor/post/consensus-signature")
    assert reply is not None and reply.status == 200
    handler.take_signatures.assert_called_once_with(b"body")


async def test_who_posts_something_wrong_is_told(handler: mock.Mock, requests: AuthorityRequests) -> None:
    handler.upload.side_effect = DirectoryError("the clock is wrong")
    reply = await post(requests, "/tor/")
    assert reply is not None and (reply.status, reply.reason) == (400, "the clock is wrong")
