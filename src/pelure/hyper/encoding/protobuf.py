"""The part of the protobuf wire format that hyperbee blocks use: varints and length-delimited fields.

Source: the protobuf encoding guide (proto2); fixed-size fields are skipped over, groups are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pelure.errors import ProtocolError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10
_SHORT_HEADS = [[bytes((number << 3 | _BYTES, size)) for size in range(0x80)] for number in range(16)]


def encode_varint(value: int) -> bytes:
    """Return ``value`` (0 or more) as a base-128 varint."""
    if value < 0x80:
        return value.to_bytes(1, "little")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def bytes_field(number: int, data: bytes) -> bytes:
    """Return the length-delimited field ``number`` holding ``data`` (bytes, text or a message)."""
    size = len(data)
    if size < 0x80 and number < 16:  # the common case, cut short
        return _SHORT_HEADS[number][size] + data
    return encode_varint(number << 3 | _BYTES) + encode_varint(size) + data


def varint_field(number: int, value: int) -> bytes:
    """Return the varint field ``number``."""
    return encode_varint(number << 3 | _VARINT) + encode_varint(value)


def packed_field(number: int, values: Iterable[int]) -> bytes:
    """Return the packed repeated varint field ``number``; nothing at all when there are no values."""
    data = bytearray()
    for value in values:
        while value > 0x7F:
            data.append(value & 0x7F | 0x80)
            value >>= 7
        data.append(value)
    return bytes_field(number, bytes(data)) if data else b""


def _varint(data: bytes, pos: int) -> tuple[int, int]:
    value = shift = 0
    for offset, byte in enumerate(data[pos : pos + _MAX_VARINT_BYTES], 1):
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, pos + offset
        shift += 7
    raise ProtocolError("protobuf message ends inside a varint, or the varint is too long")


def unpack(data: bytes) -> list[int]:
    """Return the values of a packed repeated varint field. Raises ``ProtocolError``."""
    values = []
    value = shift = 0
    for byte in data:
        if byte < 0x80:
            values.append(value | byte << shift)
            value = shift = 0
        else:
            value |= (byte & 0x7F) << shift
            shift += 7
            if shift >= 7 * _MAX_VARINT_BYTES:
                raise ProtocolError("protobuf varint is too long")
    if shift:
        raise ProtocolError("protobuf message ends inside a varint")
    return values


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (field number, value) in order: an ``int`` for a varint, ``bytes`` for a delimited field.

    Raises ``ProtocolError`` when the message is malformed.
    """
    pos, end = 0, len(data)
    while pos < end:
        tag = data[pos]
        if tag & 0x87 == _BYTES and pos + 1 < end and data[pos + 1] < 0x80:  # the common case, cut short
            start = pos + 2
            pos = start + data[pos + 1]
            if pos > end or tag == _BYTES:
                raise ProtocolError("protobuf message ends inside a field, or has field number 0")
            yield tag >> 3, data[start:pos]
            continue
        tag, pos = _varint(data, pos)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise ProtocolError("protobuf field number 0")
        if kind == _VARINT:
            value, pos = _varint(data, pos)
            yield number, value
            continue
        if kind == _BYTES:
            size, pos = _varint(data, pos)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ProtocolError(f"protobuf wire type {kind} is not supported")
        if size > len(data) - pos:
            raise ProtocolError("protobuf message ends inside a field")
        if kind == _BYTES:
            yield number, data[pos : pos + size]
        pos += size
