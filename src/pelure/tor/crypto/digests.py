"""Hash functions and MACs by the names the specifications give them (tor-spec 0.3, rend-spec-v3 0.3)."""

from __future__ import annotations

import hashlib
import hmac


def sha1(data: bytes) -> bytes:
    """SHA-1 of ``data`` (20 bytes); only where a format fixes it."""
    return hashlib.sha1(data, usedforsecurity=False).digest()


def sha256(data: bytes) -> bytes:
    """SHA-256 of ``data`` (32 bytes)."""
    return hashlib.sha256(data).digest()


def sha512(data: bytes) -> bytes:
    """SHA-512 of ``data`` (64 bytes)."""
    return hashlib.sha512(data).digest()


def sha3_256(data: bytes) -> bytes:
    """SHA3-256 of ``data`` (32 bytes); ``H`` of rend-spec-v3."""
    return hashlib.sha3_256(data).digest()


def shake256(data: bytes, n: int) -> bytes:
    """The first ``n`` bytes of SHAKE-256 of ``data``; ``KDF`` of rend-spec-v3."""
    return hashlib.shake_256(data).digest(n)


def hmac_sha256(key: bytes, data: bytes) -> bytes:
    """HMAC-SHA-256 of ``data`` under ``key`` (32 bytes)."""
    return hmac.digest(key, data, "sha256")


def hs_mac(key: bytes, data: bytes) -> bytes:
    """``MAC(k, m) = SHA3-256(len(k) as 8 bytes | k | m)`` of rend-spec-v3 section 0.3 (32 bytes)."""
    return sha3_256(len(key).to_bytes(8, "big") + key + data)


def equal(one: bytes, other: bytes) -> bool:
    """Whether two byte strings are equal, in a time that depends on their length only."""
    return hmac.compare_digest(one, other)
