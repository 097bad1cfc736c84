"""The bounds-checked cursor that every decoder of this package reads with."""

from __future__ import annotations

from pelure.errors import ProtocolError


class Reader:
    """Takes big-endian integers and byte strings off ``data``; past its end it raises ``ProtocolError``.

    ``what`` names the message in the error.
    """

    __slots__ = ("data", "position", "what")

    def __init__(self, data: bytes, what: str) -> None:
        self.data = data
        self.position = 0
        self.what = what

    def take(self, n: int) -> bytes:
        """The next ``n`` bytes."""
        end = self.position + n
        if end > len(self.data):
            raise ProtocolError(f"{self.what} is truncated")
        piece = self.data[self.position : end]
        self.position = end
        return piece

    def uint(self, n: int) -> int:
        """The next ``n`` bytes as an unsigned integer."""
        return int.from_bytes(self.take(n), "big")

    def u8(self) -> int:
        """One byte."""
        return self.uint(1)

    def u16(self) -> int:
        """Two bytes."""
        return self.uint(2)

    def u32(self) -> int:
        """Four bytes."""
        return self.uint(4)

    def vector(self, length_bytes: int) -> bytes:
        """A byte string that a ``length_bytes``-byte length stands before."""
        return self.take(self.uint(length_bytes))

    def rest(self) -> bytes:
        """Everything that is left."""
        return self.take(len(self.data) - self.position)

    @property
    def remaining(self) -> int:
        """How many bytes are left."""
        return len(self.data) - self.position


def vector(data: bytes, length_bytes: int) -> bytes:
    """``data`` behind its length; raises ``ProtocolError`` if it does not fit the length field."""
    if len(data) >= 1 << (8 * length_bytes):
        raise ProtocolError(f"{len(data)} bytes do not fit a {length_bytes}-byte length")
    return len(data).to_bytes(length_bytes, "big") + data
