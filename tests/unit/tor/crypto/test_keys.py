"""X25519, Ed25519 and RSA keys, addresses, and what the handshakes refuse."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import ConfigError, CryptoError, ProtocolError
from pelure.tor.crypto import blinding, create_fast, hs_ntor, ntor, ntor_v3
from pelure.tor.crypto.address import decode_address, encode_address, is_onion
from pelure.tor.crypto.digests import sha1
from pelure.tor.crypto.keys import (
    Ed25519KeyPair,
    ed25519_is_valid_point,
    ed25519_public_from_x25519,
    ed25519_verify,
    scalar_multiply_point,
    x25519,
    x25519_generate,
)
from pelure.tor.crypto.rsa import RsaKeyPair, RsaPublicKey

RNG = random.Random(7).randbytes
SMALL_ORDER = bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")
KEY = Ed25519KeyPair.generate(RNG)
RSA = RsaKeyPair.generate()
SETTINGS = settings(deadline=None, max_examples=50)


def test_x25519_agrees_and_refuses_small_order() -> None:
    (a, a_public), (b, b_public) = x25519_generate(RNG), x25519_generate(RNG)
    assert x25519(a, b_public) == x25519(b, a_public)
    for bad in (SMALL_ORDER, bytes(32), b"\1" + bytes(31), b"short"):
        with pytest.raises(CryptoError):
            x25519(a, bad)


@SETTINGS
@given(st.binary(max_size=100), st.binary(max_size=100))
def test_ed25519_signatures(message: bytes, other: bytes) -> None:
    signature = KEY.sign(message)
    ed25519_verify(KEY.public, signature, message)
    if other != message:
        with pytest.raises(CryptoError):
            ed25519_verify(KEY.public, signature, other)


@SETTINGS
@given(st.binary(max_size=40), st.binary(max_size=70))
def test_ed25519_verify_raises_only_crypto_errors(public: bytes, signature: bytes) -> None:
    with pytest.raises(CryptoError):
        ed25519_verify(public, signature, b"message")


def test_ed25519_verify_takes_no_other_lengths() -> None:
    """libsodium is given signature and message as one, and reads 32 bytes of a key, however long it is."""
    key = next(
        key for seed in range(2**16) if (key := Ed25519KeyPair.from_seed(seed.to_bytes(32))).public[31] == 0
    )
    signature = key.sign(b"message")
    ed25519_verify(key.public, signature, b"message")
    for public, signed, message in (
        (key.public[:31], signature, b"message"),
        (key.public + b"\0", signature, b"message"),
        (key.public, signature + b"m", b"essage"),
        (key.public, signature[:63], signature[63:] + b"message"),
    ):
        with pytest.raises(CryptoError):
            ed25519_verify(public, signed, message)


def test_points_are_of_32_bytes() -> None:
    for bad in (KEY.public[:31], KEY.public + b"\0", b""):
        assert not ed25519_is_valid_point(bad)
        with pytest.raises(CryptoError):
            scalar_multiply_point(KEY.expanded[:32], bad)
        with pytest.raises(CryptoError):
            ed25519_public_from_x25519(bad, 0)


def test_ed25519_refuses_bad_key_material() -> None:
    for bad in (bytes(31), bytes(64)):
        with pytest.raises(CryptoError):
            Ed25519KeyPair.from_seed(bad)
    for bad in (KEY.expanded[:63], KEY.expanded + b"\0", bytes(64)):  # wrong lengths; the scalar zero
        with pytest.raises(CryptoError):
            Ed25519KeyPair.from_expanded(bad)
    with pytest.raises(CryptoError):
        ed25519_public_from_x25519((2**255 - 20).to_bytes(32, "little"), 0)


def test_secrets_stay_out_of_repr() -> None:
    assert KEY.expanded.hex() not in repr(KEY) and repr(KEY.expanded) not in repr(KEY)
    state, _ = ntor.client_start(bytes(20), x25519_generate(RNG)[1], RNG)
    assert repr(state.secret) not in repr(state)


def test_blinding_refuses_points_outside_the_subgroup() -> None:
    factor = blinding.blinding_factor(KEY.public, 17000, 1440)
    small = b"\1" + bytes(31)
    assert not ed25519_is_valid_point(small)
    for bad in (small, bytes(31), b"\xff" * 32):
        with pytest.raises(CryptoError):
            blinding.blind_public(bad, factor)


def test_blinded_keys_differ_by_period_and_secret() -> None:
    factors = {
        blinding.blinding_factor(KEY.public, *arguments)
        for arguments in ((1, 1440), (2, 1440), (1, 8), (1, 1440, b"secret"))
    }
    assert len(factors) == 4
    blinded = blinding.blind_keypair(KEY, blinding.blinding_factor(KEY.public, 1, 1440))
    again = blinding.blind_public(KEY.public, blinding.blinding_factor(KEY.public, 1, 1440))
    assert blinded.public == again
    assert len(blinding.subcredential(KEY.public, blinded.public)) == 32


def test_rsa_signs_the_raw_digest() -> None:
    digest = sha1(b"document")
    signature = RSA.sign(digest)
    assert RSA.public.recover(signature) == digest
    RSA.public.verify(signature, digest)
    for bad_signature, bad_digest in ((signature, sha1(b"other")), (b"short", digest), (bytes(128), digest)):
        with pytest.raises(CryptoError):
            RSA.public.verify(bad_signature, bad_digest)


def test_rsa_encodings() -> None:
    assert RsaPublicKey.from_der(RSA.public.der) == RSA.public
    assert RsaPublicKey.from_pem(RSA.public.to_pem()).identity == RSA.public.identity == sha1(RSA.public.der)
    again = RsaKeyPair.from_pem(RSA.to_pem())
    assert again.public == RSA.public
    assert RSA.to_pem().startswith(b"-----BEGIN RSA PRIVATE KEY-----")
    assert (RSA.public.bits, RSA.public.exponent) == (1024, 65537)
    with pytest.raises(CryptoError):
        RsaKeyPair.from_pem(RSA.public.to_pem())


@SETTINGS
@given(st.binary(max_size=200))
def test_rsa_parsers_raise_only_crypto_errors(data: bytes) -> None:
    for parse in (RsaPublicKey.from_der, RsaPublicKey.from_pem, RsaKeyPair.from_pem):
        with pytest.raises(CryptoError):
            parse(data)


@SETTINGS
@given(st.binary(min_size=32, max_size=32))
def test_addresses_round_trip(seed: bytes) -> None:
    public = Ed25519KeyPair.from_seed(seed).public
    address = encode_address(public)
    assert len(address) == 62
    assert decode_address(address) == decode_address(f"WWW.{address.upper()}.") == public


@SETTINGS
@given(st.one_of(st.text(max_size=80), st.text(alphabet="abcdefghij234567", min_size=56, max_size=56)))
def test_other_addresses_raise_config_errors(text: str) -> None:
    for host in (text, text + ".onion"):
        with pytest.raises(ConfigError):
            decode_address(host)


def test_addresses_say_what_is_wrong() -> None:
    address = encode_address(KEY.public)
    swapped = ("b" if address[0] == "a" else "a") + address[1:]
    for host, hint in (
        (swapped, "checksum"),
        ("a" * 16 + ".onion", "version 2"),
        (address[1:], "55"),
        ("example.org", "ends in .onion"),
        (encode_address(b"\1" + bytes(31)), "no usable key"),
        ("0" * 56 + ".onion", "letters"),
        (address[:55] + "e.onion", "version 4"),
    ):
        with pytest.raises(ConfigError, match=hint):
            decode_address(host)
    assert is_onion(address) and is_onion("x.onion.") and not is_onion("example.org")


def test_create_fast() -> None:
    x, y = RNG(20), RNG(20)
    kh, keys = create_fast.server(x, y, 72)
    assert create_fast.client_finish(x, y, kh, 72) == keys
    with pytest.raises(CryptoError):
        create_fast.client_finish(x, y, bytes(20), 72)


def _flip(data: bytes, index: int) -> bytes:
    changed = bytearray(data)
    changed[index % len(data)] ^= 0x41
    return bytes(changed)


@SETTINGS
@given(st.integers(0, 1000), st.binary(max_size=90))
def test_ntor_refuses_any_change(index: int, garbage: bytes) -> None:
    secret, public = x25519_generate(RNG)
    state, handshake = ntor.client_start(bytes(20), public, RNG)
    reply, _ = ntor.server(handshake, bytes(20), {public: secret}, RNG)
    for bad_reply in (_flip(reply, index), garbage):
        # The top bit of an X25519 key is ignored on the curve, but it is hashed.
        with pytest.raises(CryptoError):
            ntor.client_finish(state, bad_reply)
    for bad in (_flip(handshake[:52], index) + handshake[52:], garbage):
        with pytest.raises(CryptoError):
            ntor.server(bad, bytes(20), {public: secret}, RNG)


@SETTINGS
@given(st.integers(0, 1000), st.binary(max_size=200))
def test_ntor_v3_refuses_any_change(index: int, garbage: bytes) -> None:
    secret, public = x25519_generate(RNG)
    state, handshake = ntor_v3.client_start(bytes(32), public, b"message", RNG)
    reply, _ = ntor_v3.server(handshake, bytes(32), {public: secret}, lambda _: b"answer", RNG)
    for bad_reply in (_flip(reply, index), garbage):
        with pytest.raises(CryptoError):
            ntor_v3.client_finish(state, bad_reply)
    for bad in (_flip(handshake, index), garbage):
        with pytest.raises(CryptoError):
            ntor_v3.server(bad, bytes(32), {public: secret}, lambda _: b"", RNG)


def test_ntor_v3_server_can_refuse_the_message() -> None:
    secret, public = x25519_generate(RNG)
    _, handshake = ntor_v3.client_start(bytes(32), public, b"message", RNG)

    def refuse(_: bytes) -> bytes:
        raise ProtocolError("no")

    with pytest.raises(ProtocolError):
        ntor_v3.server(handshake, bytes(32), {public: secret}, refuse, RNG)


@SETTINGS
@given(st.integers(0, 1000), st.binary(max_size=150))
def test_hs_ntor_refuses_any_change(index: int, garbage: bytes) -> None:
    secret, public = x25519_generate(RNG)
    auth, subcredential, header = RNG(32), RNG(32), b"header"
    state, sealed = hs_ntor.client_introduce(auth, public, subcredential, header, b"payload", RNG)
    for bad in (_flip(sealed, index), garbage):
        with pytest.raises(CryptoError):
            hs_ntor.service_open(secret, public, auth, [subcredential], header, bad)
    with pytest.raises(CryptoError):
        hs_ntor.service_open(secret, public, auth, [bytes(32)], header, sealed)
    _, _, service = hs_ntor.service_open(secret, public, auth, [subcredential], header, sealed)
    info, _ = hs_ntor.service_rendezvous(service, RNG)
    for bad in (_flip(info, index), garbage[:63]):
        with pytest.raises(CryptoError):
            hs_ntor.client_rendezvous(state, bad)
