"""The ntor-v3 handshake with its encrypted messages (proposal 332, tor-spec 5.1.4.1).

The messages of both sides are extension lists (``pelure.tor.cell.extensions``). Of the keystream, the first
92 bytes are Df, Db (20 each), Kf, Kb (16 each), KH (20).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pelure.errors import CryptoError
from pelure.tor.crypto.ciphers import aes_ctr
from pelure.tor.crypto.digests import equal, sha3_256, shake256
from pelure.tor.crypto.keys import Rng, x25519, x25519_generate

HANDSHAKE_TYPE = 3
KEY_MATERIAL_LEN = 92
CIRCUIT_VERIFICATION = b"circuit extend"
"""The verification string of handshakes in CREATE2 and EXTEND2 cells."""

_PROTOID = b"ntor3-curve25519-sha3_256-1"
_MIN_CLIENT = 128
_MIN_SERVER = 64
_ENC_KEY_LEN = 32


def _encap(data: bytes) -> bytes:
    return len(data).to_bytes(8, "big") + data


_T_MSGKDF = _encap(_PROTOID + b":kdf_phase1")
_T_MSGMAC = _encap(_PROTOID + b":msg_mac")
_T_KEY_SEED = _encap(_PROTOID + b":key_seed")
_T_VERIFY = _encap(_PROTOID + b":verify")
_T_FINAL = _encap(_PROTOID + b":kdf_final")
_T_AUTH = _encap(_PROTOID + b":auth_final")


@dataclass(frozen=True, slots=True)
class ClientState:
    """What a client remembers between its handshake and the reply."""

    ed_id: bytes
    onion_key: bytes
    secret: bytes = field(repr=False)
    public: bytes
    shared: bytes = field(repr=False)
    mac: bytes
    verification: bytes


def client_start(
    ed_id: bytes,
    onion_key: bytes,
    message: bytes,
    rng: Rng,
    verification: bytes = CIRCUIT_VERIFICATION,
) -> tuple[ClientState, bytes]:
    """Begin with the relay of Ed25519 identity ``ed_id`` and ntor key ``onion_key`` (32 bytes each).

    ``message`` goes along encrypted (not forward secret). Returns the state and the handshake, of
    128 bytes and the message's length.
    """
    secret, public = x25519_generate(rng)
    shared = x25519(secret, onion_key)
    enc_key, mac_key = _phase1_keys(shared, ed_id, public, onion_key, verification)
    encrypted = aes_ctr(enc_key, message)
    mac = _message_mac(mac_key, ed_id, onion_key, public, encrypted)
    state = ClientState(ed_id, onion_key, secret, public, shared, mac, verification)
    return state, ed_id + onion_key + public + encrypted + mac


def client_finish(state: ClientState, reply: bytes, n: int = KEY_MATERIAL_LEN) -> tuple[bytes, bytes]:
    """Check the relay's ``reply``; returns its message and ``n`` bytes of key material.

    Raises ``CryptoError``.
    """
    if len(reply) < _MIN_SERVER:
        raise CryptoError("an ntor-v3 reply has at least 64 bytes")
    y_public, auth, encrypted = reply[:32], reply[32:64], reply[64:]
    secret_input = _secret_input(
        x25519(state.secret, y_public) + state.shared,
        state.ed_id,
        state.onion_key,
        state.public,
        y_public,
        state.verification,
    )
    expected = _auth(secret_input, state.ed_id, state.onion_key, y_public, state.public, state.mac, encrypted)
    if not equal(expected, auth):
        raise CryptoError("the relay did not prove that it has its ntor key")
    enc_key, keystream = _final_keys(secret_input, n)
    return aes_ctr(enc_key, encrypted), keystream


def server(
    handshake: bytes,
    ed_id: bytes,
    onion_keys: Mapping[bytes, bytes],
    respond: Callable[[bytes], bytes],
    rng: Rng,
    n: int = KEY_MATERIAL_LEN,
    verification: bytes = CIRCUIT_VERIFICATION,
) -> tuple[bytes, bytes]:
    """The relay's side: returns its reply and ``n`` bytes of key material.

    ``onion_keys`` maps each ntor public key still accepted to its secret; ``respond`` gets the client's
    message and returns the relay's, or raises ``ProtocolError`` to refuse. Raises ``CryptoError`` for a
    handshake that is too short, for another relay, with an unknown key or a wrong MAC.
    """
    if len(handshake) < _MIN_CLIENT:
        raise CryptoError("an ntor-v3 handshake has at least 128 bytes")
    node_id, onion_key, x_public = handshake[:32], handshake[32:64], handshake[64:96]
    encrypted, mac = handshake[96:-32], handshake[-32:]
    onion_secret = onion_keys.get(onion_key)
    if not equal(node_id, ed_id) or onion_secret is None:
        raise CryptoError("an ntor-v3 handshake for another relay or with an unknown onion key")
    shared = x25519(onion_secret, x_public)
    enc_key, mac_key = _phase1_keys(shared, ed_id, x_public, onion_key, verification)
    if not equal(_message_mac(mac_key, ed_id, onion_key, x_public, encrypted), mac):
        raise CryptoError("the MAC of an ntor-v3 handshake is wrong")
    message = respond(aes_ctr(enc_key, encrypted))

    y_secret, y_public = x25519_generate(rng)
    secret_input = _secret_input(
        x25519(y_secret, x_public) + shared, ed_id, onion_key, x_public, y_public, verification
    )
    reply_key, keystream = _final_keys(secret_input, n)
    sealed = aes_ctr(reply_key, message)
    auth = _auth(secret_input, ed_id, onion_key, y_public, x_public, mac, sealed)
    return y_public + auth + sealed, keystream


def _phase1_keys(shared: bytes, ed_id: bytes, x: bytes, b: bytes, verification: bytes) -> tuple[bytes, bytes]:
    keys = shake256(_T_MSGKDF + shared + ed_id + x + b + _PROTOID + _encap(verification), 64)
    return keys[:32], keys[32:]


def _message_mac(mac_key: bytes, ed_id: bytes, b: bytes, x: bytes, encrypted: bytes) -> bytes:
    return sha3_256(_T_MSGMAC + _encap(mac_key) + ed_id + b + x + encrypted)


def _secret_input(shared: bytes, ed_id: bytes, b: bytes, x: bytes, y: bytes, verification: bytes) -> bytes:
    return shared + ed_id + b + x + y + _PROTOID + _encap(verification)


def _auth(
    secret_input: bytes, ed_id: bytes, b: bytes, y: bytes, x: bytes, mac: bytes, sealed: bytes
) -> bytes:
    verify = sha3_256(_T_VERIFY + secret_input)
    return sha3_256(_T_AUTH + verify + ed_id + b + y + x + mac + _encap(sealed) + _PROTOID + b"Server")


def _final_keys(secret_input: bytes, n: int) -> tuple[bytes, bytes]:
    seed = sha3_256(_T_KEY_SEED + secret_input)
    raw = shake256(_T_FINAL + seed, _ENC_KEY_LEN + n)
    return raw[:_ENC_KEY_LEN], raw[_ENC_KEY_LEN:]
