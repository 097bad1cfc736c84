"""The encryption both layers of a descriptor share (rend-spec-v3 2.5.3)."""

from __future__ import annotations

from dataclasses import dataclass, field

from pelure.errors import CryptoError
from pelure.tor.crypto.ciphers import aes_ctr
from pelure.tor.crypto.digests import equal, hs_mac, shake256
from pelure.tor.crypto.keys import Rng

SALT_LEN = 16
MAC_LEN = 32
_KEY_LEN = 32
_IV_LEN = 16
FIRST_LAYER = b"hsdir-superencrypted-data"
SECOND_LAYER = b"hsdir-encrypted-data"


@dataclass(frozen=True)
class LayerSecrets:
    """What the keys of a descriptor's layers derive from, beside the per-layer secret data."""

    subcredential: bytes = field(repr=False)
    revision_counter: int

    def _keys(self, secret_data: bytes, salt: bytes, constant: bytes) -> tuple[bytes, bytes, bytes]:
        secret_input = secret_data + self.subcredential + self.revision_counter.to_bytes(8, "big")
        keys = shake256(secret_input + salt + constant, _KEY_LEN + _IV_LEN + MAC_LEN)
        return keys[:_KEY_LEN], keys[_KEY_LEN : _KEY_LEN + _IV_LEN], keys[_KEY_LEN + _IV_LEN :]

    def encrypt(self, plaintext: bytes, secret_data: bytes, constant: bytes, rng: Rng) -> bytes:
        """Return SALT | ENCRYPTED | MAC for ``plaintext``; ``constant`` names the layer."""
        salt = rng(SALT_LEN)
        key, iv, mac_key = self._keys(secret_data, salt, constant)
        encrypted = aes_ctr(key, plaintext, iv)
        return salt + encrypted + _mac(mac_key, salt, encrypted)

    def decrypt(self, blob: bytes, secret_data: bytes, constant: bytes) -> bytes:
        """Return the plaintext of SALT | ENCRYPTED | MAC. Raises :class:`CryptoError` if the MAC is wrong."""
        if len(blob) < SALT_LEN + MAC_LEN:
            raise CryptoError("an encrypted descriptor layer is too short")
        salt, encrypted, mac = blob[:SALT_LEN], blob[SALT_LEN:-MAC_LEN], blob[-MAC_LEN:]
        key, iv, mac_key = self._keys(secret_data, salt, constant)
        if not equal(mac, _mac(mac_key, salt, encrypted)):
            raise CryptoError("an encrypted descriptor layer can't be decrypted with these keys")
        return aes_ctr(key, encrypted, iv)


def _mac(mac_key: bytes, salt: bytes, encrypted: bytes) -> bytes:
    return hs_mac(mac_key, len(salt).to_bytes(8, "big") + salt + encrypted)
