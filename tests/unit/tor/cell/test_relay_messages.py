"""Relay messages; the hex is from Arti, crates/tor-cell/tests/testvec_relaymsg.rs."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import ProtocolError
from pelure.tor.cell import relay_messages as r
from pelure.tor.cell.commands import DestroyReason, EndReason, RelayCommand, end_words, reason_name
from pelure.tor.cell.linkspec import LinkSpecifier
from pelure.tor.cell.relay_header import decode_relay_body, encode_relay_body

RSA_ID = "03479E93EBF3FF2C58C1C9DBF2DE9DE9C2801B3E"
TAG = "F01234989823478bcdefabcdef01234567890123"
HOST = b"www.torproject.org"

KNOWN: list[tuple[str, Any]] = [
    ("3132372E302E302E313A3730303300", r.Begin("127.0.0.1", 7003)),
    ("7777772e786b63642e636f6d3a34343300 00000003", r.Begin("www.xkcd.com", 443, 3)),
    ("5b323030313a6462383a3a315d3a323200", r.Begin("2001:db8::1", 22)),
    ("3a383000", r.Begin("", 80)),  # towards an onion service
    ("", r.Connected()),
    ("7F000001 00000E10", r.Connected("127.0.0.1", 0xE10)),
    ("00000000 06 20010db8 00000000 00000000 00001122 00000E10", r.Connected("2001:db8::1122", 0xE10)),
    ("01", r.End(EndReason.MISC)),
    ("06", r.End(EndReason.DONE)),
    ("04 7f000007 00000100", r.End(EndReason.EXITPOLICY, "127.0.0.7", 256)),
    ("04 20010db8 00000000 00000000 0000f00b 00000200", r.End(4, "2001:db8::f00b", 512)),
    (
        f"02 00 06 7F0000011388 02 14 {RSA_ID} 0002 0003 616263",
        r.Extend2(
            (LinkSpecifier.address("127.0.0.1", 5000), LinkSpecifier.rsa(bytes.fromhex(RSA_ID))), 2, b"abc"
        ),
    ),
    ("0003 616263", r.Extended2(b"abc")),
    ("08", r.Truncated(DestroyReason.CHANNEL_CLOSED)),
    (HOST.hex() + "00", r.Resolve(HOST.decode())),
    ("", r.Resolved(())),
    ("F0 00 00000E10", r.Resolved((r.Answer(r.Answer.ERROR_TRANSIENT, b"", 3600),))),
    (
        "04 04 7f000001 00000E10 04 04 7f000002 00001c20",
        r.Resolved((r.Answer.address("127.0.0.1", 3600), r.Answer.address("127.0.0.2", 7200))),
    ),
    (
        "06 10 12340000000000000000000000005678 00000080",
        r.Resolved((r.Answer.address("1234::5678", 128),)),
    ),
    ("00 12" + HOST.hex() + "00000258", r.Resolved((r.Answer(r.Answer.HOSTNAME, HOST, 600),))),
    ("63 12" + HOST.hex() + "00000258", r.Resolved((r.Answer(99, HOST, 600),))),
    ("", r.Sendme()),
    ("01 0014" + TAG, r.Sendme(bytes.fromhex(TAG))),
    ("00 00000400", r.Xon(1024)),
    ("00", r.Xoff()),
]
KINDS = sorted({type(message) for _, message in KNOWN}, key=lambda kind: kind.__name__)


@pytest.mark.parametrize(("text", "message"), KNOWN)
def test_known_messages(text: str, message: Any) -> None:
    data = bytes.fromhex(text)
    assert message.encode() == data
    assert type(message).decode(data) == message


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=498))
def test_any_bytes_decode_or_raise_protocol_errors(data: bytes) -> None:
    for kind in KINDS:
        try:
            message = kind.decode(data)
        except ProtocolError:
            continue
        assert kind.decode(message.encode()) == message


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=60), st.integers(-1, 70000))
def test_begin_takes_only_sane_targets(host: str, port: int) -> None:
    data = f"{host}:{port}".encode() + b"\0"
    try:
        begin = r.Begin.decode(data)
    except ProtocolError:
        return
    assert 1 <= begin.port <= 65535 and begin.host.isascii() and "\n" not in begin.host


@pytest.mark.parametrize(
    "data",
    [
        b"host:80",
        b"host\0",
        b"host:0\0",
        b"host:65536\0",
        b"host:+80\0",
        "torproject™.org:443\0".encode(),
        b"[::]!\0",
        b"[host]:80\0",
        b"[fe80::1%a\n]:80\0",
        b"[::1:80\0",
        b"a:b:80\0",
        b"a\nb:80\0",
        b"x" * 254 + b":80\0",
    ],
)
def test_malformed_begin(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        r.Begin.decode(data)


def test_host_names_come_back_in_lower_case() -> None:
    assert r.Begin.decode(b"Example.ORG:80\0").host == "example.org"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (r.Connected, "00000000 07 20010db8000000000000000000001122 00000E10"),
        (r.Connected, "7F"),
        (r.Resolved, "04 03 010203 00000001"),
        (r.Resolved, "04 04 7f000001"),
        (r.Sendme, "02"),
        (r.Sendme, "01 0014 00"),
        (r.Xon, "01 00000000"),
        (r.Xoff, "01"),
        (r.Extend2, "01 00 05 7F00000113 0002 0000"),
        (r.Resolve, "00"),
        (r.Resolve, "61"),
        (r.Resolve, "610a00"),
        (r.Resolve, "e900"),
    ],
)
def test_malformed_messages(kind: Any, text: str) -> None:
    with pytest.raises(ProtocolError):
        kind.decode(bytes.fromhex(text))


def test_a_connected_without_an_address() -> None:
    assert r.Connected.decode(bytes(4)) == r.Connected()
    assert r.Connected.decode(bytes([127, 0, 0, 1])) == r.Connected("127.0.0.1")


def test_an_empty_end_means_misc() -> None:
    assert r.End.decode(b"") == r.End(EndReason.MISC)
    assert r.End.decode(b"\4\x7f\0\0\7") == r.End(EndReason.EXITPOLICY)  # no time to live


def test_answers_as_text() -> None:
    assert r.Answer.address("::1", 1).text == "::1"
    assert r.Answer(r.Answer.HOSTNAME, HOST, 1).text == HOST.decode()
    error = r.Answer(r.Answer.ERROR_PERMANENT, b"whatever")
    assert (error.text, error.is_error) == (None, True)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 255), st.integers(0, 65535), st.binary(max_size=498))
def test_relay_bodies_round_trip(command: int, stream_id: int, data: bytes) -> None:
    body = encode_relay_body(command, stream_id, data, random.Random(1).randbytes)
    assert len(body) == 509 and body[1:3] == bytes(2) and body[5:9] == bytes(4)
    assert body[11 + len(data) :][:4] == bytes(min(4, 498 - len(data)))
    message = decode_relay_body(body)
    assert (message.command, message.stream_id, message.data) == (command, stream_id, data)


def test_relay_bodies_that_do_not_fit() -> None:
    with pytest.raises(ProtocolError):
        encode_relay_body(RelayCommand.DATA, 1, bytes(499), random.Random(1).randbytes)
    for bad in (bytes(508), bytes(9) + b"\x01\xf3" + bytes(498)):
        with pytest.raises(ProtocolError):
            decode_relay_body(bad)


def test_reason_names() -> None:
    assert reason_name(EndReason, 3) == "connectrefused"
    assert [end_words(reason) for reason in (3, 13, 99)] == ["connection refused", "torprotocol", "reason 99"]
    assert reason_name(DestroyReason, 200) == "reason 200"
