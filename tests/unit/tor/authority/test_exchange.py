"""Requests between authorities: one that is absent, refuses or talks nonsense costs its answer only."""

from __future__ import annotations

import asyncio
import zlib
from unittest import mock

import pytest

from pelure.errors import DirectoryError
from pelure.streams import SocketStream
from pelure.tor.authority import exchange
from pelure.tor.authority.exchange import MAX_FINGERPRINTS, Exchange, hex_paths
from pelure.tor.directory.network import DirAuthority
from pelure.tor.net.dir_http import DirResponse

HERE = DirAuthority("here", bytes(20), bytes(20), "192.0.2.1", 9030, 9001)
AWAY = DirAuthority("away", bytes(20), bytes(20), "192.0.2.2", 9030, 9001)
WITHOUT = DirAuthority("without", bytes(20), bytes(20), "192.0.2.3", 0, 9001)


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> mock.AsyncMock:
    """What connections to HERE are; AWAY can't be reached."""
    made = mock.AsyncMock(spec=SocketStream)

    async def connect(ip: str, port: int) -> mock.AsyncMock:
        assert port == 9030
        if ip != HERE.ip:
            raise ConnectionRefusedError
        return made

    monkeypatch.setattr(SocketStream, "connect", connect)
    return made


def answers(status: int, body: bytes = b"", **headers: str) -> mock.AsyncMock:
    return mock.AsyncMock(return_value=DirResponse(status, headers, body))


async def test_documents_come_from_whoever_has_them(stream: mock.AsyncMock) -> None:
    others = Exchange([HERE, AWAY, WITHOUT], 30.0)
    assert others.others == [HERE, AWAY]
    with mock.patch.object(exchange.dir_http, "get", answers(200, b"text")) as get:
        assert await others.get_from_all("/tor/x") == [b"text"]
    assert get.call_args.args[1] == "/tor/x" and stream.close.await_count == 1
    packed = {"content-encoding": "deflate"}
    with mock.patch.object(exchange.dir_http, "get", answers(200, zlib.compress(b"text"), **packed)):
        assert await others.get(HERE, "/tor/x") == b"text"
    with mock.patch.object(exchange.dir_http, "get", answers(404, b"text")):
        assert await others.get(HERE, "/tor/x") == b""
    with mock.patch.object(exchange.dir_http, "get", answers(200, b"junk", **packed)):
        assert await others.get(HERE, "/tor/x") == b""


@pytest.mark.parametrize("error", [DirectoryError("no HTTP"), ConnectionResetError(), TimeoutError()])
async def test_failures_are_nobody_s_business(stream: mock.AsyncMock, error: Exception) -> None:
    others = Exchange([HERE], 30.0)
    for method in ("get", "post"):
        with mock.patch.object(exchange.dir_http, method, mock.AsyncMock(side_effect=error)):
            found = await (others.get(HERE, "/") if method == "get" else others.post_to_all("/", b""))
            assert not found
    assert stream.close.await_count == 2


async def test_an_authority_that_does_not_answer_is_not_waited_for(stream: mock.AsyncMock) -> None:
    others = Exchange([HERE], 0.01)

    async def forever(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    with mock.patch.object(exchange.dir_http, "get", forever):
        assert await others.get(HERE, "/") == b""
    with mock.patch.object(exchange.dir_http, "post", forever):
        assert await others.post_to_all("/", b"") == 0


async def test_who_took_what_is_posted(stream: mock.AsyncMock) -> None:
    others = Exchange([HERE, AWAY], 30.0)
    for status, taken in ((200, 1), (400, 0)):
        with mock.patch.object(exchange.dir_http, "post", answers(status)) as post:
            assert await others.post_to_all("/tor/post/vote", b"body") == taken
        assert post.call_args.args[1:] == ("/tor/post/vote", b"body")
    assert stream.close.await_count == 2


def test_many_digests_are_asked_for_in_several_requests() -> None:
    digests = [bytes([n]) * 20 for n in range(MAX_FINGERPRINTS + 1)]
    first, second = hex_paths("/x/", digests)
    assert first.startswith("/x/0000") and first.count("+") == MAX_FINGERPRINTS - 1
    assert second == "/x/" + "60" * 20
    assert hex_paths("/x/", []) == []
