"""The ntor handshake (tor-spec 5.1.4, keys by KDF-RFC5869 of section 5.2.2).

Of the key material, the first 72 bytes are Df (20), Db (20), Kf (16), Kb (16), the next 20 are KH, the
nonce that ESTABLISH_INTRO is bound to: ask for :data:`KEY_MATERIAL_LEN`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pelure.errors import CryptoError
from pelure.tor.crypto.digests import equal, hmac_sha256
from pelure.tor.crypto.kdf import hkdf_expand_sha256
from pelure.tor.crypto.keys import Rng, x25519, x25519_generate

HANDSHAKE_TYPE = 2
KEY_MATERIAL_LEN = 92
CLIENT_LEN = 84
SERVER_LEN = 64

_PROTOID = b"ntor-curve25519-sha256-1"
_T_MAC = _PROTOID + b":mac"
_T_KEY = _PROTOID + b":key_extract"
_T_VERIFY = _PROTOID + b":verify"
_M_EXPAND = _PROTOID + b":key_expand"


@dataclass(frozen=True, slots=True)
class ClientState:
    """What a client remembers between its handshake and the reply."""

    rsa_id: bytes
    onion_key: bytes
    secret: bytes = field(repr=False)
    public: bytes


def client_start(rsa_id: bytes, onion_key: bytes, rng: Rng) -> tuple[ClientState, bytes]:
    """Begin with the relay whose RSA identity is ``rsa_id`` (20 bytes) and ntor key ``onion_key`` (32).

    Returns the state and the 84-byte handshake: node id, key id, client's public key.
    """
    secret, public = x25519_generate(rng)
    return ClientState(rsa_id, onion_key, secret, public), rsa_id + onion_key + public


def client_finish(state: ClientState, reply: bytes, n: int = KEY_MATERIAL_LEN) -> bytes:
    """Check the relay's 64-byte ``reply`` and return ``n`` bytes of key material; raises ``CryptoError``.

    C tor pads nothing here: a reply of another length is refused.
    """
    if len(reply) != SERVER_LEN:
        raise CryptoError("an ntor reply has 64 bytes")
    y_public, auth = reply[:32], reply[32:]
    shared = x25519(state.secret, y_public) + x25519(state.secret, state.onion_key)
    expected, seed = _derive(shared, state.rsa_id, state.onion_key, state.public, y_public)
    if not equal(expected, auth):
        raise CryptoError("the relay did not prove that it has its ntor key")
    return hkdf_expand_sha256(seed, _M_EXPAND, n)


def server(
    handshake: bytes, rsa_id: bytes, onion_keys: Mapping[bytes, bytes], rng: Rng, n: int = KEY_MATERIAL_LEN
) -> tuple[bytes, bytes]:
    """The relay's side: returns its 64-byte reply and ``n`` bytes of key material.

    ``onion_keys`` maps each ntor public key still accepted to its secret. Raises ``CryptoError`` for a
    handshake of the wrong length, for another relay or with an unknown key.
    """
    if len(handshake) != CLIENT_LEN:
        raise CryptoError("an ntor handshake has 84 bytes")
    node_id, onion_key, x_public = handshake[:20], handshake[20:52], handshake[52:]
    onion_secret = onion_keys.get(onion_key)
    if not equal(node_id, rsa_id) or onion_secret is None:
        raise CryptoError("an ntor handshake for another relay or with an unknown onion key")
    y_secret, y_public = x25519_generate(rng)
    shared = x25519(y_secret, x_public) + x25519(onion_secret, x_public)
    auth, seed = _derive(shared, rsa_id, onion_key, x_public, y_public)
    return y_public + auth, hkdf_expand_sha256(seed, _M_EXPAND, n)


def _derive(shared: bytes, rsa_id: bytes, b: bytes, x: bytes, y: bytes) -> tuple[bytes, bytes]:
    """The AUTH value and KEY_SEED of ``secret_input = EXP(Y,x) | EXP(B,x) | ID | B | X | Y | PROTOID``."""
    secret_input = shared + rsa_id + b + x + y + _PROTOID
    verify = hmac_sha256(_T_VERIFY, secret_input)
    auth_input = verify + rsa_id + b + y + x + _PROTOID + b"Server"
    return hmac_sha256(_T_MAC, auth_input), hmac_sha256(_T_KEY, secret_input)
