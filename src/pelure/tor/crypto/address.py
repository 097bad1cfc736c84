"""Onion addresses, version 3 (rend-spec-v3 section 6)."""

from __future__ import annotations

import base64
import binascii

from pelure.errors import ConfigError
from pelure.tor.crypto.digests import sha3_256
from pelure.tor.crypto.keys import ed25519_is_valid_point

VERSION = 3
LABEL_LEN = 56
_SUFFIX = ".onion"


def encode_address(public: bytes) -> str:
    """The ``….onion`` address (62 characters) of a 32-byte identity key."""
    raw = public + _checksum(public) + bytes([VERSION])
    return base64.b32encode(raw).decode("ascii").lower() + _SUFFIX


def decode_address(address: str) -> bytes:
    """The 32-byte identity key of an address; labels before it (``www.….onion``) and case don't matter.

    Raises ``ConfigError`` saying what is wrong with the address.
    """
    host = address.lower().rstrip(".")
    if not host.endswith(_SUFFIX):
        raise ConfigError("an onion address ends in .onion")
    label = host[: -len(_SUFFIX)].rsplit(".", 1)[-1]
    if len(label) == 16:
        raise ConfigError("this is a version 2 onion address; they stopped working in 2021")
    if len(label) != LABEL_LEN:
        raise ConfigError(f"an onion address has {LABEL_LEN} characters before .onion, this one {len(label)}")
    try:
        raw = base64.b32decode(label.upper().encode("ascii"))
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ConfigError("an onion address has only the letters a-z and the digits 2-7") from error
    public, checksum, version = raw[:32], raw[32:34], raw[34]
    if version != VERSION:
        raise ConfigError(f"an onion address of version {version}; only version {VERSION} is known")
    if checksum != _checksum(public):
        raise ConfigError("the checksum of this onion address is wrong: is a character mistyped?")
    if not ed25519_is_valid_point(public):
        raise ConfigError("this onion address holds no usable key")
    return public


def canonical(host: str) -> str:
    """An address under ``.onion`` in lower case without labels before it, so that equal ones are the same.

    Whether it can be one is not checked: :func:`decode_address` does that.
    """
    label = host.lower().rstrip(".").removesuffix(_SUFFIX).rsplit(".", 1)[-1]
    return label + _SUFFIX


def is_onion(host: str) -> bool:
    """Whether ``host`` is under ``.onion`` (well-formed or not)."""
    return host.lower().rstrip(".").endswith(_SUFFIX)


def _checksum(public: bytes) -> bytes:
    return sha3_256(b".onion checksum" + public + bytes([VERSION]))[:2]
