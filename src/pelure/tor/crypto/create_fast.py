"""CREATE_FAST: the handshake of a first hop whose key isn't known yet (tor-spec 5.1.5)."""

from __future__ import annotations

from pelure.errors import CryptoError
from pelure.tor.crypto.digests import equal
from pelure.tor.crypto.kdf import kdf_tor

KEY_LEN = 20
"""Bytes of each side's contribution, X and Y, and of the proof KH."""


def client_finish(x: bytes, y: bytes, kh: bytes, n: int) -> bytes:
    """Return ``n`` bytes of key material (Df, Db, Kf, Kb, …) once CREATED_FAST's ``kh`` is proven.

    ``x`` is what the client sent, ``y`` and ``kh`` (20 bytes each) what came back. Raises ``CryptoError``.
    """
    material = kdf_tor(x + y, KEY_LEN + n)
    if not equal(material[:KEY_LEN], kh):
        raise CryptoError("the relay's CREATED_FAST proof is wrong")
    return material[KEY_LEN:]


def server(x: bytes, y: bytes, n: int) -> tuple[bytes, bytes]:
    """The relay's side: ``(kh, key material of n bytes)`` for the client's ``x`` and its own random ``y``."""
    material = kdf_tor(x + y, KEY_LEN + n)
    return material[:KEY_LEN], material[KEY_LEN:]
