"""Key derivation: KDF-TOR and KDF-RFC5869 (tor-spec 5.2.1 and 5.2.2, proposal 216)."""

from __future__ import annotations

from pelure.tor.crypto.digests import hmac_sha256, sha1


def kdf_tor(k0: bytes, n: int) -> bytes:
    """Return ``n`` bytes (at most 5120) of ``SHA1(K0 | 00) | SHA1(K0 | 01) | …``, as CREATE_FAST uses it."""
    blocks = -(-n // 20)
    if blocks > 256:
        raise ValueError("KDF-TOR gives at most 5120 bytes")
    return b"".join(sha1(k0 + bytes([i])) for i in range(blocks))[:n]


def hkdf_sha256(ikm: bytes, salt: bytes, info: bytes, n: int) -> bytes:
    """Return ``n`` bytes (at most 8160) of HKDF-SHA-256 (RFC 5869), extract and expand."""
    return hkdf_expand_sha256(hmac_sha256(salt, ikm), info, n)


def hkdf_expand_sha256(prk: bytes, info: bytes, n: int) -> bytes:
    """The expand step of HKDF-SHA-256 alone, for ntor, whose ``KEY_SEED`` is the extracted key."""
    if n > 255 * 32:
        raise ValueError("HKDF-SHA-256 gives at most 8160 bytes")
    out, block, counter = b"", b"", 1
    while len(out) < n:
        block = hmac_sha256(prk, block + info + bytes([counter]))
        out += block
        counter += 1
    return out[:n]
