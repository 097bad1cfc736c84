"""The Noise handshake of secret streams: ``Noise_XX_Ed25519_ChaChaPoly_BLAKE2b``.

Follows the Noise Protocol Framework (revision 34) sections 4 and 5, with the DH of the npm packages
``noise-handshake`` 4 and ``noise-curve-ed`` 2: static and ephemeral keys are Ed25519 key pairs, whose public
keys travel as they are, and DH is scalar multiplication on the Edwards curve. HASHLEN is 64. Prologue and
payloads are empty.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b, sha512
from typing import Literal

import nacl.bindings as sodium
from nacl.exceptions import CryptoError as SodiumError

from pelure.errors import CryptoError, ProtocolError

Rng = Callable[[int], bytes]

PROTOCOL_NAME = b"Noise_XX_Ed25519_ChaChaPoly_BLAKE2b"
HASH_LEN = 64
KEY_LEN = 32
TAG_LEN = 16

Token = Literal["e", "s", "ee", "es", "se"]
PATTERN: tuple[tuple[Token, ...], ...] = (("e",), ("e", "ee", "s", "es"), ("s", "se"))
"""The messages of XX; the initiator writes the first and the third."""

MESSAGE_SIZES = (KEY_LEN, 2 * KEY_LEN + 2 * TAG_LEN, KEY_LEN + 2 * TAG_LEN)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An Ed25519 key pair: 32-byte ``seed`` and 32-byte ``public`` key."""

    seed: bytes = field(repr=False)
    public: bytes

    @classmethod
    def from_seed(cls, seed: bytes) -> KeyPair:
        """Return the key pair that the 32-byte ``seed`` stands for."""
        return cls(seed, sodium.crypto_sign_seed_keypair(seed)[0])

    @classmethod
    def generate(cls, rng: Rng) -> KeyPair:
        """Return a new key pair."""
        return cls.from_seed(rng(KEY_LEN))


def diffie_hellman(keypair: KeyPair, public: bytes) -> bytes:
    """Multiply the point ``public`` by the clamped scalar of ``keypair``; 32 bytes.

    Raises ``CryptoError`` for a point that is not on the curve or of small order.
    """
    scalar = bytearray(sha512(keypair.seed).digest()[:32])
    scalar[0] &= 248
    scalar[31] = scalar[31] & 127 | 64
    try:
        return bytes(sodium.crypto_scalarmult_ed25519_noclamp(bytes(scalar), public))
    except (SodiumError, ValueError, RuntimeError):
        raise CryptoError("handshake holds an invalid public key") from None


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "blake2b")


def _hkdf(chaining_key: bytes, material: bytes) -> tuple[bytes, bytes]:
    """HKDF with two outputs of HASHLEN bytes (Noise section 4.3)."""
    temporary = _hmac(chaining_key, material)
    first = _hmac(temporary, b"\x01")
    return first, _hmac(temporary, first + b"\x02")


class NoiseXX:
    """One side of the handshake: call :meth:`write` and :meth:`read` in turn until :attr:`complete`.

    Afterwards :attr:`tx` and :attr:`rx` are the 32-byte keys for sending and receiving, :attr:`hash` is the
    64-byte handshake hash. :attr:`remote_public` is the other side's static key once it was read.
    """

    def __init__(self, initiator: bool, static: KeyPair, rng: Rng) -> None:
        self.initiator = initiator
        self.static = static
        self.remote_public: bytes | None = None
        self.complete = False
        self.tx = b""
        self.rx = b""
        self._ephemeral = KeyPair.generate(rng)
        self._remote_ephemeral = b""
        self._step = 0
        self._key = b""
        self._nonce = 0
        self.hash = self._chaining_key = PROTOCOL_NAME.ljust(HASH_LEN, b"\0")
        self._mix_hash(b"")

    @property
    def next_size(self) -> int:
        """Bytes of the next handshake message, whoever writes it."""
        return MESSAGE_SIZES[self._step]

    @property
    def writes_next(self) -> bool:
        """Whether the next message is this side's to write."""
        return not self.complete and (self._step % 2 == 0) == self.initiator

    def write(self) -> bytes:
        """Return the next handshake message."""
        parts = []
        for token in PATTERN[self._step]:
            if token == "e":
                self._mix_hash(self._ephemeral.public)
                parts.append(self._ephemeral.public)
            elif token == "s":
                parts.append(self._encrypt(self.static.public))
            else:
                self._mix_dh(token)
        parts.append(self._encrypt(b""))
        self._advance()
        return b"".join(parts)

    def read(self, message: bytes) -> None:
        """Take the other side's next message. Raises ``CryptoError`` or ``ProtocolError`` if it is bad."""
        if len(message) != self.next_size:
            raise ProtocolError(f"handshake message of {len(message)} bytes, expected {self.next_size}")
        pos = 0
        for token in PATTERN[self._step]:
            if token == "e":
                self._remote_ephemeral = message[:KEY_LEN]
                self._mix_hash(self._remote_ephemeral)
                pos = KEY_LEN
            elif token == "s":
                stop = pos + KEY_LEN + TAG_LEN
                self.remote_public = self._decrypt(message[pos:stop])
                pos = stop
            else:
                self._mix_dh(token)
        self._decrypt(message[pos:])
        self._advance()

    def _advance(self) -> None:
        self._step += 1
        if self._step == len(PATTERN):
            first, second = (key[:KEY_LEN] for key in _hkdf(self._chaining_key, b""))
            self.tx, self.rx = (first, second) if self.initiator else (second, first)
            self.complete = True
            self._key = self._chaining_key = b""

    def _mix_hash(self, data: bytes) -> None:
        self.hash = blake2b(self.hash + data).digest()

    def _mix_dh(self, token: Token) -> None:
        """Mix in the DH of the keys that ``token`` names: initiator's first, responder's second."""
        own, other = (token[0], token[1]) if self.initiator else (token[1], token[0])
        keypair = self._ephemeral if own == "e" else self.static
        public = self._remote_ephemeral if other == "e" else self.remote_public
        assert public is not None  # the patterns name a key only after it was sent
        self._chaining_key, key = _hkdf(self._chaining_key, diffie_hellman(keypair, public))
        self._key = key[:KEY_LEN]
        self._nonce = 0

    def _encrypt(self, plaintext: bytes) -> bytes:
        if self._key:
            plaintext = sodium.crypto_aead_chacha20poly1305_ietf_encrypt(
                plaintext, self.hash, self._next_nonce(), self._key
            )
        self._mix_hash(plaintext)
        return plaintext

    def _decrypt(self, ciphertext: bytes) -> bytes:
        plaintext = ciphertext
        if self._key:
            try:
                plaintext = sodium.crypto_aead_chacha20poly1305_ietf_decrypt(
                    ciphertext, self.hash, self._next_nonce(), self._key
                )
            except SodiumError:
                raise CryptoError("handshake message does not authenticate") from None
        self._mix_hash(ciphertext)
        return plaintext

    def _next_nonce(self) -> bytes:
        nonce = bytes(4) + self._nonce.to_bytes(8, "little")
        self._nonce += 1
        return nonce
