"""Directory requests and replies (dir-spec 5 and 6), the server's side."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import ProtocolError
from pelure.tor.directory.http import DirReply, DirRequest, EncodedBody, encoded_reply, parse_request

NOW = 1_700_000_000.0
DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "deflate": zlib.decompress,
    "gzip": gzip.decompress,
    "x-zstd": lambda data: zstandard.ZstdDecompressor().decompress(data),
    "identity": bytes,
}


def test_a_get_as_c_tor_sends_it() -> None:
    raw = (
        b"GET /tor/status-vote/current/consensus-microdesc/ABCDEF+012345.z HTTP/1.0\r\n"
        b"Host: 127.0.0.1\r\nAccept-Encoding: deflate, gzip, x-tor-lzma, x-zstd\r\n"
        b"If-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT\r\n\r\nrest"
    )
    parsed = parse_request(raw)
    assert parsed is not None
    request, length = parsed
    assert raw[length:] == b"rest"
    assert request.path == "/tor/status-vote/current/consensus-microdesc/ABCDEF+012345"
    assert request.deflated and request.encoding == "deflate"
    assert request.modified_since == NOW


def test_a_post_waits_for_its_body() -> None:
    raw = b"POST /tor/ HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello"
    assert all(parse_request(raw[:n]) is None for n in range(len(raw)))
    parsed = parse_request(raw)
    assert parsed is not None and parsed[0].body == b"hello" and parsed[1] == len(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"HELO\r\n\r\n",
        b"GET tor HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.0\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.0\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.0\r\nContent-Length: 99999999\r\n\r\n",
        b"GET /" + b"x" * 20_000,
    ],
)
def test_what_is_no_request(raw: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_request(raw)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=200))
def test_random_bytes(data: bytes) -> None:
    for raw in (data, b"GET /tor/ HTTP/1.0\r\n" + data + b"\r\n\r\n"):
        try:
            parse_request(raw)
        except ProtocolError:
            pass


@pytest.mark.parametrize("encoding", DECODERS)
def test_encodings(encoding: str) -> None:
    document = b"network-status-version 3\n" * 100
    request = DirRequest("GET", "/", {"accept-encoding": encoding})
    reply = EncodedBody(document).reply(request)
    assert reply.encoding == encoding and DECODERS[encoding](reply.body) == document


def test_a_made_reply_is_compressed_only_for_those_who_take_it() -> None:
    document = b"router\n" * 1000
    assert encoded_reply(DirRequest("GET", "/", {}), document).body == document
    reply = encoded_reply(DirRequest("GET", "/", {}, deflated=True), document)
    assert zlib.decompress(reply.body) == document


def test_reply_bytes() -> None:
    raw = DirReply(200, b"body", expires=60).encode(NOW, "10.0.0.1").decode()
    head, _, body = raw.partition("\r\n\r\n")
    assert body == "body"
    assert head.split("\r\n") == [
        "HTTP/1.0 200 OK",
        "Date: Tue, 14 Nov 2023 22:13:20 GMT",
        "X-Your-Address-Is: 10.0.0.1",
        "Content-Type: text/plain",
        "Content-Encoding: identity",
        "Content-Length: 4",
        "Expires: Tue, 14 Nov 2023 22:14:20 GMT",
    ]
