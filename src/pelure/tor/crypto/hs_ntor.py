"""The hs-ntor handshake between an onion client and an onion service (rend-spec-v3 3.3.2, 4.2.1).

The client seals its INTRODUCE1 payload with :func:`client_introduce`, the service opens it with
:func:`service_open`, answers with :func:`service_rendezvous`, and the client ends with
:func:`client_rendezvous`. Both get :data:`KEY_MATERIAL_LEN` bytes: Df, Db, Kf, Kb of 32 bytes each for
the virtual hop (AES-256, SHA3-256).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pelure.errors import CryptoError
from pelure.tor.crypto.ciphers import aes_ctr
from pelure.tor.crypto.digests import equal, hs_mac, shake256
from pelure.tor.crypto.keys import Rng, x25519, x25519_generate

KEY_MATERIAL_LEN = 128
HANDSHAKE_INFO_LEN = 64
MIN_ENCRYPTED_LEN = 64

_PROTOID = b"tor-hs-ntor-curve25519-sha3-256-1"
_T_HSENC = _PROTOID + b":hs_key_extract"
_T_HSVERIFY = _PROTOID + b":hs_verify"
_T_HSMAC = _PROTOID + b":hs_mac"
_M_HSEXPAND = _PROTOID + b":hs_key_expand"


@dataclass(frozen=True, slots=True)
class ClientState:
    """What a client remembers between INTRODUCE1 and RENDEZVOUS2."""

    auth_key: bytes
    enc_key: bytes
    secret: bytes = field(repr=False)
    public: bytes
    shared: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ServiceState:
    """What a service remembers between INTRODUCE2 and RENDEZVOUS1."""

    auth_key: bytes
    enc_key: bytes
    client_public: bytes
    shared: bytes = field(repr=False)


def client_introduce(
    auth_key: bytes, enc_key: bytes, subcredential: bytes, header: bytes, plaintext: bytes, rng: Rng
) -> tuple[ClientState, bytes]:
    """Seal ``plaintext`` for the service behind one introduction point.

    ``auth_key`` is the introduction point's Ed25519 authentication key, ``enc_key`` its X25519 encryption
    key B, ``header`` the INTRODUCE1 body up to ENCRYPTED. Returns the state and the ENCRYPTED part:
    client's key (32 bytes), ciphertext, MAC (32). Raises ``CryptoError`` for a bad ``enc_key``.
    """
    secret, public = x25519_generate(rng)
    shared = x25519(secret, enc_key)
    sealing_key, mac_key = _intro_keys(shared, auth_key, public, enc_key, subcredential)
    body = public + aes_ctr(sealing_key, plaintext)
    state = ClientState(auth_key, enc_key, secret, public, shared)
    return state, body + hs_mac(mac_key, header + body)


def client_rendezvous(state: ClientState, handshake_info: bytes) -> bytes:
    """Check RENDEZVOUS2's HANDSHAKE_INFO (64 bytes); returns 128 bytes of key material.

    Raises ``CryptoError`` if the service did not prove that it has its encryption key.
    """
    if len(handshake_info) < HANDSHAKE_INFO_LEN:
        raise CryptoError("the handshake in RENDEZVOUS2 has 64 bytes")
    y_public, auth = handshake_info[:32], handshake_info[32:HANDSHAKE_INFO_LEN]
    shared = x25519(state.secret, y_public) + state.shared
    expected, keys = _rendezvous_keys(shared, state.auth_key, state.enc_key, state.public, y_public)
    if not equal(expected, auth):
        raise CryptoError("the service's rendezvous handshake is wrong")
    return keys


def service_open(
    enc_secret: bytes,
    enc_key: bytes,
    auth_key: bytes,
    subcredentials: Iterable[bytes],
    header: bytes,
    encrypted: bytes,
) -> tuple[bytes, bytes, ServiceState]:
    """Open the ENCRYPTED part of an INTRODUCE2 with the one of ``subcredentials`` that it is sealed for.

    ``header`` is the INTRODUCE2 body up to ENCRYPTED. Returns the plaintext, the subcredential and the state.
    Raises ``CryptoError`` if it is too short, has a bad key, or its MAC fits none of them.
    """
    if len(encrypted) < MIN_ENCRYPTED_LEN:
        raise CryptoError("the encrypted part of an introduction is too short")
    body, mac = encrypted[:-32], encrypted[-32:]
    client_public = body[:32]
    shared = x25519(enc_secret, client_public)
    for subcredential in subcredentials:
        sealing_key, mac_key = _intro_keys(shared, auth_key, client_public, enc_key, subcredential)
        if equal(hs_mac(mac_key, header + body), mac):
            state = ServiceState(auth_key, enc_key, client_public, shared)
            return aes_ctr(sealing_key, body[32:]), subcredential, state
    raise CryptoError("an introduction is not sealed for any descriptor of the service")


def service_rendezvous(state: ServiceState, rng: Rng) -> tuple[bytes, bytes]:
    """The service's answer: ``(HANDSHAKE_INFO of 64 bytes for RENDEZVOUS1, 128 bytes of key material)``."""
    y_secret, y_public = x25519_generate(rng)
    shared = x25519(y_secret, state.client_public) + state.shared
    auth, keys = _rendezvous_keys(shared, state.auth_key, state.enc_key, state.client_public, y_public)
    return y_public + auth, keys


def _intro_keys(
    shared: bytes, auth_key: bytes, x: bytes, b: bytes, subcredential: bytes
) -> tuple[bytes, bytes]:
    """``(ENC_KEY, MAC_KEY)`` of 32 bytes each."""
    secret_input = shared + auth_key + x + b + _PROTOID
    keys = shake256(secret_input + _T_HSENC + _M_HSEXPAND + subcredential, 64)
    return keys[:32], keys[32:]


def _rendezvous_keys(shared: bytes, auth_key: bytes, b: bytes, x: bytes, y: bytes) -> tuple[bytes, bytes]:
    """``(AUTH_INPUT_MAC, key material)``."""
    secret_input = shared + auth_key + b + x + y + _PROTOID
    key_seed = hs_mac(secret_input, _T_HSENC)
    verify = hs_mac(secret_input, _T_HSVERIFY)
    auth = hs_mac(verify + auth_key + b + y + x + _PROTOID + b"Server", _T_HSMAC)
    return auth, shake256(key_seed + _M_HSEXPAND, KEY_MATERIAL_LEN)
