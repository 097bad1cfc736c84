"""A private link: the ``pelure:`` URI that one reader is given (docs/private-link.md).

It carries everything that reader needs and nothing of anyone else's: the onion service's identity
key, the drive's key and content key, and this link's own 16-byte secret, from which its
restricted-discovery key (to read the service's descriptor) and its identity key (its Noise static key)
are derived. Text form: z-base-32 of the bytes below, then a checksum that locates a mistyped character.

====== ===== =========================================================
bytes  what
====== ===== =========================================================
1            version (1)
32           onion service's Ed25519 identity key
32           drive key (hypercore key of the drive's database)
32           content encryption key
16           secret of this link
…            fields: type (1), length (1), value; see :class:`FieldType`
====== ===== =========================================================

A field whose type is odd may be skipped by a reader that does not know it; one whose type is even may not.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from enum import IntEnum

from pelure.errors import LinkFormatError
from pelure.hyper.wire.noise import KeyPair
from pelure.share.checksum import CHECK_SYMBOLS, check_symbols, locate_error, syndromes
from pelure.tor.crypto.address import encode_address
from pelure.tor.crypto.kdf import hkdf_sha256
from pelure.tor.crypto.keys import x25519_public

SCHEME = "pelure:"
VERSION = 1
ALPHABET = "ybndrfg8ejkmcpqxot1uwisza345h769"
_VALUES = {character: value for value, character in enumerate(ALPHABET)}
_IGNORED = re.compile(r"[\s\-\u00ad\u200b-\u200d\ufeff]")
KEY_SIZE = 32
SECRET_SIZE = 16
_FIXED_SIZE = 1 + 3 * KEY_SIZE + SECRET_SIZE
MAX_SIZE = 600
DEFAULT_PORT = 4282
MAX_EXPIRY = 1 << 40
"""Seconds since 1970 that no link can hold."""


class FieldType(IntEnum):
    """Types of the fields after the fixed part; 3 (mirrors) and 5 (tokens) are set aside for later."""

    EXPIRY = 2  # 5 bytes, seconds since 1970, big-endian
    TITLE = 7  # UTF-8, what the publisher calls the share; at most 120 bytes


@dataclass(frozen=True)
class PrivateLink:
    """What one private link says. ``repr`` shows none of its secrets."""

    onion_key: bytes
    drive_key: bytes = field(repr=False)
    content_key: bytes = field(repr=False)
    secret: bytes = field(repr=False)
    expires: int | None = None
    title: str = ""

    @property
    def address(self) -> str:
        """The onion address, ``….onion``."""
        return encode_address(self.onion_key)

    @property
    def discovery_secret(self) -> bytes:
        """X25519 secret (32 bytes) that decrypts the service's descriptor (rend-spec-v3 2.5.1.2)."""
        return hkdf_sha256(self.secret, b"pelure-link-v1", b"restricted discovery", 32)

    @property
    def discovery_key(self) -> bytes:
        """X25519 public key the service lists in its descriptor."""
        return x25519_public(self.discovery_secret)

    @property
    def identity(self) -> KeyPair:
        """The reader's Noise static key: the service knows the link by it."""
        return KeyPair.from_seed(hkdf_sha256(self.secret, b"pelure-link-v1", b"identity", 32))

    def expired(self, now: float | None = None) -> bool:
        """True once the link's time is over (``now``: seconds since 1970)."""
        return self.expires is not None and (time.time() if now is None else now) >= self.expires

    def encode(self) -> str:
        """The ``pelure:`` URI."""
        data = bytes([VERSION]) + self.onion_key + self.drive_key + self.content_key + self.secret
        if self.expires is not None:
            data += bytes([FieldType.EXPIRY, 5]) + self.expires.to_bytes(5, "big")
        if self.title:
            title = _cut_utf8(self.title, 120)
            data += bytes([FieldType.TITLE, len(title)]) + title
        return SCHEME + _to_text(data)

    @classmethod
    def decode(cls, text: str) -> PrivateLink:
        """Read a link as people paste it: case, white space and hyphens do not matter.

        Raises ``LinkFormatError``: not a link, cut short, mistyped (and where), or from a newer pelure.
        An expired link is decoded; ask :meth:`expired`.
        """
        data = _from_text(text)
        if data[0] != VERSION:
            raise LinkFormatError(
                f"this link has format version {data[0]}, this pelure reads version {VERSION}: update pelure"
            )
        if len(data) < _FIXED_SIZE:
            raise LinkFormatError("this link is cut short: copy it again, whole")
        keys = [data[1 + KEY_SIZE * i : 1 + KEY_SIZE * (i + 1)] for i in range(3)]
        secret = data[1 + 3 * KEY_SIZE : _FIXED_SIZE]
        fields = _read_fields(data[_FIXED_SIZE:])
        expiry = fields.get(FieldType.EXPIRY)
        if expiry is not None and len(expiry) != 5:
            raise LinkFormatError("this link's expiry is malformed: ask for a new link")
        return cls(
            onion_key=keys[0],
            drive_key=keys[1],
            content_key=keys[2],
            secret=secret,
            expires=None if expiry is None else int.from_bytes(expiry, "big"),
            title=printable(fields.get(FieldType.TITLE, b"").decode("utf-8", "replace")),
        )


def split_path(text: str) -> tuple[str, str]:
    """Cut ``LINK/path`` into the link and the path (with its slash; ``/`` if there is none)."""
    link, slash, path = text.strip().partition("/")
    return link, slash + path if path else "/"


def printable(text: str) -> str:
    """``text`` without control and invisible direction characters, which could fake what a person sees."""
    return "".join(filter(str.isprintable, text))


def _cut_utf8(text: str, limit: int) -> bytes:
    return printable(text).encode()[:limit].decode("utf-8", "ignore").encode()


def _read_fields(data: bytes) -> dict[int, bytes]:
    fields: dict[int, bytes] = {}
    while data.strip(b"\0"):  # the text form may have added one zero byte to fill its last symbol
        if len(data) < 2 or len(data) < 2 + data[1]:
            raise LinkFormatError("this link is cut short: copy it again, whole")
        kind, value, data = data[0], data[2 : 2 + data[1]], data[2 + data[1] :]
        if kind % 2 == 0 and kind not in set(FieldType):
            raise LinkFormatError("this link needs something that this pelure does not know: update pelure")
        fields[kind] = value
    return fields


def _to_text(data: bytes) -> str:
    """Bytes as characters: 5-bit groups, an even number of them, then the checksum."""
    bits = len(data) * 8
    groups = -(-bits // 5)
    groups += groups % 2
    number = int.from_bytes(data, "big") << (groups * 5 - bits)
    values = [(number >> (5 * (groups - 1 - i))) & 31 for i in range(groups)]
    symbols = [values[i] * 32 + values[i + 1] for i in range(0, groups, 2)]
    symbols += check_symbols(symbols)
    return "".join(ALPHABET[s >> 5] + ALPHABET[s & 31] for s in symbols)


def _from_text(text: str) -> bytes:
    body = _IGNORED.sub("", text)
    if body[: len(SCHEME)].lower() != SCHEME:
        raise LinkFormatError("this is not a private link: one begins with «pelure:»")
    body = body[len(SCHEME) :].lower()
    if len(body) > MAX_SIZE * 8 // 5 + 10:
        raise LinkFormatError("this is too long for a private link: copy just the link")
    for position, character in enumerate(body, 1):
        if character not in _VALUES:
            raise LinkFormatError(
                f"character {position} after «pelure:» is {printable(character)!r}, which no link has: "
                "look at that place again"
            )
    if len(body) < 2 * CHECK_SYMBOLS + 2:
        raise LinkFormatError("this link is cut short: copy it again, whole")
    if len(body) % 2:
        raise LinkFormatError("this link lacks a character or has one too many: copy it again, whole")
    symbols = [_VALUES[body[i]] * 32 + _VALUES[body[i + 1]] for i in range(0, len(body), 2)]
    if any(syndromes(symbols)):
        raise LinkFormatError(_where_mistyped(body, symbols))
    number = 0
    for symbol in symbols[:-CHECK_SYMBOLS]:
        number = number << 10 | symbol
    bits = 10 * (len(symbols) - CHECK_SYMBOLS)
    spare = bits % 8
    if number & ((1 << spare) - 1):
        raise LinkFormatError("this link is malformed: ask for a new one")
    return (number >> spare).to_bytes(bits // 8, "big")


def _where_mistyped(body: str, symbols: list[int]) -> str:
    found = locate_error(symbols)
    if found is None:
        return "this link is mistyped in several places or cut: copy it again, whole"
    index, symbol = found
    right = ALPHABET[symbol >> 5] + ALPHABET[symbol & 31]
    wrong = body[2 * index : 2 * index + 2]
    places = [2 * index + 1 + i for i in (0, 1) if wrong[i] != right[i]]
    name = " and ".join(str(place) for place in places)
    return f"this link is mistyped at character {name} after «pelure:» («{wrong}» there should be «{right}»)"
