"""C tor's file formats: identity keys and client authorization (rend-spec-v3 App. F, G)."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import ConfigError
from pelure.tor.crypto.address import encode_address
from pelure.tor.crypto.keys import Ed25519KeyPair
from pelure.tor.onion.auth_files import AuthPrivate, decode_auth, encode_auth
from pelure.tor.onion.client_auth import ClientAuthKey
from pelure.tor.onion.key_files import (
    decode_public_key,
    decode_secret_key,
    encode_public_key,
    encode_secret_key,
)

EXAMPLE = "descriptor:x25519:OM7TGIVRYMY6PFX6GAC6ATRTA5U6WW6U7A4ZNHQDI6OVL52XVV2Q"


def test_the_specifications_example_of_an_auth_file() -> None:
    assert encode_auth(decode_auth(EXAMPLE + "\n")) == EXAMPLE + "\n"


def test_an_auth_private_file_survives_a_round_trip_and_hides_its_key() -> None:
    pair, key = Ed25519KeyPair.generate(os.urandom), ClientAuthKey.generate(os.urandom)
    entry = AuthPrivate(pair.public, key)
    text = entry.encode()
    assert text.startswith(encode_address(pair.public).removesuffix(".onion") + ":descriptor:x25519:")
    assert AuthPrivate.decode(text) == entry
    assert AuthPrivate.decode(text.replace(":descriptor", ".onion:descriptor", 1)) == entry
    assert key.secret.hex() not in repr(entry)
    assert str(key.secret) not in repr(entry)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "descriptor:x25519",
        "descriptor:ed25519:" + "A" * 52,
        EXAMPLE[:-1],
        EXAMPLE + "!",
        "a" * 2000,
        EXAMPLE + ":x",
    ],
)
def test_malformed_auth_files_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        decode_auth(text)


def test_a_client_key_of_zeros_is_refused() -> None:
    address = encode_address(Ed25519KeyPair.generate(os.urandom).public).removesuffix(".onion")
    with pytest.raises(ConfigError):
        AuthPrivate.decode(f"{address}:descriptor:x25519:{'A' * 52}")


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=120))
def test_any_text_is_read_or_refused(text: str) -> None:
    for decode in (decode_auth, AuthPrivate.decode):
        with pytest.raises(ConfigError):
            decode(text)


def test_key_files_are_tagged_as_c_tor_tags_them() -> None:
    secret = encode_secret_key(b"s" * 64)
    public = encode_public_key(b"p" * 32)
    assert secret[:32] == b"== ed25519v1-secret: type0 ==\0\0\0"
    assert public[:32] == b"== ed25519v1-public: type0 ==\0\0\0"
    assert decode_secret_key(secret) == b"s" * 64
    assert decode_public_key(public) == b"p" * 32


@pytest.mark.parametrize(
    "content", [b"", b"x" * 96, encode_public_key(b"p" * 32), encode_secret_key(b"s" * 63)]
)
def test_other_content_is_refused(content: bytes) -> None:
    with pytest.raises(ConfigError):
        decode_secret_key(content)
