"""Ed25519 key blinding and subcredentials (rend-spec-v3 2.1 and appendix A)."""

from __future__ import annotations

from pelure.tor.crypto.digests import sha3_256, sha512
from pelure.tor.crypto.keys import (
    Ed25519KeyPair,
    clamp,
    scalar_base_multiply,
    scalar_multiply_point,
    scalar_product,
)

_BLIND_STRING = b"Derive temporary signing key\x00"
_RH_BLIND_STRING = b"Derive temporary signing key hash input"
_BASEPOINT = (
    b"(15112221349535400772501151409588531511454012693041857206046113283949847762202, "
    b"46316835694926478169428394003475163141307993866256225615783033603165251855960)"
)


def blinding_factor(public: bytes, period_number: int, period_length: int, secret: bytes = b"") -> bytes:
    """The clamped factor h (32 bytes) of identity key ``public`` in one time period.

    ``period_length`` is in minutes; ``secret`` is the optional shared secret s of appendix A.2.
    """
    nonce = b"key-blind" + period_number.to_bytes(8, "big") + period_length.to_bytes(8, "big")
    return clamp(sha3_256(_BLIND_STRING + public + secret + _BASEPOINT + nonce))


def blind_public(public: bytes, factor: bytes) -> bytes:
    """The blinded public key ``A' = hA``; raises ``CryptoError`` if ``public`` isn't a proper point."""
    return scalar_multiply_point(clamp(factor), public)


def blind_keypair(pair: Ed25519KeyPair, factor: bytes) -> Ed25519KeyPair:
    """The blinded key pair ``a' = ha``, ``RH' = SHA-512(… | RH)[:32]``."""
    scalar = scalar_product(clamp(factor), pair.expanded[:32])
    prefix = sha512(_RH_BLIND_STRING + pair.expanded[32:])[:32]
    return Ed25519KeyPair(scalar + prefix, scalar_base_multiply(scalar))


def credential(public: bytes) -> bytes:
    """``N_hs_cred`` of an identity key (32 bytes)."""
    return sha3_256(b"credential" + public)


def subcredential(public: bytes, blinded: bytes) -> bytes:
    """``N_hs_subcred`` of an identity key in the period of its ``blinded`` key (32 bytes)."""
    return sha3_256(b"subcredential" + credential(public) + blinded)
