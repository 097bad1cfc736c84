"""Relay messages of the rendezvous (rend-spec-v3 3 and 4)."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import CryptoError, ProtocolError
from pelure.tor.cell import onion_messages as o
from pelure.tor.cell.extensions import Extension
from pelure.tor.cell.linkspec import LinkSpecifier
from pelure.tor.crypto.keys import Ed25519KeyPair

RNG = random.Random(11).randbytes
KEY = Ed25519KeyPair.generate(RNG)
EXTENSIONS = (Extension(1), Extension(200, b"abc"))
VECTOR = json.loads((Path(__file__).parents[3] / "vectors" / "crypto" / "hs_ntor.json").read_text())

MESSAGES: list[Any] = [
    o.EstablishIntro.create(KEY, RNG(20), EXTENSIONS),
    o.IntroEstablished(EXTENSIONS),
    o.Introduce1(KEY.public, EXTENSIONS, b"sealed"),
    o.Introduce2(KEY.public, (), b"x"),
    o.IntroduceAck(o.IntroduceStatus.CANNOT_RELAY, EXTENSIONS),
    o.EstablishRendezvous(RNG(20)),
    o.RendezvousEstablished(),
    o.Rendezvous1(RNG(20), RNG(64)),
    o.Rendezvous2(RNG(64)),
    o.IntroducePayload(RNG(20), EXTENSIONS, RNG(32), (LinkSpecifier.rsa(RNG(20)),)),
]


@pytest.mark.parametrize("message", MESSAGES)
def test_round_trip(message: Any) -> None:
    decoded = type(message).decode(message.encode())
    assert decoded == message and type(decoded) is type(message)


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(MESSAGES), st.integers(0, 500), st.binary(max_size=200))
def test_any_bytes_decode_or_raise_protocol_errors(message: Any, cut: int, tail: bytes) -> None:
    data = message.encode()[:cut] + tail
    for kind in {type(each) for each in MESSAGES}:
        try:
            decoded = kind.decode(data)
        except ProtocolError:
            continue
        assert kind.decode(decoded.encode()) == decoded


def test_an_introduction_has_something_for_the_service() -> None:
    for kind in (o.Introduce1, o.Introduce2):
        with pytest.raises(ProtocolError, match="says nothing"):
            kind.decode(kind(KEY.public, EXTENSIONS, b"").encode())


def test_establish_intro_is_bound_to_its_circuit() -> None:
    message = o.EstablishIntro.decode(o.EstablishIntro.create(KEY, b"k" * 20, EXTENSIONS).encode())
    message.verify(b"k" * 20)
    with pytest.raises(CryptoError):
        message.verify(b"x" * 20)
    other = o.EstablishIntro(message.auth_key, message.extensions, message.handshake_auth, bytes(64))
    with pytest.raises(CryptoError):
        other.verify(b"k" * 20)


def test_the_published_introduction() -> None:
    body = bytes.fromhex(VECTOR["introduce1_body"])
    introduce = o.Introduce2.decode(body)
    assert introduce.auth_key.hex() == VECTOR["kp_hs_ipd_sid"]
    assert introduce.header.hex() == VECTOR["h"]
    assert introduce.encode() == body

    plaintext = bytes.fromhex(VECTOR["p"])
    payload = o.IntroducePayload.decode(plaintext)
    assert payload.cookie.hex() == "6bd364c12638dd5c3be23d76aca05b04e6ce932c"
    assert payload.onion_key.hex() == "0de6130e4fcac4edda24e21220cc3eadae403ef6b7d11c8273ac71908de56545"
    assert payload.specifiers[0] == LinkSpecifier.address("127.0.0.1", 5001)
    assert [s.type for s in payload.specifiers] == [0, 2, 3]
    assert payload.encode(len(plaintext)).startswith(plaintext[:100])


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (o.EstablishIntro, b"\1" + MESSAGES[0].encode()[1:]),
        (o.EstablishIntro, b"\2\0\5abcde\0" + bytes(34)),
        (o.Introduce2, b"\1" + MESSAGES[2].encode()[1:]),
        (o.IntroducePayload, bytes(20) + b"\0\1\0\5abcde\0"),
        (o.IntroducePayload, bytes(20) + b"\0\2\0\x20" + bytes(32) + b"\0"),
        (o.EstablishRendezvous, bytes(19)),
    ],
)
def test_malformed_messages(kind: Any, data: bytes) -> None:
    with pytest.raises(ProtocolError):
        kind.decode(data)


def test_what_old_relays_leave_out() -> None:
    assert o.IntroEstablished.decode(b"") == o.IntroEstablished()
    assert o.IntroduceAck.decode(b"\0\0") == o.IntroduceAck(0)
    assert o.EstablishRendezvous.decode(bytes(30)) == o.EstablishRendezvous(bytes(20))


@pytest.mark.parametrize("message", [one for one in MESSAGES if hasattr(one, "cookie")])
def test_who_reads_a_log_can_not_meet_the_client(message: Any) -> None:
    assert repr(message.cookie) not in repr(message)
