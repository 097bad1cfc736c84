"""Encryption of blocks: XSalsa20 under a key for each core (HYPER-FACTS §17).

A stored block is an 8-byte pad followed by the ciphertext. The pad hides the fork at which the block was
appended and makes the nonce, so that a truncated core never uses a keystream twice. Blocks carry no
authentication tag: the Merkle tree, which is over the stored form, protects them.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import struct
from collections.abc import Callable

import nacl._sodium
from nacl.bindings import crypto_secretbox

from pelure.errors import DriveError
from pelure.hyper.core.hashing import DEFAULT_ENCRYPTION, blake2b_256

PADDING = 8
"""Bytes by which a stored block is longer than its plaintext."""

XSalsa20 = Callable[[bytes, bytes, bytes], bytes]
"""``(message, 24-byte nonce, 32-byte key)`` to the message XORed with the keystream."""


class Encryption:
    """Seals and opens the blocks of one core."""

    def __init__(self, block_key: bytes) -> None:
        self._block_key = block_key
        self._blinding_key = blake2b_256(block_key)

    @classmethod
    def derive(cls, core_key: bytes, encryption_key: bytes, compat: bool = False) -> Encryption:
        """From a drive's 32-byte encryption key, for the core ``core_key``."""
        if len(encryption_key) != 32:
            raise DriveError("an encryption key has 32 bytes")
        if compat:
            return cls(blake2b_256(encryption_key, key=core_key))
        return cls(blake2b_256(DEFAULT_ENCRYPTION, core_key, encryption_key))

    def seal(self, index: int, fork: int, block: bytes) -> bytes:
        """The stored form of ``block``, the block ``index`` appended at ``fork``."""
        nonce = index.to_bytes(8, "little")
        pad = xsalsa20(fork.to_bytes(8, "little"), nonce + bytes(16), self._blinding_key)
        return pad + xsalsa20(block, nonce + pad + bytes(8), self._block_key)

    def open(self, index: int, stored: bytes) -> bytes:
        """The plaintext. Raises :class:`~pelure.errors.DriveError` if ``stored`` is too short."""
        if len(stored) < PADDING:
            raise DriveError(f"block {index} is too short to be an encrypted one")
        nonce = index.to_bytes(8, "little") + stored[:PADDING] + bytes(8)
        return xsalsa20(stored[PADDING:], nonce, self._block_key)


def _rotate(value: int, by: int) -> int:
    return (value << by | value >> (32 - by)) & 0xFFFFFFFF


_COLUMNS = ((0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11))
_ROWS = ((0, 1, 2, 3), (5, 6, 7, 4), (10, 11, 8, 9), (15, 12, 13, 14))
_SIGMA = struct.unpack("<4I", b"expand 32-byte k")


def _salsa20_rounds(state: list[int]) -> list[int]:
    x = list(state)
    for _ in range(10):
        for a, b, c, d in (*_COLUMNS, *_ROWS):
            x[b] ^= _rotate((x[a] + x[d]) & 0xFFFFFFFF, 7)
            x[c] ^= _rotate((x[b] + x[a]) & 0xFFFFFFFF, 9)
            x[d] ^= _rotate((x[c] + x[b]) & 0xFFFFFFFF, 13)
            x[a] ^= _rotate((x[d] + x[c]) & 0xFFFFFFFF, 18)
    return x


def _salsa20_state(key: bytes, words: tuple[int, ...]) -> list[int]:
    k = struct.unpack("<8I", key)
    return [_SIGMA[0], *k[:4], _SIGMA[1], *words, _SIGMA[2], *k[4:], _SIGMA[3]]


def _first_half_block(nonce: bytes, key: bytes) -> bytes:
    """The first 32 bytes of the XSalsa20 keystream."""
    x = _salsa20_rounds(_salsa20_state(key, struct.unpack("<4I", nonce[:16])))
    subkey = struct.pack("<8I", x[0], x[5], x[10], x[15], *x[6:10])
    state = _salsa20_state(subkey, (*struct.unpack("<2I", nonce[16:]), 0, 0))
    mixed = zip(_salsa20_rounds(state), state, strict=True)
    return struct.pack("<16I", *((a + b) & 0xFFFFFFFF for a, b in mixed))[:32]


def xsalsa20_from_secretbox(message: bytes, nonce: bytes, key: bytes) -> bytes:
    """XSalsa20 where libsodium's bare stream can't be reached.

    A secretbox is the same keystream from byte 32 on (its first 32 bytes key the authenticator); those 32
    bytes are computed here.
    """
    head = message[:32]
    start = bytes(a ^ b for a, b in zip(head, _first_half_block(nonce, key), strict=False))
    if len(message) <= 32:
        return start
    boxed: bytes = crypto_secretbox(message[32:], nonce, key)
    return start + boxed[16:]


def _bind(library: ctypes.CDLL) -> XSalsa20:
    function = library.crypto_stream_xsalsa20_xor
    text = ctypes.c_char_p
    function.argtypes = (ctypes.c_void_p, text, ctypes.c_ulonglong, text, text)
    function.restype = ctypes.c_int

    def stream(message: bytes, nonce: bytes, key: bytes) -> bytes:
        if not message:
            return b""
        out = bytearray(len(message))
        # By its first byte: an array of ctypes would make a new type for each length that messages have.
        function(ctypes.addressof(ctypes.c_char.from_buffer(out)), message, len(message), nonce, key)
        return bytes(out)

    return stream


def _from_library() -> XSalsa20 | None:
    """The function of the libsodium that PyNaCl brings along, or else of the system's."""
    probe = bytes(range(100)), bytes(range(24)), bytes(range(32))
    for path in (nacl._sodium.__file__, ctypes.util.find_library("sodium")):
        try:
            stream = _bind(ctypes.CDLL(path))
        except (OSError, AttributeError):
            continue  # no such library here, or one that keeps the function to itself
        if stream(*probe) == xsalsa20_from_secretbox(*probe):
            return stream
    return None


xsalsa20: XSalsa20 = _from_library() or xsalsa20_from_secretbox
