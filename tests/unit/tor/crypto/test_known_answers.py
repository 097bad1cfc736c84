"""Published known answers of the handshakes, key derivation and key blinding."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pelure.tor.crypto import blinding, hs_ntor, kdf, ntor, ntor_v3
from pelure.tor.crypto.address import decode_address, encode_address
from pelure.tor.crypto.digests import shake256
from pelure.tor.crypto.keys import (
    Ed25519KeyPair,
    ed25519_keypair_from_x25519,
    ed25519_public_from_x25519,
    ed25519_verify,
    x25519_public,
)

VECTORS = Path(__file__).parents[3] / "vectors" / "crypto"


def load(name: str) -> Any:
    return json.loads((VECTORS / name).read_text())


def unhex(vector: dict[str, str]) -> dict[str, bytes]:
    return {key: bytes.fromhex(value) for key, value in vector.items() if key != "origin"}


def fixed_rng(*values: bytes) -> Any:
    """A random source that hands out ``values`` in turn."""
    source: Iterator[bytes] = iter(values)

    def rng(n: int) -> bytes:
        value = next(source)
        assert len(value) == n
        return value

    return rng


@pytest.mark.parametrize("vector", load("hkdf.json")["vectors"])
def test_hkdf_with_ntor_salt_and_info(vector: dict[str, str]) -> None:
    protoid = b"ntor-curve25519-sha256-1"
    out = kdf.hkdf_sha256(vector["input"].encode(), protoid + b":key_extract", protoid + b":key_expand", 100)
    assert out.hex() == vector["output"]


def test_kdf_tor_is_the_iterated_sha1() -> None:
    k0 = b"shared secret"
    blocks = b"".join(hashlib.sha1(k0 + bytes([i])).digest() for i in range(5))
    assert kdf.kdf_tor(k0, 92) == blocks[:92]


def test_ntor() -> None:
    v = unhex(load("ntor.json"))
    state, handshake = ntor.client_start(v["node_id"], v["onion_public"], fixed_rng(v["client_secret"]))
    assert handshake == v["client_handshake"]
    reply, keys = ntor.server(
        handshake, v["node_id"], {v["onion_public"]: v["onion_secret"]}, fixed_rng(v["server_secret"])
    )
    assert (reply, keys) == (v["server_handshake"], v["key_material"])
    assert ntor.client_finish(state, reply) == v["key_material"]


def test_ntor_v3() -> None:
    v = unhex(load("ntor_v3.json"))
    state, handshake = ntor_v3.client_start(
        v["ID"], v["B_public"], v["CM"], fixed_rng(v["x_secret"]), verification=v["VER"]
    )
    assert handshake == v["client_handshake"]

    def respond(message: bytes) -> bytes:
        assert message == v["CM"]
        return v["SM"]

    reply, keystream = ntor_v3.server(
        handshake,
        v["ID"],
        {v["B_public"]: v["b_secret"]},
        respond,
        fixed_rng(v["y_secret"]),
        n=256,
        verification=v["VER"],
    )
    assert (reply, keystream) == (v["server_handshake"], v["KEYSTREAM"])
    assert ntor_v3.client_finish(state, reply, n=256) == (v["SM"], v["KEYSTREAM"])


def test_hs_ntor() -> None:
    v = unhex(load("hs_ntor.json"))
    auth_key, enc_key, enc_secret = v["kp_hs_ipd_sid"], v["kp_hss_ntor"], v["ks_hss_ntor"]
    state, encrypted = hs_ntor.client_introduce(
        auth_key, enc_key, v["n_hs_subcred"], v["h"], v["p"], fixed_rng(v["client_secret"])
    )
    assert v["h"] + encrypted == v["introduce1_body"]

    plaintext, subcredential, service = hs_ntor.service_open(
        enc_secret, enc_key, auth_key, [bytes(32), v["n_hs_subcred"]], v["h"], encrypted
    )
    assert (plaintext, subcredential) == (v["p"], v["n_hs_subcred"])
    assert service.client_public == v["client_public"]
    info, service_keys = hs_ntor.service_rendezvous(service, fixed_rng(v["service_secret"]))
    assert info == v["service_public"] + v["auth_input_mac"]

    expansion = v["ntor_key_seed"] + b"tor-hs-ntor-curve25519-sha3-256-1:hs_key_expand"
    assert service_keys == shake256(expansion, 128)
    assert hs_ntor.client_rendezvous(state, info) == service_keys


@pytest.mark.parametrize("vector", load("ed25519_blinding.json")["vectors"])
def test_ed25519_expansion_blinding_and_signatures(vector: dict[str, str]) -> None:
    v = unhex(vector)
    pair = Ed25519KeyPair.from_seed(v["seed"])
    assert (pair.expanded, pair.public) == (v["expanded"], v["public"])
    # Each vector signs its own public key.
    assert pair.sign(pair.public) == v["self_signature"]

    blinded = blinding.blind_keypair(pair, v["blinding_param"])
    assert (blinded.expanded, blinded.public) == (v["blinded_expanded"], v["blinded_public"])
    assert blinding.blind_public(pair.public, v["blinding_param"]) == v["blinded_public"]
    ed25519_verify(blinded.public, blinded.sign(b"message"), b"message")


@pytest.mark.parametrize("vector", load("ed25519_blinding.json")["vectors"])
def test_x25519_to_ed25519(vector: dict[str, str]) -> None:
    v = unhex(vector)
    # The scalar of an expanded Ed25519 secret is the X25519 secret of the birational image.
    assert x25519_public(v["expanded"][:32]) == v["curve25519_public"]
    sign_bit = v["public"][31] >> 7
    assert ed25519_public_from_x25519(v["curve25519_public"], sign_bit) == v["public"]
    pair, bit = ed25519_keypair_from_x25519(v["expanded"][:32])
    assert (pair.public, bit) == (v["public"], sign_bit)
    ed25519_verify(pair.public, pair.sign(b"identity"), b"identity")


def test_onion_address() -> None:
    # C tor, src/test/hs_build_address.py and test_hs_common.c
    public = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    address = "25njqamcweflpvkl73j4szahhihoc4xt3ktcgjnpaingr5yhkenl5sid.onion"
    assert encode_address(public) == address
    assert decode_address(address) == public
