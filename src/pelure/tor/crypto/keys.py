"""X25519 and Ed25519 keys as Tor uses them (tor-spec 0.3, RFC 7748, RFC 8032).

Tor keeps Ed25519 secrets *expanded*: the 32-byte scalar followed by the 32-byte prefix that RFC 8032
derives from a seed. Blinded keys and keys converted from X25519 have no seed at all, so signing here
always works from the expanded form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from nacl import bindings
from nacl.exceptions import BadSignatureError
from nacl.exceptions import RuntimeError as SodiumError

from pelure.errors import CryptoError
from pelure.tor.crypto.digests import sha512

Rng = Callable[[int], bytes]
"""A source of random bytes: ``rng(n)`` returns ``n`` of them."""

_FIELD_PRIME = 2**255 - 19


def clamp(scalar: bytes) -> bytes:
    """Clamp 32 bytes to a Curve25519 scalar (RFC 7748 section 5)."""
    clamped = bytearray(scalar)
    clamped[0] &= 248
    clamped[31] &= 63
    clamped[31] |= 64
    return bytes(clamped)


def x25519_generate(rng: Rng) -> tuple[bytes, bytes]:
    """Make an X25519 key pair: ``(secret, public)``, 32 bytes each; the secret is already clamped."""
    secret = clamp(rng(32))
    return secret, x25519_public(secret)


def x25519_public(secret: bytes) -> bytes:
    """The public key (32 bytes) of a 32-byte X25519 secret."""
    return bytes(bindings.crypto_scalarmult_base(secret))


def x25519(secret: bytes, public: bytes) -> bytes:
    """``EXP(public, secret)``: the 32-byte shared secret.

    Raises ``CryptoError`` for a public key that is not 32 bytes or leads to the all-zero result
    (a point of small order), which every Tor handshake refuses.
    """
    if len(public) != 32:
        raise CryptoError("an X25519 public key is 32 bytes")
    try:
        return bytes(bindings.crypto_scalarmult(secret, public))
    except SodiumError as error:
        raise CryptoError("an X25519 public key of small order") from error


def ed25519_verify(public: bytes, signature: bytes, message: bytes) -> None:
    """Check a 64-byte Ed25519 signature by ``public`` (32 bytes); raises ``CryptoError``."""
    if len(public) != 32 or len(signature) != 64:
        raise CryptoError("an Ed25519 key is 32 bytes, a signature 64")
    try:
        bindings.crypto_sign_open(signature + message, public)  # in less than two thirds of OpenSSL's time
    except BadSignatureError as error:
        raise CryptoError("an Ed25519 signature does not verify") from error


@dataclass(frozen=True, slots=True)
class Ed25519KeyPair:
    """An Ed25519 key pair: ``expanded`` is the 64-byte secret (scalar, prefix), ``public`` 32 bytes."""

    expanded: bytes = field(repr=False)
    public: bytes

    @classmethod
    def generate(cls, rng: Rng) -> Ed25519KeyPair:
        """Make a fresh key pair."""
        return cls.from_seed(rng(32))

    @classmethod
    def from_seed(cls, seed: bytes) -> Ed25519KeyPair:
        """The key pair of a 32-byte RFC 8032 seed."""
        if len(seed) != 32:
            raise CryptoError("an Ed25519 seed is 32 bytes")
        digest = sha512(seed)
        return cls.from_expanded(clamp(digest[:32]) + digest[32:])

    @classmethod
    def from_expanded(cls, expanded: bytes) -> Ed25519KeyPair:
        """The key pair of a 64-byte expanded secret (as in C tor's ``hs_ed25519_secret_key``)."""
        if len(expanded) != 64:
            raise CryptoError("an expanded Ed25519 secret is 64 bytes")
        return cls(expanded, scalar_base_multiply(expanded[:32]))

    def sign(self, message: bytes) -> bytes:
        """Sign ``message`` (64 bytes, deterministic, as RFC 8032 section 5.1.6)."""
        scalar, prefix = self.expanded[:32], self.expanded[32:]
        nonce = bindings.crypto_core_ed25519_scalar_reduce(sha512(prefix + message))
        commitment = bindings.crypto_scalarmult_ed25519_base_noclamp(nonce)
        challenge = bindings.crypto_core_ed25519_scalar_reduce(sha512(commitment + self.public + message))
        product = bindings.crypto_core_ed25519_scalar_mul(challenge, scalar)
        return bytes(commitment + bindings.crypto_core_ed25519_scalar_add(nonce, product))


def scalar_base_multiply(scalar: bytes) -> bytes:
    """The point ``scalar * B`` (32 bytes); raises ``CryptoError`` for the scalar zero."""
    try:
        return bytes(bindings.crypto_scalarmult_ed25519_base_noclamp(scalar))
    except Exception as error:  # nacl raises its own RuntimeError when the result is the identity
        raise CryptoError("an Ed25519 secret scalar of zero") from error


def scalar_multiply_point(scalar: bytes, point: bytes) -> bytes:
    """The point ``scalar * point`` (32 bytes).

    Raises ``CryptoError`` for a point that is not canonical, has small order or lies outside the
    prime-order subgroup: rend-spec-v3 asks that such identity keys be refused.
    """
    if len(point) != 32:
        raise CryptoError("an Ed25519 public key is 32 bytes")
    try:
        return bytes(bindings.crypto_scalarmult_ed25519_noclamp(scalar, point))
    except Exception as error:  # nacl raises its own RuntimeError for a bad point
        raise CryptoError("not a valid Ed25519 public key") from error


def scalar_product(one: bytes, other: bytes) -> bytes:
    """``one * other`` modulo the group order (32 bytes, little-endian)."""
    return bytes(bindings.crypto_core_ed25519_scalar_mul(one, other))


def ed25519_is_valid_point(point: bytes) -> bool:
    """Whether 32 bytes are a canonical point of the prime-order subgroup, not of small order."""
    return len(point) == 32 and bool(bindings.crypto_core_ed25519_is_valid_point(point))


def ed25519_public_from_x25519(public: bytes, sign_bit: int) -> bytes:
    """The Ed25519 public key on the point of X25519 key ``public`` with x-coordinate sign ``sign_bit``.

    Checks ``ntor-onion-key-crosscert`` (dir-spec 2.1.1, appendix C "Converting a curve25519 public key").
    Raises ``CryptoError`` for the one value that has no counterpart.
    """
    u = int.from_bytes(public, "little") & ((1 << 255) - 1)
    if len(public) != 32 or (u + 1) % _FIELD_PRIME == 0:
        raise CryptoError("an X25519 public key without an Ed25519 counterpart")
    y = (u - 1) * pow(u + 1, -1, _FIELD_PRIME) % _FIELD_PRIME
    return (y | (sign_bit & 1) << 255).to_bytes(32, "little")


def ed25519_keypair_from_x25519(secret: bytes) -> tuple[Ed25519KeyPair, int]:
    """The Ed25519 key pair on an X25519 secret, and the sign bit its public key has (dir-spec appendix C)."""
    prefix = sha512(secret + b"Derive high part of ed25519 key from curve25519 key\x00")[:32]
    pair = Ed25519KeyPair.from_expanded(clamp(secret) + prefix)
    return pair, pair.public[31] >> 7
