"""AES in counter mode, the one stream cipher of Tor (tor-spec 0.3), for one-shot use.

The relay cipher of circuits keeps its own running contexts (``pelure.tor.circuit.relaycrypto``).
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

ZERO_IV = bytes(16)


def aes_ctr(key: bytes, data: bytes, iv: bytes = ZERO_IV) -> bytes:
    """Encrypt or decrypt ``data`` by AES-CTR; ``key`` is 16 or 32 bytes, ``iv`` the first counter block."""
    return Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor().update(data)
