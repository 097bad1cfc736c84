"""Bodies of cells on a link; the hex is from Arti, crates/tor-cell/tests/testvec_chanmsg.rs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import ProtocolError
from pelure.tor.cell import messages as m
from pelure.tor.cell.commands import PAYLOAD_LEN

CREATE2 = (
    "09164430e84d3bc56ec7e1d22734742345e2dece0de535b66b8e8a0ebbdae3263c53e02ec2215685cd3a977d"
    "c7946ff47f84cd7025f75d252d1b35dea28f32fa912513889a207e5049992dbc9bc541194c13624a"
)
CHALLENGE = "00da5c085dee4f3656710da3b73652e48acd5bae608335fca3fb6c4dee104a51"
FAST = "0dc2a5eb921ef4b71f41184a99f4fad99620a648"

KNOWN: list[tuple[str, Any]] = [
    ("000300040005", m.Versions((3, 4, 5))),
    (CHALLENGE + "000200010003", m.AuthChallenge(bytes.fromhex(CHALLENGE), (1, 3))),
    ("0003 0004 41555448", m.Authenticate(3, b"AUTH")),
    ("02 04 0003 616263 07 0000", m.Certs(((4, b"abc"), (7, b"")))),
    ("00000000 04 04 7F000001 00", m.Netinfo(0, "127.0.0.1")),
    ("5F6F80E1 04 04 7F000001 01 04 04 7F000001", m.Netinfo(0x5F6F80E1, "127.0.0.1", ("127.0.0.1",))),
    (
        "5F6F859C 06 10 00000000000000000000000000000001 02"
        "04 04 7F000001 06 10 00000000000000000000000000000001",
        m.Netinfo(0x5F6F859C, "::1", ("127.0.0.1", "::1")),
    ),
    ("0002 0054" + CREATE2, m.Create2(2, bytes.fromhex(CREATE2))),
    ("0003 616263", m.Created2(b"abc")),
    (FAST, m.CreateFast(bytes.fromhex(FAST))),
    (FAST * 2, m.CreatedFast(bytes.fromhex(FAST), bytes.fromhex(FAST))),
    ("04", m.Destroy(4)),
    ("00 02 0100 0200", m.PaddingNegotiate(m.PaddingNegotiate.START, 256, 512)),
    ("00 01 0000 0000", m.PaddingNegotiate(m.PaddingNegotiate.STOP)),
]
KINDS = sorted({type(message) for _, message in KNOWN}, key=lambda kind: kind.__name__)
VARIABLE = (m.Versions, m.Certs, m.AuthChallenge, m.Authenticate)


@pytest.mark.parametrize(("text", "message"), KNOWN)
def test_known_bodies(text: str, message: Any) -> None:
    body = bytes.fromhex(text)
    assert message.encode() == body
    padded = body if isinstance(message, VARIABLE) else body.ljust(PAYLOAD_LEN, b"\0")
    assert type(message).decode(padded) == message
    assert message.cell(5).command == message.command and message.cell(5).circ_id == 5


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=600))
def test_any_bytes_decode_or_raise_protocol_errors(data: bytes) -> None:
    for kind in KINDS:
        try:
            message = kind.decode(data)
        except ProtocolError:
            continue
        if isinstance(message, m.Netinfo):  # addresses of unknown types are left out
            assert kind.decode(message.encode()).encode() == message.encode()
        else:
            assert data.startswith(message.encode())
            assert kind.decode(message.encode()) == message


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (m.Versions, "0003 00"),
        (m.Certs, "02 04 0000 04 0000"),
        (m.Certs, "01 04 0005 00"),
        (m.Netinfo, "00000000 04 06 7F0000010000 00"),
        (m.PaddingNegotiate, "01 02 0000 0000"),
        (m.PaddingNegotiate, "00 03 0000 0000"),
        (m.Create2, "0002 0054 00"),
    ],
)
def test_malformed_bodies(kind: Any, text: str) -> None:
    with pytest.raises(ProtocolError):
        kind.decode(bytes.fromhex(text))


def test_netinfo_leaves_out_addresses_of_unknown_types() -> None:
    body = bytes.fromhex("00000001 63 02 0000 02 63 01 00 04 04 7F000001")
    assert m.Netinfo.decode(body) == m.Netinfo(1, None, ("127.0.0.1",))


def test_certs_finds_by_type() -> None:
    certs = m.Certs(((4, b"abc"), (7, b"")))
    assert (certs.get(4), certs.get(5)) == (b"abc", None)
