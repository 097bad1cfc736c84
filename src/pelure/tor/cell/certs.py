"""Certificates (cert-spec): Tor's own Ed25519 format, and the RSA-to-Ed25519 cross-certificate.

Times are seconds since the epoch; the formats hold whole hours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from pelure.errors import CryptoError, ProtocolError
from pelure.tor.cell.codec import Reader, vector
from pelure.tor.crypto.digests import sha256
from pelure.tor.crypto.keys import Ed25519KeyPair, ed25519_verify
from pelure.tor.crypto.rsa import RsaKeyPair, RsaPublicKey

HOUR = 3600


class CertType(IntEnum):
    """Types of certificates: 1 to 3 and 7 occur in CERTS only (cert-spec A.1, tor-spec 4.2)."""

    TLS_LINK_X509 = 1
    RSA_ID_X509 = 2
    RSA_AUTH_X509 = 3
    IDENTITY_V_SIGNING = 4
    SIGNING_V_TLS_CERT = 5
    SIGNING_V_LINK_AUTH = 6
    RSA_ID_V_IDENTITY = 7
    HS_BLINDED_V_SIGNING = 8
    HS_INTRO_AUTH = 9
    NTOR_V_IDENTITY = 10
    HS_INTRO_ENC = 11
    FAMILY_V_IDENTITY = 12


class KeyType(IntEnum):
    """What the certified 32 bytes are (cert-spec A.4)."""

    ED25519 = 1
    RSA_SHA256 = 2
    X509_SHA256 = 3


@dataclass(frozen=True, slots=True)
class CertExtension:
    """An extension; with flag 1 it affects validation."""

    AFFECTS_VALIDATION: ClassVar[int] = 1
    SIGNED_WITH_ED25519_KEY: ClassVar[int] = 4
    type: int
    flags: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Ed25519Cert:
    """A certificate of the format of cert-spec 2.1.

    ``expires`` is in seconds (a multiple of 3600), ``certified_key`` a key or a digest of 32 bytes.
    """

    cert_type: int
    expires: int
    key_type: int
    certified_key: bytes
    extensions: tuple[CertExtension, ...]
    signature: bytes
    signed_part: bytes

    @classmethod
    def create(
        cls,
        cert_type: int,
        certified_key: bytes,
        signer: Ed25519KeyPair,
        expires: float,
        *,
        key_type: int = KeyType.ED25519,
        include_signer: bool = True,
    ) -> Ed25519Cert:
        """Make and sign one, valid until ``expires`` (rounded up to the hour).

        ``include_signer`` adds the signer's public key as an extension.
        """
        extensions: tuple[CertExtension, ...] = ()
        if include_signer:
            extensions = (CertExtension(CertExtension.SIGNED_WITH_ED25519_KEY, 0, signer.public),)
        hours = -(-int(expires) // HOUR)
        part = _signed_part(cert_type, hours, key_type, certified_key, extensions)
        return cls(cert_type, hours * HOUR, key_type, certified_key, extensions, signer.sign(part), part)

    @classmethod
    def decode(cls, data: bytes) -> Ed25519Cert:
        """Parse one; nothing is verified yet. Raises ``ProtocolError``."""
        reader = Reader(data, "an Ed25519 certificate")
        if reader.u8() != 1:
            raise ProtocolError("an Ed25519 certificate of an unknown version")
        cert_type, hours, key_type, key = reader.u8(), reader.u32(), reader.u8(), reader.take(32)
        extensions = tuple(_read_extension(reader) for _ in range(reader.u8()))
        signed_part = data[: reader.position]
        signature = reader.take(64)
        if reader.remaining:
            raise ProtocolError("bytes behind an Ed25519 certificate")
        return cls(cert_type, hours * HOUR, key_type, key, extensions, signature, signed_part)

    def encode(self) -> bytes:
        """The certificate's bytes."""
        return self.signed_part + self.signature

    @property
    def signing_key(self) -> bytes | None:
        """The signer's key (32 bytes) if the certificate carries it."""
        for extension in self.extensions:
            if extension.type == CertExtension.SIGNED_WITH_ED25519_KEY:
                return extension.data
        return None

    def verify(self, signer: bytes | None = None, *, cert_type: int, now: float | None = None) -> bytes:
        """Check type, expiry and signature; returns the key that signed it.

        ``signer`` is the key it has to be signed by; ``None`` takes the one it carries. Without ``now``
        expiry isn't checked. Raises ``CryptoError``.
        """
        key = self.check(signer, cert_type=cert_type, now=now)
        ed25519_verify(key, self.signature, self.signed_part)
        return key

    def check(self, signer: bytes | None = None, *, cert_type: int, now: float | None = None) -> bytes:
        """:meth:`verify` without the signature, for a certificate that may never be relied on."""
        if self.cert_type != cert_type:
            raise CryptoError(f"a certificate of type {self.cert_type} where type {cert_type} belongs")
        if now is not None and now >= self.expires:
            raise CryptoError(f"a certificate of type {cert_type} has expired; is the clock right?")
        key = self.signing_key if signer is None else signer
        if key is None:
            raise CryptoError("a certificate does not carry the key that signed it")
        if self.signing_key not in (None, key):
            raise CryptoError("a certificate carries another key than the one it has to be signed by")
        return key


def _signed_part(
    cert_type: int, hours: int, key_type: int, key: bytes, extensions: Sequence[CertExtension]
) -> bytes:
    head = bytes([1, cert_type]) + hours.to_bytes(4, "big") + bytes([key_type]) + key
    return (
        head
        + bytes([len(extensions)])
        + b"".join(len(e.data).to_bytes(2, "big") + bytes([e.type, e.flags]) + e.data for e in extensions)
    )


def _read_extension(reader: Reader) -> CertExtension:
    """Read one; an unknown one that affects validation makes the certificate unusable."""
    length, kind, flags = reader.u16(), reader.u8(), reader.u8()
    extension = CertExtension(kind, flags, reader.take(length))
    if kind == CertExtension.SIGNED_WITH_ED25519_KEY:
        if length != 32:
            raise ProtocolError("the signing key of an Ed25519 certificate is not 32 bytes")
    elif flags & CertExtension.AFFECTS_VALIDATION:
        raise ProtocolError(f"an Ed25519 certificate with unknown critical extension {kind}")
    return extension


@dataclass(frozen=True, slots=True)
class RsaCrossCert:
    """Type 7: a relay's RSA identity certifies its Ed25519 identity (cert-spec 2.3)."""

    ed25519_key: bytes
    expires: int
    signature: bytes

    @classmethod
    def create(cls, ed25519_key: bytes, signer: RsaKeyPair, expires: float) -> RsaCrossCert:
        """Make and sign one, valid until ``expires`` (rounded up to the hour)."""
        hours = -(-int(expires) // HOUR)
        signature = signer.sign(cls._digest(ed25519_key, hours * HOUR))
        return cls(ed25519_key, hours * HOUR, signature)

    @staticmethod
    def _digest(key: bytes, expires: int) -> bytes:
        prefix = b"Tor TLS RSA/Ed25519 cross-certificate"
        return sha256(prefix + key + (expires // HOUR).to_bytes(4, "big"))

    def encode(self) -> bytes:
        """The certificate's bytes."""
        hours = (self.expires // HOUR).to_bytes(4, "big")
        return self.ed25519_key + hours + vector(self.signature, 1)

    @classmethod
    def decode(cls, data: bytes) -> RsaCrossCert:
        """Parse one; raises ``ProtocolError``."""
        reader = Reader(data, "a cross-certificate")
        certificate = cls(reader.take(32), reader.u32() * HOUR, reader.vector(1))
        if reader.remaining:
            raise ProtocolError("bytes behind a cross-certificate")
        return certificate

    def verify(self, signer: RsaPublicKey, now: float) -> None:
        """Check expiry and signature; raises ``CryptoError``."""
        if now >= self.expires:
            raise CryptoError("a cross-certificate has expired; is the clock right?")
        signer.verify(self.signature, self._digest(self.ed25519_key, self.expires))


def create_ntor_crosscert(ntor_signer: Ed25519KeyPair, identity: bytes, expires: float) -> Ed25519Cert:
    """``ntor-onion-key-crosscert`` (dir-spec 2.1.1): the ntor key, as Ed25519, certifies ``identity``.

    ``ntor_signer`` comes from ``crypto.keys.ed25519_keypair_from_x25519``. The certificate must not carry
    its signing key, which is known from the ``ntor-onion-key`` line and the sign bit.
    """
    return Ed25519Cert.create(CertType.NTOR_V_IDENTITY, identity, ntor_signer, expires, include_signer=False)
