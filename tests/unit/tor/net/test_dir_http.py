"""Directory requests over a stream (dir-spec 5, 6)."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import DirectoryError
from pelure.streams import memory_pipe
from pelure.tor.net import dir_http
from pelure.tor.net.dir_http import DirResponse

SECONDS = 30.0


async def ask(answer: bytes, *, limit: int = 1000, body: bytes | None = None) -> tuple[DirResponse, bytes]:
    """Send one request to a directory that says ``answer``; returns the response and the request."""
    ours, theirs = memory_pipe(1 << 20)
    await theirs.write(answer)
    await theirs.write_eof()
    async with asyncio.timeout(SECONDS):
        if body is None:
            response = await dir_http.get(ours, "/tor/x", limit=limit, headers="A: b\r\n")
        else:
            response = await dir_http.post(ours, "/tor/x", body, limit=limit)
        await ours.write_eof()
        request = b""
        while piece := await theirs.read():
            request += piece
    return response, request


async def test_requests_are_http() -> None:
    response, request = await ask(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nX-Y:  z \r\n\r\nhello")
    assert request == b"GET /tor/x HTTP/1.0\r\nA: b\r\n\r\n"
    assert response == DirResponse(200, {"content-length": "5", "x-y": "z"}, b"hello")
    _, request = await ask(b"HTTP/1.0 200 OK\r\n\r\n", body=b"document")
    assert request == b"POST /tor/x HTTP/1.0\r\nContent-Length: 8\r\n\r\ndocument"


async def test_a_body_without_length_ends_with_the_stream() -> None:
    response, _ = await ask(b"HTTP/1.0 404 Not found\r\n\r\nsome text")
    assert (response.status, response.body) == (404, b"some text")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.0 200 OK\r\n",
        b"SMTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.0 20 OK\r\n\r\n",
        b"HTTP/1.0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 1001\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\nshort",
        b"HTTP/1.0 200 OK\r\n\r\n" + bytes(1001),
        b"x" * 200_000,
    ],
)
async def test_malformed_and_oversized_answers_are_refused(answer: bytes) -> None:
    with pytest.raises(DirectoryError):
        await ask(answer)


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=200))
def test_any_answer_is_read_or_refused(answer: bytes) -> None:
    try:
        asyncio.run(ask(b"HTTP/1.0 200 OK\r\n" + answer))
    except DirectoryError:
        pass
