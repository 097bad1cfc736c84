"""Client authorization: the descriptor cookie, encrypted to each authorized client (rend-spec-v3 2.5.1.2).

The cookie is 16 bytes, as C tor and proposal 224 have it (the specification's text says 32 in one place).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pelure.errors import ConfigError, CryptoError
from pelure.tor.crypto.ciphers import aes_ctr
from pelure.tor.crypto.digests import equal, shake256
from pelure.tor.crypto.keys import Rng, x25519, x25519_generate, x25519_public

CLIENT_ID_LEN = 8
IV_LEN = 16
COOKIE_LEN = 16
_COOKIE_KEY_LEN = 32
CLIENT_MULTIPLE = 16


@dataclass(frozen=True)
class AuthClient:
    """One ``auth-client`` entry: the descriptor cookie for the client that finds its ``client_id``."""

    client_id: bytes
    iv: bytes
    encrypted_cookie: bytes

    @classmethod
    def fake(cls, rng: Rng) -> AuthClient:
        """Return an entry for nobody, indistinguishable from the others."""
        return cls(rng(CLIENT_ID_LEN), rng(IV_LEN), rng(COOKIE_LEN))


@dataclass(frozen=True)
class ClientAuthSection:
    """The client authorization part of a first layer: real and fake entries look alike."""

    ephemeral_key: bytes
    clients: tuple[AuthClient, ...]

    def find_cookie(self, client_secrets: Iterable[bytes], subcredential: bytes) -> bytes | None:
        """Return the descriptor cookie if one of the X25519 secrets belongs to an entry, else ``None``."""
        for secret in client_secrets:
            try:
                shared = x25519(secret, self.ephemeral_key)
            except CryptoError:
                continue
            client_id, cookie_key = _derive(shared, subcredential)
            for client in self.clients:
                if equal(client.client_id, client_id):
                    return aes_ctr(cookie_key, client.encrypted_cookie, client.iv)
        return None


def authorize(
    client_keys: Sequence[bytes], subcredential: bytes, rng: Rng
) -> tuple[ClientAuthSection, bytes | None]:
    """Make the section and descriptor cookie for these clients' 32-byte X25519 public keys.

    Without clients the entries are all fake and the cookie is ``None``. The number of entries is a multiple
    of 16 and their order says nothing. Raises :class:`ConfigError` for a key no secret can be shared with.
    """
    ephemeral_secret, ephemeral_public = x25519_generate(rng)
    cookie = rng(COOKIE_LEN) if client_keys else None
    clients = (
        [_entry(ephemeral_secret, key, subcredential, cookie, rng) for key in client_keys] if cookie else []
    )
    while not clients or len(clients) % CLIENT_MULTIPLE:
        clients.append(AuthClient.fake(rng))
    clients.sort(key=lambda client: client.client_id)
    return ClientAuthSection(ephemeral_public, tuple(clients)), cookie


def _entry(ephemeral_secret: bytes, key: bytes, subcredential: bytes, cookie: bytes, rng: Rng) -> AuthClient:
    try:
        client_id, cookie_key = _derive(x25519(ephemeral_secret, key), subcredential)
    except CryptoError as error:
        raise ConfigError("an authorized client's key is not a usable X25519 public key") from error
    iv = rng(IV_LEN)
    return AuthClient(client_id, iv, aes_ctr(cookie_key, cookie, iv))


def _derive(shared: bytes, subcredential: bytes) -> tuple[bytes, bytes]:
    keys = shake256(subcredential + shared, CLIENT_ID_LEN + _COOKIE_KEY_LEN)
    return keys[:CLIENT_ID_LEN], keys[CLIENT_ID_LEN:]


@dataclass(frozen=True)
class ClientAuthKey:
    """A client's X25519 key pair for restricted discovery (``KS_hsc_desc_enc``)."""

    secret: bytes = field(repr=False)

    @classmethod
    def generate(cls, rng: Rng) -> ClientAuthKey:
        """Make a new key pair."""
        return cls(x25519_generate(rng)[0])

    @property
    def public(self) -> bytes:
        """The 32-byte public key that the service is told."""
        return x25519_public(self.secret)
