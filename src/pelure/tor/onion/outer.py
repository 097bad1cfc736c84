"""The outer wrapper of a descriptor: what an HSDir sees and checks (rend-spec-v3 2.4)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pelure.errors import DirectoryError, ProtocolError
from pelure.tor.cell.certs import CertType, Ed25519Cert
from pelure.tor.crypto.keys import Ed25519KeyPair, ed25519_verify
from pelure.tor.directory.tokenizer import (
    Section,
    decode_base64,
    decode_document,
    encode_base64,
    encode_object,
    parse_int,
    tokenize,
)

VERSION = 3
MAX_DESCRIPTOR_LEN = 50_000
LIFETIME_MINUTES = 180
LIFETIME_MINUTES_MIN = 30
LIFETIME_MINUTES_MAX = 720
SIGNATURE_PREFIX = b"Tor onion service descriptor sig v3"
REVISION_COUNTER_MAX = (1 << 64) - 1
_COUNTER = re.compile(r"[0-9]{1,20}")
_KEYWORDS = (
    "hs-descriptor",
    "descriptor-lifetime",
    "descriptor-signing-key-cert",
    "revision-counter",
    "superencrypted",
    "signature",
)


@dataclass(frozen=True)
class OuterDescriptor:
    """A descriptor whose certificate and signature were checked; the payload is still encrypted.

    ``blinded_key`` and ``signing_key`` are 32 bytes, ``lifetime`` is minutes.
    """

    blinded_key: bytes
    signing_key: bytes
    revision_counter: int
    lifetime: int
    superencrypted: bytes = field(repr=False)

    @classmethod
    def parse(cls, document: bytes, now: float, limit: int = MAX_DESCRIPTOR_LEN) -> OuterDescriptor:
        """Parse and verify a descriptor at ``now`` (seconds since the epoch).

        Raises :class:`DirectoryError` if it is malformed or longer than ``limit`` bytes, :class:`CryptoError`
        if a signature is wrong or its certificate has expired.
        """
        text = decode_document(document, limit)
        items = list(tokenize(text))
        section = Section(items, "an onion service descriptor")
        if tuple(item.keyword for item in items if item.keyword in _KEYWORDS) != _KEYWORDS:
            raise DirectoryError("an onion service descriptor's lines are missing, repeated or out of order")
        if items[0].keyword != "hs-descriptor" or items[-1].keyword != "signature":
            raise DirectoryError(
                "an onion service descriptor must begin with hs-descriptor and end with signature"
            )
        if parse_int(items[0].arg(0), 0, 0xFFFFFFFF) != VERSION:
            raise DirectoryError("an onion service descriptor of another version than 3")
        blinded_key, signing_key = _signing_key(
            section.one("descriptor-signing-key-cert").need_object("ED25519 CERT"), now
        )
        signature = section.one("signature")
        ed25519_verify(
            signing_key, decode_base64(signature.arg(0), 64), SIGNATURE_PREFIX + document[: signature.start]
        )
        return cls(
            blinded_key,
            signing_key,
            _counter(section.one("revision-counter").arg(0)),
            parse_int(section.one("descriptor-lifetime").arg(0), LIFETIME_MINUTES_MIN, LIFETIME_MINUTES_MAX),
            section.one("superencrypted").need_object("MESSAGE"),
        )


def _counter(text: str) -> int:
    if not _COUNTER.fullmatch(text) or int(text) > REVISION_COUNTER_MAX:
        raise DirectoryError("an onion service descriptor's revision counter is not a 64-bit number")
    return int(text)


def _signing_key(encoded: bytes, now: float) -> tuple[bytes, bytes]:
    """Return the blinded key and the descriptor signing key that the type 8 certificate binds."""
    try:
        cert = Ed25519Cert.decode(encoded)
    except ProtocolError as error:
        raise DirectoryError("an onion service descriptor's certificate is malformed") from error
    return cert.verify(cert_type=CertType.HS_BLINDED_V_SIGNING, now=now), cert.certified_key


def encode_outer(
    signing_cert: bytes,
    signing_pair: Ed25519KeyPair,
    revision_counter: int,
    superencrypted: bytes,
    lifetime: int = LIFETIME_MINUTES,
) -> bytes:
    """Return the signed descriptor around an encrypted first layer; ``signing_cert`` is of type 8."""
    signed = (
        f"hs-descriptor {VERSION}\n"
        f"descriptor-lifetime {lifetime}\n"
        f"descriptor-signing-key-cert\n{encode_object('ED25519 CERT', signing_cert)}"
        f"revision-counter {revision_counter}\n"
        f"superencrypted\n{encode_object('MESSAGE', superencrypted)}"
    ).encode("ascii")
    signature = signing_pair.sign(SIGNATURE_PREFIX + signed)
    return signed + f"signature {encode_base64(signature)}\n".encode("ascii")
