"""The two signatures at the end of router and extra-info descriptors (dir-spec 2.1.1, 2.1.2).

First Ed25519 by the relay's signing key over a SHA-256, then RSA by its identity key over a SHA-1.
"""

from __future__ import annotations

import hashlib

from pelure.errors import CryptoError, DirectoryError, ProtocolError
from pelure.tor.cell.certs import CertType, Ed25519Cert
from pelure.tor.crypto.keys import Ed25519KeyPair, ed25519_verify
from pelure.tor.crypto.rsa import RsaKeyPair, RsaPublicKey
from pelure.tor.directory.tokenizer import Section, decode_base64, encode_base64, encode_object

ED_SIGNATURE_PREFIX = b"Tor router descriptor signature v1"
_ED_KEYWORD = b"router-sig-ed25519 "
_RSA_KEYWORD = b"router-signature\n"


def sign_descriptor(body: bytes, signing_key: Ed25519KeyPair, identity_key: RsaKeyPair) -> bytes:
    """``body`` (complete lines) with both signatures appended."""
    signed = body + _ED_KEYWORD
    ed_signature = signing_key.sign(hashlib.sha256(ED_SIGNATURE_PREFIX + signed).digest())
    signed += encode_base64(ed_signature).encode() + b"\n" + _RSA_KEYWORD
    rsa_signature = identity_key.sign(hashlib.sha1(signed).digest())
    return signed + encode_object("SIGNATURE", rsa_signature).encode()


def descriptor_digest(document: bytes) -> bytes:
    """The SHA-1 (20 bytes) that the RSA signature covers and by which a descriptor is named."""
    end = document.find(b"\n" + _RSA_KEYWORD)
    if end < 0:
        raise DirectoryError("the descriptor lacks its RSA signature")
    return hashlib.sha1(document[: end + 1 + len(_RSA_KEYWORD)]).digest()


def check_positions(section: Section) -> None:
    """Raise ``DirectoryError`` unless certificate and signatures stand where they must."""
    keywords = [item.keyword for item in section.items]
    if keywords[1:2] != ["identity-ed25519"]:
        raise DirectoryError(f"{section.name} lacks its Ed25519 certificate at the start")
    if keywords[-2:] != ["router-sig-ed25519", "router-signature"]:
        raise DirectoryError(f"{section.name} does not end with its signatures")


def check_ed25519(document: bytes, section: Section) -> Ed25519Cert:
    """Check the Ed25519 signature and the certificate of its key, but not their age; return the certificate.

    Raises ``DirectoryError``.
    """
    end = document.find(b"\n" + _ED_KEYWORD) + 1
    signed = document[: end + len(_ED_KEYWORD)]
    signature = decode_base64(section.one("router-sig-ed25519").arg(0), 64)
    try:
        cert = Ed25519Cert.decode(section.one("identity-ed25519").need_object("ED25519 CERT"))
        cert.verify(cert_type=CertType.IDENTITY_V_SIGNING)
        ed25519_verify(cert.certified_key, signature, hashlib.sha256(ED_SIGNATURE_PREFIX + signed).digest())
    except ProtocolError as error:
        raise DirectoryError(f"{section.name}'s Ed25519 signature does not verify: {error}") from error
    return cert


def check_rsa(document: bytes, section: Section, key: RsaPublicKey) -> bytes:
    """Check the RSA signature by ``key``; return the digest it covers. Raises ``DirectoryError``."""
    digest = descriptor_digest(document)
    try:
        key.verify(section.one("router-signature").need_object("SIGNATURE"), digest)
    except CryptoError as error:
        raise DirectoryError(f"{section.name}'s RSA signature does not verify") from error
    return digest
