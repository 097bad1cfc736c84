"""Introduction and rendezvous handshake between the two ends (rend-spec-v3 3.2, 3.3, 4.2)."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import CryptoError, ProtocolError
from pelure.tor.cell.onion_messages import Introduce2, IntroduceAck
from pelure.tor.crypto import hs_ntor
from pelure.tor.directory.relay import Relay
from pelure.tor.onion.introduction import Introduction, IntroKeys, introduce
from pelure.tor.onion.pow import ProofOfWork
from pelure.tor.onion.second_layer import IntroPoint

RENDEZVOUS = Relay("rendezvous", b"r" * 20, b"e" * 32, b"n" * 32, (("127.0.0.1", 9001), ("::1", 9002)))
COOKIE = b"c" * 20
SUBCREDENTIAL = b"s" * 32
KEYS = IntroKeys.generate(os.urandom)
POINT = IntroPoint(tuple(RENDEZVOUS.link_specifiers()), b"o" * 32, KEYS.auth.public, KEYS.enc_public)


def sealed(*, congestion_control: bool = True) -> tuple[hs_ntor.ClientState, bytes]:
    return introduce(
        POINT, SUBCREDENTIAL, RENDEZVOUS, COOKIE, os.urandom, congestion_control=congestion_control
    )


@pytest.mark.parametrize("congestion_control", [True, False])
def test_both_ends_agree(congestion_control: bool) -> None:
    state, body = sealed(congestion_control=congestion_control)
    assert 246 <= len(body) <= 498
    opened = Introduction.open(Introduce2.decode(body), KEYS, [b"other" * 6 + b"xx", SUBCREDENTIAL])
    assert opened.cookie == COOKIE
    assert opened.rendezvous_point == RENDEZVOUS
    assert opened.rendezvous_point.addresses == RENDEZVOUS.addresses
    assert opened.rendezvous_point.ntor_key == RENDEZVOUS.ntor_key
    assert opened.congestion_control is congestion_control
    info, service_keys = opened.answer(os.urandom)
    assert hs_ntor.client_rendezvous(state, info) == service_keys
    assert len(service_keys) == 128


def test_a_proof_of_work_goes_along_unread() -> None:
    """Whoever asked for none takes no notice of it, whatever it is."""
    proof = ProofOfWork(b"n" * 16, 7, b"seed", b"s" * 16)
    _, body = introduce(
        POINT, SUBCREDENTIAL, RENDEZVOUS, COOKIE, os.urandom, congestion_control=True, proof=proof
    )
    assert len(body) <= 498
    opened = Introduction.open(Introduce2.decode(body), KEYS, [b"o" * 32, SUBCREDENTIAL])
    assert opened.proof_of_work is not None
    assert ProofOfWork.decode(opened.proof_of_work) == proof
    assert opened.congestion_control
    assert opened.subcredential == SUBCREDENTIAL
    assert Introduction.open(Introduce2.decode(sealed()[1]), KEYS, [SUBCREDENTIAL]).proof_of_work is None


def test_a_wrong_service_answer_is_noticed() -> None:
    state, body = sealed()
    info, _ = Introduction.open(Introduce2.decode(body), KEYS, [SUBCREDENTIAL]).answer(os.urandom)
    with pytest.raises(CryptoError):
        hs_ntor.client_rendezvous(state, info[:-1] + bytes([info[-1] ^ 1]))


def test_other_keys_do_not_open_it() -> None:
    message = Introduce2.decode(sealed()[1])
    with pytest.raises(CryptoError):
        Introduction.open(message, KEYS, [b"x" * 32])
    with pytest.raises(CryptoError):
        Introduction.open(message, KEYS, [])
    with pytest.raises(ProtocolError):
        Introduction.open(message, IntroKeys.generate(os.urandom), [SUBCREDENTIAL])
    with pytest.raises(CryptoError):
        Introduction.open(message, replace(IntroKeys.generate(os.urandom), auth=KEYS.auth), [SUBCREDENTIAL])


def test_it_is_for_one_introduction_point() -> None:
    message = replace(Introduce2.decode(sealed()[1]), auth_key=bytes(32))
    with pytest.raises(ProtocolError, match="another introduction point"):
        Introduction.open(message, KEYS, [SUBCREDENTIAL])


def test_a_rendezvous_point_without_ntor_key_is_refused() -> None:
    relay = replace(RENDEZVOUS, ntor_key=None)
    with pytest.raises(ProtocolError):
        introduce(POINT, SUBCREDENTIAL, relay, COOKIE, os.urandom, congestion_control=False)


@settings(deadline=None, max_examples=100)
@given(position=st.integers(0, 600), byte=st.integers(0, 255))
def test_any_changed_byte_is_refused(position: int, byte: int) -> None:
    body = bytearray(BODY)
    position %= len(body)
    if body[position] == byte:
        return
    body[position] = byte
    with pytest.raises(ProtocolError):
        Introduction.open(Introduce2.decode(bytes(body)), KEYS, [SUBCREDENTIAL])


BODY = sealed()[1]


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=498))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Introduction.open(Introduce2.decode(data), KEYS, [SUBCREDENTIAL])


def test_secrets_stay_out_of_representations() -> None:
    opened = Introduction.open(Introduce2.decode(BODY), KEYS, [SUBCREDENTIAL])
    assert repr(COOKIE) not in repr(opened)
    assert repr(KEYS.enc_secret) not in repr(KEYS)
    assert IntroduceAck.decode(IntroduceAck(1).encode()).status == 1
