"""compact-encoding: the byte layouts every Hypercore message and manifest is made of.

The layouts are those of the npm package ``compact-encoding`` 3. A :class:`Reader` walks over untrusted
bytes and checks every bound before it takes anything; :class:`Writer` collects the parts of a message
and joins them once. Integers are limited to 2^53 - 1, as the JavaScript side can't hold more.
"""

from __future__ import annotations

from pelure.errors import ProtocolError

MAX_UINT = 2**53 - 1
MAX_ARRAY = 0x100000
"""Highest number of items in an array on the wire."""
LONG = 4096
"""Bytes from which on a part of a message is not copied for it."""


class Reader:
    """A cursor over ``data[pos:end]``; each method takes one value and moves on.

    Every method raises :class:`~pelure.errors.ProtocolError` when the bytes run out or are not valid.
    """

    __slots__ = ("data", "end", "pos")

    def __init__(self, data: bytes, pos: int = 0, end: int | None = None) -> None:
        self.data = data
        self.pos = pos
        self.end = len(data) if end is None else end

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return self.end - self.pos

    def uint(self) -> int:
        """A variable-length unsigned integer: 1, 3, 5 or 9 bytes, little endian."""
        pos = self.pos
        if pos >= self.end:
            raise ProtocolError("message ends inside an integer")
        first = self.data[pos]
        if first < 0xFD:
            self.pos = pos + 1
            return first
        stop = pos + 1 + (2 << (first - 0xFD))
        if stop > self.end:
            raise ProtocolError("message ends inside an integer")
        value = int.from_bytes(self.data[pos + 1 : stop], "little")
        if value > MAX_UINT:
            raise ProtocolError("integer above 2^53 - 1")
        self.pos = stop
        return value

    def take(self, size: int) -> bytes:
        """Exactly ``size`` raw bytes."""
        pos = self.pos
        stop = pos + size
        if stop > self.end:
            raise ProtocolError(f"message ends inside a field of {size} bytes")
        self.pos = stop
        return self.data[pos:stop]

    def fixed32(self) -> bytes:
        """32 raw bytes."""
        return self.take(32)

    def fixed64(self) -> bytes:
        """64 raw bytes."""
        return self.take(64)

    def uint64(self) -> int:
        """An 8-byte little-endian integer."""
        return int.from_bytes(self.take(8), "little")

    def buffer(self) -> bytes:
        """Length-prefixed bytes."""
        return self.take(self.uint())

    def optional_buffer(self) -> bytes | None:
        """Length-prefixed bytes, where no bytes means ``None``."""
        return self.buffer() or None

    def string(self) -> str:
        """Length-prefixed UTF-8."""
        try:
            return self.buffer().decode()
        except UnicodeDecodeError:
            raise ProtocolError("string is not UTF-8") from None

    def rest(self) -> bytes:
        """Everything that is left."""
        return self.take(self.end - self.pos)

    def count(self, item_size: int = 1) -> int:
        """The length of an array whose items take at least ``item_size`` bytes each.

        A count that the remaining bytes can't hold is refused here, before any memory is spent on it.
        """
        items = self.uint()
        if items > MAX_ARRAY or items * item_size > self.end - self.pos:
            raise ProtocolError(f"array of {items} items is too long")
        return items


_SMALL = tuple(bytes([value]) for value in range(0xFD))


def encode_uint(value: int) -> bytes:
    """Return ``value`` in its shortest variable-length form. Raises ``ValueError`` out of range."""
    if 0 <= value < 0xFD:
        return _SMALL[value]
    if value <= 0xFFFF:
        return b"\xfd" + value.to_bytes(2, "little")
    if value <= 0xFFFFFFFF:
        return b"\xfe" + value.to_bytes(4, "little")
    if value > MAX_UINT:
        raise ValueError("integer above 2^53 - 1")
    return b"\xff" + value.to_bytes(8, "little")


class Writer:
    """Collects values in order; :meth:`bytes` joins them. Methods mirror those of :class:`Reader`."""

    __slots__ = ("parts",)

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def uint(self, value: int) -> None:
        self.parts.append(encode_uint(value))

    def raw(self, *data: bytes) -> None:
        self.parts.extend(data)

    def fixed(self, data: bytes, size: int) -> None:
        """``data``, which has to be ``size`` bytes long (``ValueError`` if not)."""
        if len(data) != size:
            raise ValueError(f"field has {len(data)} bytes, not {size}")
        self.parts.append(data)

    def fixed32(self, data: bytes) -> None:
        self.fixed(data, 32)

    def fixed64(self, data: bytes) -> None:
        self.fixed(data, 64)

    def uint64(self, value: int) -> None:
        self.parts.append(value.to_bytes(8, "little"))

    def buffer(self, data: bytes | None) -> None:
        """Length-prefixed bytes; ``None`` is written as no bytes."""
        if data:
            self.uint(len(data))
            self.parts.append(data)
        else:
            self.parts.append(b"\0")

    def string(self, text: str) -> None:
        self.buffer(text.encode())

    def pieces(self) -> list[bytes]:
        """The whole message in pieces: what is long is not copied, and the short parts between are joined."""
        pieces: list[bytes] = []
        short: list[bytes] = []
        for part in self.parts:
            if len(part) < LONG:
                short.append(part)
            else:
                pieces += (b"".join(short), part)
                short = []
        pieces.append(b"".join(short))
        return pieces

    def bytes(self) -> bytes:
        """The whole message."""
        return b"".join(self.parts)
