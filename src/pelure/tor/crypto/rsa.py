"""RSA keys as Tor's legacy identities use them (tor-spec 0.3).

Signatures are PKCS#1 v1.5 padding over the raw digest, without the ``DigestInfo`` prefix, and verifying
*recovers* the digest. A key's identity is the SHA-1 of its PKCS#1 DER. OpenSSL generates the keys with
its own random source; everything else is a function of its arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import NoDigestInfo

from pelure.errors import CryptoError
from pelure.tor.crypto.digests import equal, sha1, sha256

MAX_BITS = 4096


@dataclass(frozen=True, slots=True)
class RsaPublicKey:
    """An RSA public key; ``der`` is its PKCS#1 encoding."""

    key: rsa.RSAPublicKey = field(repr=False)
    der: bytes

    @classmethod
    def wrap(cls, key: rsa.RSAPublicKey) -> RsaPublicKey:
        """Take a `cryptography` key; raises ``CryptoError`` if it is larger than 4096 bits."""
        if key.key_size > MAX_BITS:
            raise CryptoError("an RSA key of more than 4096 bits")
        return cls(key, key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1))

    @classmethod
    def from_der(cls, der: bytes) -> RsaPublicKey:
        """Parse PKCS#1 DER; raises ``CryptoError``."""
        try:
            key = serialization.load_der_public_key(der)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise CryptoError("not an RSA public key") from error
        return cls._checked(key)

    @classmethod
    def from_pem(cls, pem: bytes) -> RsaPublicKey:
        """Parse a PEM ``RSA PUBLIC KEY``; raises ``CryptoError``."""
        try:
            key = serialization.load_pem_public_key(pem)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise CryptoError("not an RSA public key") from error
        return cls._checked(key)

    @classmethod
    def _checked(cls, key: object) -> RsaPublicKey:
        if not isinstance(key, rsa.RSAPublicKey):
            raise CryptoError("not an RSA public key")
        return cls.wrap(key)

    @property
    def bits(self) -> int:
        """The size of the modulus."""
        return self.key.key_size

    @property
    def modulus(self) -> int:
        """The modulus; link protocol 3 compares keys by it."""
        return self.key.public_numbers().n

    @property
    def exponent(self) -> int:
        """The public exponent; Tor takes only 65537 for relay keys."""
        return self.key.public_numbers().e

    @property
    def identity(self) -> bytes:
        """The identity digest: SHA-1 of the PKCS#1 DER (20 bytes)."""
        return sha1(self.der)

    @property
    def identity_sha256(self) -> bytes:
        """SHA-256 of the PKCS#1 DER (32 bytes), as AUTHENTICATE has it."""
        return sha256(self.der)

    def to_pem(self) -> bytes:
        """PEM with the armor ``RSA PUBLIC KEY``, ended by a newline."""
        return self.key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.PKCS1)

    def recover(self, signature: bytes) -> bytes:
        """The bytes that ``signature`` signs; raises ``CryptoError`` if the padding is wrong."""
        try:
            return self.key.recover_data_from_signature(signature, padding.PKCS1v15(), None)
        except (InvalidSignature, ValueError) as error:
            raise CryptoError("an RSA signature does not verify") from error

    def verify(self, signature: bytes, digest: bytes) -> None:
        """Check that ``signature`` signs exactly ``digest``; raises ``CryptoError``."""
        if not equal(self.recover(signature), digest):
            raise CryptoError("an RSA signature does not verify")


@dataclass(frozen=True, slots=True)
class RsaKeyPair:
    """An RSA key pair."""

    key: rsa.RSAPrivateKey = field(repr=False)
    public: RsaPublicKey

    @classmethod
    def wrap(cls, key: rsa.RSAPrivateKey) -> RsaKeyPair:
        """Take a `cryptography` key."""
        return cls(key, RsaPublicKey.wrap(key.public_key()))

    @classmethod
    def generate(cls, bits: int = 1024) -> RsaKeyPair:
        """Make a key pair with exponent 65537 (1024 bits for relay identities, 2048 and up elsewhere)."""
        return cls.wrap(rsa.generate_private_key(65537, bits))

    @classmethod
    def from_pem(cls, pem: bytes) -> RsaKeyPair:
        """Parse an unencrypted PEM ``RSA PRIVATE KEY`` (or PKCS#8); raises ``CryptoError``."""
        try:
            key = serialization.load_pem_private_key(pem, None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise CryptoError("not an unencrypted RSA private key") from error
        if not isinstance(key, rsa.RSAPrivateKey):
            raise CryptoError("not an RSA private key")
        return cls.wrap(key)

    def to_pem(self) -> bytes:
        """PEM with the armor ``RSA PRIVATE KEY``, as C tor's ``secret_id_key`` has it. A secret."""
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )

    def sign(self, digest: bytes) -> bytes:
        """Sign ``digest`` as it is: PKCS#1 v1.5 padding, no ``DigestInfo``."""
        return self.key.sign(digest, padding.PKCS1v15(), NoDigestInfo())
