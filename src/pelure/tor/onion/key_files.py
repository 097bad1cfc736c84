"""The identity key files of a C tor ``HiddenServiceDir`` (rend-spec-v3 App. F, C tor's tagged key format).

A tag of 32 bytes, then the key: the 64-byte expanded secret key, or the 32-byte public key.
"""

from __future__ import annotations

from pelure.errors import ConfigError

SECRET_KEY_FILE = "hs_ed25519_secret_key"
PUBLIC_KEY_FILE = "hs_ed25519_public_key"
HOSTNAME_FILE = "hostname"
CLIENTS_FOLDER = "authorized_clients"
_TAG_LEN = 32
_SECRET_TAG = b"== ed25519v1-secret: type0 ==".ljust(_TAG_LEN, b"\0")
_PUBLIC_TAG = b"== ed25519v1-public: type0 ==".ljust(_TAG_LEN, b"\0")


def encode_secret_key(expanded: bytes) -> bytes:
    """Return the content of ``hs_ed25519_secret_key`` for a 64-byte expanded secret key."""
    return _SECRET_TAG + expanded


def decode_secret_key(content: bytes) -> bytes:
    """Return the 64-byte expanded secret key. Raises :class:`ConfigError` for anything else."""
    return _untagged(content, _SECRET_TAG, 64, SECRET_KEY_FILE)


def encode_public_key(public: bytes) -> bytes:
    """Return the content of ``hs_ed25519_public_key`` for a 32-byte public key."""
    return _PUBLIC_TAG + public


def decode_public_key(content: bytes) -> bytes:
    """Return the 32-byte public key. Raises :class:`ConfigError` if ``content`` is something else."""
    return _untagged(content, _PUBLIC_TAG, 32, PUBLIC_KEY_FILE)


def _untagged(content: bytes, tag: bytes, length: int, name: str) -> bytes:
    if len(content) != _TAG_LEN + length or not content.startswith(tag):
        raise ConfigError(f"{name} is not an Ed25519 key file of an onion service")
    return content[_TAG_LEN:]
