"""SOCKS5 and HTTP CONNECT requests (RFC 1928, 1929, socks-extensions, proposal 304)."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import OnionServiceError, PathError, StreamError
from pelure.tor.cell.commands import EndReason
from pelure.tor.client.socks import Command, ProxyError, ProxyParser, Reply, Request, reply_code

GREETING = b"\5\1\0"
AUTH_GREETING = b"\5\2\0\2"
ONION = b"a" * 56 + b".onion"


def connect(host: bytes, port: int = 80, command: int = 1) -> bytes:
    return bytes([5, command, 0, 3, len(host)]) + host + port.to_bytes(2, "big")


def test_a_host_name() -> None:
    parser = ProxyParser()
    assert parser.feed(GREETING) == b"\5\0"
    assert parser.feed(connect(ONION.upper())) == b""
    assert parser.request == Request(Command.CONNECT, ONION.decode(), 80)
    assert parser.request.accept() == b"\5\0\0\1" + bytes(6)
    assert parser.request.refuse(0xF2) == b"\5\xf2\0\1" + bytes(6)


def test_credentials_isolate_and_stay_secret() -> None:
    parser = ProxyParser()
    assert parser.feed(AUTH_GREETING) == b"\5\2"
    assert parser.feed(b"\1\5alice\6secret") == b"\1\0"
    parser.feed(connect(b"example.org"))
    assert parser.request is not None
    assert parser.request.credentials == (b"alice", b"secret")
    assert "secret" not in repr(parser.request)


def test_everything_pipelined_in_one_write_byte_by_byte_or_whole() -> None:
    stream = AUTH_GREETING + b"\1\1u\0" + connect(b"example.org", 443) + b"GET / first bytes"
    expected = Request(Command.CONNECT, "example.org", 443, (b"u", b""))
    whole = ProxyParser()
    assert whole.feed(stream) == b"\5\2\1\0"
    assert (whole.request, whole.take_rest()) == (expected, b"GET / first bytes")
    slow = ProxyParser()
    answers = b"".join(slow.feed(stream[i : i + 1]) for i in range(len(stream)))
    assert answers == b"\5\2\1\0"
    assert (slow.request, slow.take_rest()) == (expected, b"GET / first bytes")


def test_addresses() -> None:
    for kind, raw, host in (
        (1, bytes([10, 0, 0, 1]), "10.0.0.1"),
        (4, bytes(15) + b"\1", "::1"),
        (3, b"\x09127.0.0.1", "127.0.0.1"),
        (3, b"\x05[::1]", "::1"),
    ):
        parser = ProxyParser()
        parser.feed(GREETING + bytes([5, 1, 0, kind]) + raw + b"\0\x50")
        assert parser.request is not None and parser.request.host == host


def test_resolve_and_its_answers() -> None:
    parser = ProxyParser()
    parser.feed(GREETING + connect(b"example.org", 0, 0xF0))
    assert parser.request is not None and parser.request.command is Command.RESOLVE
    assert parser.request.accept("192.0.2.7") == b"\5\0\0\1\xc0\0\2\7\0\0"
    assert parser.request.accept("2001:db8::1")[:4] == b"\5\0\0\4"
    parser = ProxyParser()
    parser.feed(GREETING + bytes([5, 0xF1, 0, 1, 192, 0, 2, 7, 0, 0]))
    assert parser.request is not None and parser.request.command is Command.RESOLVE_PTR
    assert parser.request.accept("host.example") == b"\5\0\0\3\x0chost.example\0\0"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (connect(b"h", 80, 2), Reply.COMMAND_NOT_SUPPORTED),
        (connect(b"h", 80, 3), Reply.COMMAND_NOT_SUPPORTED),
        (connect(b"h", 0), Reply.GENERAL_FAILURE),
        (connect(b""), Reply.GENERAL_FAILURE),
        (connect(b"a b"), Reply.GENERAL_FAILURE),
        (connect(b"a\nb"), Reply.GENERAL_FAILURE),
        (connect("é".encode()), Reply.GENERAL_FAILURE),
        (connect(b"example.org", 0, 0xF1), Reply.ADDRESS_NOT_SUPPORTED),
        (b"\5\1\0\2" + bytes(6), Reply.ADDRESS_NOT_SUPPORTED),
        (b"\4\1\0\3" + bytes(6), Reply.GENERAL_FAILURE),
    ],
)
def test_refused_requests(data: bytes, code: int) -> None:
    with pytest.raises(ProxyError) as caught:
        ProxyParser().feed(GREETING + data)
    assert caught.value.answer == b"\5\0" + b"\5" + bytes([code]) + b"\0\1" + bytes(6)


def test_refused_greetings() -> None:
    with pytest.raises(ProxyError) as caught:
        ProxyParser().feed(b"\5\1\1")
    assert caught.value.answer == b"\5\xff"
    with pytest.raises(ProxyError) as caught:
        ProxyParser().feed(AUTH_GREETING + b"\2\1u\1p")
    assert caught.value.answer == b"\5\2\1\1"
    with pytest.raises(ProxyError, match="SOCKS5") as caught:
        ProxyParser().feed(b"\4\1\0\x50\1\2\3\4\0")
    assert caught.value.answer == b"\0\x5b" + bytes(6), "rejected, as SOCKS4 says it"


def test_http_connect() -> None:
    token = base64.b64encode(b"alice:secret")
    head = b"CONNECT Example.org:443 HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic " + token
    parser = ProxyParser()
    assert parser.feed(head[:20]) == b""
    assert parser.request is None
    parser.feed(head[20:] + b"\r\n\r\nhello")
    request = Request(Command.CONNECT, "example.org", 443, (b"alice", b"secret"), http=True)
    assert parser.request == request
    assert parser.take_rest() == b"hello"
    assert request.accept().startswith(b"HTTP/1.1 200 ")
    assert request.refuse(Reply.NOT_ALLOWED).startswith(b"HTTP/1.1 403 ")
    assert request.refuse(0xF0).startswith(b"HTTP/1.1 503 ")
    assert request.refuse(1).startswith(b"HTTP/1.1 502 ")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"405"),
        (b"CONNECT x HTTP/1.1\r\n\r\n", b"400"),
        (b"CONNECT x:0 HTTP/1.1\r\n\r\n", b"400"),
        (b"CONNECT a/b:80 HTTP/1.1\r\n\r\n", b"400"),
        (b"CONNECT x:80\r\n\r\n", b"400"),
        (b"C" * 9000, b"431"),
    ],
)
def test_refused_http(head: bytes, status: bytes) -> None:
    with pytest.raises(ProxyError) as caught:
        ProxyParser().feed(head)
    assert caught.value.answer.startswith(b"HTTP/1.1 " + status)


@settings(deadline=None, max_examples=100)
@given(st.sampled_from([b"", GREETING, AUTH_GREETING, b"CONNECT "]), st.lists(st.binary(max_size=60)))
def test_any_bytes_are_served_or_refused(start: bytes, chunks: list[bytes]) -> None:
    parser = ProxyParser()
    try:
        for chunk in [start, *chunks]:
            parser.feed(chunk)
    except ProxyError:
        return
    assert parser.request is None or parser.request.host


def test_codes_of_errors() -> None:
    assert reply_code(OnionServiceError("gone", 0xF0)) == 0xF0
    assert reply_code(StreamError("refused", EndReason.CONNECTREFUSED)) == Reply.CONNECTION_REFUSED
    assert reply_code(StreamError("no such port", EndReason.DONE)) == Reply.CONNECTION_REFUSED
    assert reply_code(StreamError("odd", 77)) == Reply.GENERAL_FAILURE
    assert reply_code(PathError("none")) == Reply.NETWORK_UNREACHABLE
    assert reply_code(TimeoutError()) == Reply.TTL_EXPIRED
    assert reply_code(ValueError()) == Reply.GENERAL_FAILURE
