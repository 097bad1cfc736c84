"""compact-encoding, the protobuf subset and z-base-32 against npm's bytes, and with arbitrary ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import ConfigError, ProtocolError
from pelure.hyper.encoding import protobuf, z32
from pelure.hyper.encoding.compact import MAX_ARRAY, MAX_UINT, Reader, Writer, encode_uint

VECTORS = json.loads((Path(__file__).parents[3] / "vectors" / "hyper" / "wire.json").read_text())
FAST = settings(deadline=None, max_examples=100)


@pytest.mark.parametrize("vector", VECTORS["uint"], ids=lambda vector: str(vector["value"]))
def test_uint_is_npm_s(vector: dict) -> None:
    assert encode_uint(vector["value"]).hex() == vector["encoded"]
    w = Writer()
    w.uint(vector["value"])
    assert w.bytes().hex() == vector["encoded"]
    assert Reader(w.bytes()).uint() == vector["value"]


def test_string_is_npm_s() -> None:
    for vector in VECTORS["string"]:
        w = Writer()
        w.string(vector["value"])
        assert w.bytes().hex() == vector["encoded"]
        assert Reader(w.bytes()).string() == vector["value"]


def test_longer_forms_of_an_integer_are_accepted() -> None:
    assert Reader(bytes.fromhex("fd0500")).uint() == 5
    assert Reader(bytes.fromhex("ff0500000000000000")).uint() == 5


def test_integers_above_2_53_are_refused() -> None:
    with pytest.raises(ProtocolError):
        Reader(b"\xff" * 9).uint()
    with pytest.raises(ValueError):
        encode_uint(MAX_UINT + 1)


def test_null_and_fixed_fields() -> None:
    w = Writer()
    w.buffer(None)
    w.fixed32(bytes(32))
    w.fixed64(bytes(64))
    w.uint64(2**64 - 1)
    w.raw(b"rest")
    r = Reader(w.bytes())
    assert r.optional_buffer() is None
    assert (r.fixed32(), r.fixed64(), r.uint64(), r.rest()) == (bytes(32), bytes(64), 2**64 - 1, b"rest")
    with pytest.raises(ValueError):
        w.fixed32(b"short")


def test_an_array_longer_than_the_message_is_refused_at_once() -> None:
    with pytest.raises(ProtocolError):
        Reader(encode_uint(1000) + bytes(100)).count(34)
    with pytest.raises(ProtocolError):
        Reader(encode_uint(MAX_ARRAY + 1) + bytes(10)).count(0)


@FAST
@given(st.integers(0, MAX_UINT))
def test_uint_round_trip(value: int) -> None:
    r = Reader(encode_uint(value))
    assert r.uint() == value and r.remaining == 0


@FAST
@given(st.binary(max_size=80), st.sampled_from(["uint", "buffer", "string", "fixed32", "uint64", "count"]))
def test_arbitrary_bytes_read_or_raise_protocol_error(data: bytes, method: str) -> None:
    r = Reader(data)
    try:
        getattr(r, method)()
    except ProtocolError:
        pass
    assert 0 <= r.pos <= len(data)


@FAST
@given(
    st.lists(st.tuples(st.integers(1, 2**20), st.integers(0, 2**64 - 1) | st.binary(max_size=40)), max_size=8)
)
def test_protobuf_round_trip(items: list[tuple[int, int | bytes]]) -> None:
    message = b"".join(
        protobuf.varint_field(number, value)
        if isinstance(value, int)
        else protobuf.bytes_field(number, value)
        for number, value in items
    )
    assert list(protobuf.fields(message)) == items


@FAST
@given(st.lists(st.integers(0, 2**53), max_size=20))
def test_packed_varints_round_trip(values: list[int]) -> None:
    message = protobuf.packed_field(1, values)
    if values:
        ((number, data),) = protobuf.fields(message)
        assert number == 1 and isinstance(data, bytes) and protobuf.unpack(data) == values
    else:
        assert message == b""


@FAST
@given(st.binary(max_size=60))
def test_arbitrary_protobuf_is_read_or_refused(data: bytes) -> None:
    for parse in (lambda: list(protobuf.fields(data)), lambda: protobuf.unpack(data)):
        try:
            parse()
        except ProtocolError:
            pass


def test_protobuf_skips_fixed_size_fields_and_refuses_groups() -> None:
    message = b"\x0d" + bytes(4) + b"\x11" + bytes(8) + protobuf.varint_field(3, 7)
    assert list(protobuf.fields(message)) == [(3, 7)]
    with pytest.raises(ProtocolError):
        list(protobuf.fields(b"\x0b"))


def test_z32_is_npm_s() -> None:
    for vector in VECTORS["z32"]:
        data = bytes.fromhex(vector["data"])
        assert z32.encode(data) == vector["text"]
        assert z32.decode(vector["text"]) == data


@FAST
@given(st.binary(max_size=64))
def test_z32_round_trip(data: bytes) -> None:
    assert z32.decode(z32.encode(data)) == data


def test_spellings_of_a_key() -> None:
    key = bytes(range(32))
    for text in (z32.encode(key), key.hex(), f"pear://{z32.encode(key)}/a/b", f" {key.hex()}\n"):
        assert z32.decode_key(text) == key
    for text in ("", "l" * 52, "zz" * 32, "pear://x", key.hex()[:-1]):
        with pytest.raises(ConfigError):
            z32.decode_key(text)
