"""C tor's client authorization files: ``NAME.auth`` and ``NAME.auth_private`` (rend-spec-v3 App. G.1)."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from pelure.errors import ConfigError
from pelure.tor.crypto.address import decode_address, encode_address
from pelure.tor.onion.client_auth import ClientAuthKey

AUTH_SUFFIX = ".auth"
AUTH_PRIVATE_SUFFIX = ".auth_private"
_SCHEME = "descriptor:x25519"
_MAX_FILE = 1024


def encode_auth(public: bytes) -> str:
    """Return the content of a ``.auth`` file for a client's 32-byte X25519 public key."""
    return f"{_SCHEME}:{_base32(public)}\n"


def decode_auth(text: str) -> bytes:
    """Return the 32-byte X25519 public key of a ``.auth`` file. Raises :class:`ConfigError`."""
    fields = _fields(text, "a .auth file")
    if len(fields) != 3 or ":".join(fields[:2]) != _SCHEME:
        raise ConfigError("a .auth file must hold descriptor:x25519:PUBLIC-KEY")
    return _key(fields[2])


@dataclass(frozen=True)
class AuthPrivate:
    """The content of a ``.auth_private`` file: whose key opens which service (its 32-byte identity key)."""

    identity: bytes
    key: ClientAuthKey

    def encode(self) -> str:
        """Return the file's content; it holds the secret key."""
        address = encode_address(self.identity).removesuffix(".onion")
        return f"{address}:{_SCHEME}:{_base32(self.key.secret)}\n"

    @classmethod
    def decode(cls, text: str) -> AuthPrivate:
        """Read a file's content. Raises :class:`ConfigError`."""
        fields = _fields(text, "a .auth_private file")
        if len(fields) != 4 or ":".join(fields[1:3]) != _SCHEME:
            raise ConfigError("a .auth_private file must hold ADDRESS:descriptor:x25519:SECRET-KEY")
        secret = _key(fields[3])
        if not any(secret):
            raise ConfigError("a client key of zeros can't be used")
        return cls(decode_address(fields[0].lower().removesuffix(".onion") + ".onion"), ClientAuthKey(secret))


def _fields(text: str, what: str) -> list[str]:
    if len(text) > _MAX_FILE:
        raise ConfigError(f"{what} is too long")
    return text.strip().split(":")


def _base32(key: bytes) -> str:
    return base64.b32encode(key).decode("ascii").rstrip("=")


def _key(text: str) -> bytes:
    try:
        key = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError) as error:
        raise ConfigError("a client authorization key is not valid base32") from error
    if len(key) != 32:
        raise ConfigError("a client authorization key must be 32 bytes, 52 characters of base32")
    return key
