"""z-base-32, the text form of Hypercore keys (alphabet of the z-base-32 design note; npm ``z32``).

Bits are taken big-endian in groups of five and zero-padded: 32 bytes are 52 characters.
"""

from __future__ import annotations

from pelure.errors import ConfigError

ALPHABET = "ybndrfg8ejkmcpqxot1uwisza345h769"
_VALUES = {character: value for value, character in enumerate(ALPHABET)}
KEY_CHARACTERS = 52
_SCHEME = "pear://"


def encode(data: bytes) -> str:
    """Return ``data`` in z-base-32."""
    count = (len(data) * 8 + 4) // 5
    bits = int.from_bytes(data, "big") << (count * 5 - len(data) * 8)
    return "".join(ALPHABET[bits >> 5 * place & 31] for place in range(count - 1, -1, -1))


def decode(text: str) -> bytes:
    """Return the whole bytes in ``text``. Raises ``ConfigError`` for a character outside the alphabet."""
    bits = 0
    for position, character in enumerate(text):
        value = _VALUES.get(character)
        if value is None:
            raise ConfigError(f"{character!r} at position {position + 1} is not a z-base-32 character")
        bits = bits << 5 | value
    size = len(text) * 5 // 8
    return (bits >> (len(text) * 5 - size * 8)).to_bytes(size, "big")


def decode_key(text: str) -> bytes:
    """Return the 32-byte key written as z-base-32 or hex, with or without ``pear://`` before it.

    Raises ``ConfigError`` when ``text`` is neither.
    """
    text = text.strip()
    if text.startswith(_SCHEME):
        text = text.removeprefix(_SCHEME).partition("/")[0]
    if len(text) == KEY_CHARACTERS:
        return decode(text)
    if len(text) == 64:
        try:
            return bytes.fromhex(text)
        except ValueError:
            pass
    raise ConfigError("a drive key is 64 hexadecimal or 52 z-base-32 characters")
