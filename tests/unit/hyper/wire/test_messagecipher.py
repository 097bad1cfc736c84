"""The cipher of secret streams against libsodium's own (PyNaCl), both ways, also where keys change."""

from __future__ import annotations

import nacl.bindings as sodium
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import CryptoError
from pelure.hyper.wire.messagecipher import OVERHEAD, MessageCipher

KEY, HEADER = bytes(range(32)), bytes(range(100, 124))
TAGS = (
    sodium.crypto_secretstream_xchacha20poly1305_TAG_MESSAGE,
    sodium.crypto_secretstream_xchacha20poly1305_TAG_PUSH,
    sodium.crypto_secretstream_xchacha20poly1305_TAG_REKEY,
    sodium.crypto_secretstream_xchacha20poly1305_TAG_FINAL,
)
FAST = settings(deadline=None, max_examples=50)


def libsodium() -> sodium.crypto_secretstream_xchacha20poly1305_state:
    """libsodium's state, which is the same for both directions."""
    state = sodium.crypto_secretstream_xchacha20poly1305_state()
    sodium.crypto_secretstream_xchacha20poly1305_init_pull(state, HEADER, KEY)
    return state


def sealed(cipher: MessageCipher, message: bytes) -> bytes:
    out = bytearray(len(message) + OVERHEAD)
    cipher.seal((message[:5], message[5:]), memoryview(out))
    return bytes(out)


@FAST
@given(st.lists(st.binary(max_size=200), max_size=6))
def test_libsodium_seals_the_same(messages: list[bytes]) -> None:
    state, cipher = libsodium(), MessageCipher(KEY, HEADER)
    for message in messages:
        expected = sodium.crypto_secretstream_xchacha20poly1305_push(state, message)
        assert sealed(cipher, message) == expected


@FAST
@given(st.lists(st.tuples(st.binary(max_size=200), st.sampled_from(TAGS)), max_size=6))
def test_what_libsodium_sealed_is_opened_whatever_its_tag(messages: list[tuple[bytes, int]]) -> None:
    state, cipher = libsodium(), MessageCipher(KEY, HEADER)
    for message, tag in messages:
        found = sodium.crypto_secretstream_xchacha20poly1305_push(state, message, None, tag)
        assert cipher.open(memoryview(found)) == message


@pytest.mark.parametrize("size", [0, 1, 15, 16, 63, 64, 65, 65_536, 100_001])
def test_messages_of_any_size(size: int) -> None:
    message = bytes(i * 7 & 0xFF for i in range(size))
    state, cipher = libsodium(), MessageCipher(KEY, HEADER)
    for _ in range(2):
        opened, tag = sodium.crypto_secretstream_xchacha20poly1305_pull(state, sealed(cipher, message))
        assert (opened, tag) == (message, TAGS[0])


def test_the_key_changes_when_the_counter_is_used_up() -> None:
    """libsodium's state is its key, then the nonce that begins with the counter."""
    state, cipher = libsodium(), MessageCipher(KEY, HEADER)
    buffer = sodium.crypto_secretstream.ffi.buffer(state.statebuf)
    buffer[32:36] = b"\xff\xff\xff\xff"
    cipher._counter = 0xFFFFFFFF
    for message in (b"the last", b"the first", b"and another"):
        expected = sodium.crypto_secretstream_xchacha20poly1305_push(state, message)
        assert sealed(cipher, message) == expected


@pytest.mark.parametrize("at", [0, 1, 4, -1])
def test_a_changed_byte_is_noticed(at: int) -> None:
    data = bytearray(sealed(MessageCipher(KEY, HEADER), b"hello"))
    data[at] ^= 1
    with pytest.raises(CryptoError):
        MessageCipher(KEY, HEADER).open(memoryview(data))


def test_no_key_in_the_repr() -> None:
    assert KEY.hex() not in repr(MessageCipher(KEY, HEADER))
