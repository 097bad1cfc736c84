"""The cipher of secret streams: libsodium's ``secretstream_xchacha20poly1305``, with the tag *message*.

Each message is sealed with ChaCha20 (RFC 8439) under a key that HChaCha20 made of the stream's key and its
header. The nonce is a counter of 32 bits and eight bytes that change with each message's authenticator. The
keystream gives, in this order: the key for Poly1305 (block 0), what hides the tag (block 1), and what hides
the message.

This is libsodium's construction on OpenSSL's ciphers, which take less than half the time for long messages,
and seal in place.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.poly1305 import Poly1305

from pelure.errors import CryptoError

OVERHEAD = 17
"""Bytes by which a sealed message is longer: the hidden tag in front, the authenticator behind."""
HEADER_SIZE = 24

_BLOCK = 64
_FIRST_BLOCKS = bytes(2 * _BLOCK)
_BLOCK_ZERO = bytes(4)
_TAG_REKEY = 2
_SIGMA = struct.unpack("<4I", b"expand 32-byte k")


def _hchacha20(key: bytes, block: bytes) -> bytes:
    """HChaCha20 of a 16-byte ``block``: ChaCha20's state after its rounds, without the sum at the end."""
    cipher = Cipher(algorithms.ChaCha20(key, block), None).encryptor()
    words = struct.unpack("<16I", cipher.update(bytes(_BLOCK)))
    added = (*_SIGMA, *struct.unpack("<4I", block))
    mixed = words[:4] + words[12:]
    return struct.pack(
        "<8I", *((word - start) & 0xFFFFFFFF for word, start in zip(mixed, added, strict=True))
    )


class MessageCipher:
    """One direction of a secret stream: seals messages, or opens them, in order."""

    def __init__(self, key: bytes, header: bytes) -> None:
        """``key`` has 32 bytes, ``header``, which the sender chose at random, 24."""
        self._start(_hchacha20(key, header[:16]), header[16:])

    def _start(self, key: bytes, nonce: bytes) -> None:
        self._key = key
        self._cipher = Cipher(algorithms.ChaCha20(key, bytes(16)), None).encryptor()
        self._nonce = int.from_bytes(nonce, "little")
        self._counter = 1

    def seal(self, pieces: Iterable[bytes], out: memoryview) -> None:
        """Fill ``out``, :data:`OVERHEAD` bytes longer than the message in ``pieces``, with it, sealed."""
        first = self._first_blocks()
        out[0] = first[_BLOCK]
        end = 1
        for piece in pieces:
            start, end = end, end + len(piece)
            self._cipher.update_into(piece, out[start:end])
        poly = self._authenticator(first[:32], first[_BLOCK:], out[1:end])
        out[end:] = mac = poly.finalize()
        self._advance(mac)

    def open(self, sealed: memoryview) -> bytes:
        """The message in at least :data:`OVERHEAD` bytes.

        Raises :class:`~pelure.errors.CryptoError` if it was not the other side that sealed it.
        """
        first = self._first_blocks()
        mac = bytes(sealed[-16:])
        hidden = sealed[1:-16]
        poly = self._authenticator(first[:32], bytes(sealed[:1]) + first[_BLOCK + 1 :], hidden)
        try:
            poly.verify(mac)
        except InvalidSignature:
            raise CryptoError("secret stream frame does not authenticate") from None
        message = self._cipher.update(hidden)
        self._advance(mac)
        if (sealed[0] ^ first[_BLOCK]) & _TAG_REKEY:
            self._rekey()
        return message

    def _first_blocks(self) -> bytes:
        """Begin the next message's keystream and return its first two blocks."""
        nonce = self._counter.to_bytes(4, "little") + self._nonce.to_bytes(8, "little")
        self._cipher.reset_nonce(_BLOCK_ZERO + nonce)
        return self._cipher.update(_FIRST_BLOCKS)

    @staticmethod
    def _authenticator(key: bytes, tag_block: bytes, hidden: memoryview) -> Poly1305:
        size = len(hidden)
        poly = Poly1305(key)
        poly.update(tag_block)
        poly.update(hidden)
        # The padding is what libsodium computes, not what would fill a block; then the length of no
        # associated data, and that of the rest.
        poly.update(bytes((size & 15) + 8) + (_BLOCK + size).to_bytes(8, "little"))
        return poly

    def _advance(self, mac: bytes) -> None:
        self._nonce ^= int.from_bytes(mac[:8], "little")
        self._counter = (self._counter + 1) & 0xFFFFFFFF
        if self._counter == 0:
            self._rekey()

    def _rekey(self) -> None:
        nonce = self._counter.to_bytes(4, "little") + self._nonce.to_bytes(8, "little")
        self._cipher.reset_nonce(_BLOCK_ZERO + nonce)
        fresh = self._cipher.update(self._key + self._nonce.to_bytes(8, "little"))
        self._start(fresh[:32], fresh[32:])
