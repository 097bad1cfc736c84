"""Certificates; the hex is from Arti, crates/tor-cert/tests (a CERTS cell of a chutney network)."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import CryptoError, ProtocolError
from pelure.tor.cell.certs import (
    CertType,
    Ed25519Cert,
    KeyType,
    RsaCrossCert,
    create_ntor_crosscert,
)
from pelure.tor.crypto.keys import (
    Ed25519KeyPair,
    ed25519_keypair_from_x25519,
    ed25519_public_from_x25519,
    x25519_generate,
)
from pelure.tor.crypto.rsa import RsaKeyPair, RsaPublicKey

NOW = 1601000000.0  # 2020-09-25T02:13:20Z
IDENTITY = bytes.fromhex("DCB604DB2034B00FD16986D4ADB9D16B21CB4E4457A33DEC0F538903683E96E9")
SIGNING = bytes.fromhex("F82294B866A31F01FC5D0DA8572850A9B929545C3266558D7D2316E3B74172B0")
TLS_DIGEST = bytes.fromhex("B4FD606B64E4CBD466B8D76CB131069BAE6F3AA1878857C9F624E31D77A799B8")
SIGNATURE = (
    "FF1A5203FA27F86EF7528D89A0845D2520166E340754FFEA2AAE0F612B7CE5DA"
    "094A0236CDAC45034B0B6842C18E7F6B51B93A3CF7E60663B8AD061C30A62602"
)
SIGNING_CERT = bytes.fromhex(
    "01 04 0006CC2A 01" + SIGNING.hex() + "01 0020 04 00" + IDENTITY.hex() + SIGNATURE
)
LINK_CERT = bytes.fromhex(
    "01 05 0006C98A 03" + TLS_DIGEST.hex() + "00"
    "7173E5F8068431D0D3F5EE16B4C9FFD59DF373E152A87281BAE744AA5FCF7217"
    "1BF4B27C4E8FC1C6A9FC5CA11058BC49647063D7903CFD9F512F89099B27BC0C"
)
RSA_KEY = bytes.fromhex(
    "30818902818100d38b1e6ceb946e0db0751f4cbace3dcb9688b6c25304227b4710c35afb73627e50500f5913e1"
    "58b621802612d1c75827003703338375237552eb3cd3c12f6ab3604e60c1a2d26bb1fbad206ff023969a90909d"
    "6a65a5458a5312c26ebd3a3dad30302d4515cdcd264146ac18e6fc60a04bd3ec327f04294d96ba5aa25b464c3f"
    "0203010001"
)
CROSS_CERT = bytes.fromhex(
    IDENTITY.hex() + "0006DA3A 80"
    "5CF6006F9179066534DE6B45AD47A5C469063EE462762723396DC9F25452A0A5"
    "2DA3F5087DD239F2A311F6B0D4DFEFF4ABD089DC3D0237A0ABAB19EB2045B91C"
    "DCAF04BE0A72D548A27BF2E77BD876ECFE5E1BE622350DA6BF31F6E306ED8964"
    "88DD5B39409B23FC3EB7B2C9F7328EB18DA36D54D80575899EA6507CCBFCDF1F"
)
RNG = random.Random(5).randbytes
KEY = Ed25519KeyPair.generate(RNG)


def test_a_signing_key_certificate() -> None:
    certificate = Ed25519Cert.decode(SIGNING_CERT)
    assert certificate.encode() == SIGNING_CERT
    assert (certificate.certified_key, certificate.key_type) == (SIGNING, KeyType.ED25519)
    assert certificate.expires == 1603735200  # 2020-10-26T18:00:00Z
    for signer in (None, IDENTITY):
        assert certificate.verify(signer, cert_type=CertType.IDENTITY_V_SIGNING, now=NOW) == IDENTITY


def test_a_link_certificate() -> None:
    certificate = Ed25519Cert.decode(LINK_CERT)
    assert (certificate.certified_key, certificate.key_type) == (TLS_DIGEST, KeyType.X509_SHA256)
    assert certificate.verify(SIGNING, cert_type=CertType.SIGNING_V_TLS_CERT, now=NOW) == SIGNING
    with pytest.raises(CryptoError):
        certificate.verify(None, cert_type=CertType.SIGNING_V_TLS_CERT)


def test_what_a_certificate_is_refused_for() -> None:
    certificate = Ed25519Cert.decode(SIGNING_CERT)
    kind = CertType.IDENTITY_V_SIGNING
    with pytest.raises(CryptoError, match="type"):
        certificate.verify(None, cert_type=CertType.SIGNING_V_TLS_CERT)
    with pytest.raises(CryptoError, match="expired"):
        certificate.verify(None, cert_type=kind, now=certificate.expires)
    with pytest.raises(CryptoError, match="another key"):
        certificate.verify(KEY.public, cert_type=kind)
    changed = SIGNING_CERT[:10] + bytes([SIGNING_CERT[10] ^ 1]) + SIGNING_CERT[11:]
    with pytest.raises(CryptoError, match="verify"):
        Ed25519Cert.decode(changed).verify(None, cert_type=kind)


def test_malformed_certificates() -> None:
    critical = SIGNING_CERT.replace(bytes.fromhex("01 0020 04 00"), bytes.fromhex("01 0020 09 01"))
    long_key = SIGNING_CERT.replace(bytes.fromhex("01 0020 04 00"), bytes.fromhex("01 0021 04 00"))
    for bad in (b"\3" + SIGNING_CERT[1:], critical, long_key, SIGNING_CERT + b"x", SIGNING_CERT[:-1], b""):
        with pytest.raises(ProtocolError):
            Ed25519Cert.decode(bad)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_the_key_that_a_certificate_carries_has_32_bytes(size: int) -> None:
    body = "01 04 0006CC2A 01" + SIGNING.hex() + f"01 {size:04X} 04 00" + "11" * size + SIGNATURE
    with pytest.raises(ProtocolError, match="not 32 bytes"):
        Ed25519Cert.decode(bytes.fromhex(body))


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=300), st.integers(0, 140))
def test_any_bytes_decode_or_raise_protocol_errors(data: bytes, kept: int) -> None:
    for candidate in (data, SIGNING_CERT[:kept] + data):
        for kind in (Ed25519Cert, RsaCrossCert):
            try:
                certificate = kind.decode(candidate)
            except ProtocolError:
                continue
            assert certificate.encode() == candidate


@settings(deadline=None, max_examples=30)
@given(st.sampled_from([4, 5, 6, 8, 9, 11, 12]), st.integers(0, 2**41), st.booleans())
def test_created_certificates_verify(kind: int, expires: int, include: bool) -> None:
    made = Ed25519Cert.create(kind, SIGNING, KEY, expires, include_signer=include)
    certificate = Ed25519Cert.decode(made.encode())
    assert certificate == made
    assert expires <= certificate.expires < expires + 3600
    assert certificate.verify(KEY.public, cert_type=kind) == KEY.public
    assert certificate.signing_key == (KEY.public if include else None)


def test_the_rsa_cross_certificate() -> None:
    key = RsaPublicKey.from_der(RSA_KEY)
    certificate = RsaCrossCert.decode(CROSS_CERT)
    assert certificate.encode() == CROSS_CERT
    assert certificate.ed25519_key == IDENTITY
    certificate.verify(key, NOW)
    with pytest.raises(CryptoError):
        certificate.verify(key, certificate.expires)
    other = RsaKeyPair.generate()
    with pytest.raises(CryptoError):
        certificate.verify(other.public, NOW)
    made = RsaCrossCert.create(KEY.public, other, NOW + 1)
    RsaCrossCert.decode(made.encode()).verify(other.public, NOW)
    with pytest.raises(ProtocolError):
        RsaCrossCert.decode(CROSS_CERT + b"x")


def test_the_ntor_key_certifies_the_identity() -> None:
    secret, public = x25519_generate(RNG)
    signer, sign_bit = ed25519_keypair_from_x25519(secret)
    made = create_ntor_crosscert(signer, KEY.public, NOW)
    certificate = Ed25519Cert.decode(made.encode())
    assert certificate.signing_key is None and certificate.certified_key == KEY.public
    ntor_as_ed25519 = ed25519_public_from_x25519(public, sign_bit)
    certificate.verify(ntor_as_ed25519, cert_type=CertType.NTOR_V_IDENTITY, now=NOW - 1)
