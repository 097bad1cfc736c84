"""The blocks of a Hyperbee: the header and the nodes (HYPER-FACTS §14, protobuf).

A node's *index* holds levels; each is one B-tree node: the sequence numbers of the blocks its keys are in,
and pairs (block, level) for its children. Level 0 is the root as of the block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pelure.errors import ProtocolError
from pelure.hyper.encoding.protobuf import bytes_field, fields, packed_field, unpack

PROTOCOL = "hyperbee"

Level = tuple[list[int], list[int]]
"""Key numbers; children as a flat list of block, level, block, level, …"""


@dataclass(frozen=True, slots=True)
class Header:
    """Block 0: ``content_feed`` is the key of a drive's blobs core where the db core's does not tell it."""

    protocol: str = PROTOCOL
    content_feed: bytes | None = None
    with_metadata: bool = False

    def encode(self) -> bytes:
        data = bytes_field(1, self.protocol.encode())
        if self.content_feed is not None:
            return data + bytes_field(2, bytes_field(1, self.content_feed))
        return data + bytes_field(2, b"") if self.with_metadata else data

    @classmethod
    def decode(cls, data: bytes) -> Header:
        """Raises :class:`~pelure.errors.ProtocolError`."""
        protocol = content_feed = metadata = None
        for number, value in fields(data):
            if number == 1 and isinstance(value, bytes):
                protocol = value.decode(errors="replace")
            elif number == 2 and isinstance(value, bytes):
                metadata = value
                for inner, part in fields(value):
                    if inner == 1 and isinstance(part, bytes):
                        content_feed = part
        if protocol != PROTOCOL:
            raise ProtocolError("the core does not hold a Hyperbee")
        return cls(protocol, content_feed or None, metadata is not None)


@dataclass(slots=True)
class Block:
    """One put or delete: ``key``, ``value`` (``None``: absent), and the changed part of the tree."""

    seq: int
    key: bytes
    value: bytes | None
    index: bytes = field(repr=False)
    _levels: list[Level] | None = field(default=None, repr=False)

    @classmethod
    def decode(cls, seq: int, data: bytes) -> Block:
        """Raises :class:`~pelure.errors.ProtocolError`."""
        key = value = index = None
        for number, part in fields(data):
            if isinstance(part, bytes):
                if number == 1:
                    index = part
                elif number == 2:
                    key = part
                elif number == 3:
                    value = part
        if key is None or index is None:
            raise ProtocolError(f"block {seq} is not a Hyperbee node")
        return cls(seq, key, value, index)

    def levels(self) -> list[Level]:
        """The B-tree nodes in this block."""
        if self._levels is None:
            self._levels = [_decode_level(part) for number, part in fields(self.index) if number == 1]
        return self._levels

    def level(self, number: int) -> Level:
        """B-tree node ``number``. Raises :class:`~pelure.errors.ProtocolError` if there is none."""
        levels = self.levels()
        if number >= len(levels):
            raise ProtocolError(f"block {self.seq} does not hold the tree node that is referred to")
        return levels[number]

    @property
    def is_deletion(self) -> bool:
        """Whether the block says that ``key`` was deleted: no value, and its own number is in no level."""
        return self.value is None and not any(self.seq in keys for keys, _ in self.levels())


def encode_block(key: bytes, value: bytes | None, levels: Sequence[Level]) -> bytes:
    """The bytes of a node block."""
    parts = [bytes_field(1, packed_field(1, keys) + packed_field(2, children)) for keys, children in levels]
    parts = [bytes_field(1, b"".join(parts)), bytes_field(2, key)]
    if value is not None:
        parts.append(bytes_field(3, value))
    return b"".join(parts)


def _decode_level(data: int | bytes) -> Level:
    keys: list[int] = []
    children: list[int] = []
    if isinstance(data, int):
        raise ProtocolError("a Hyperbee index holds a number in place of a level")
    for number, part in fields(data):
        if number in (1, 2):
            (keys if number == 1 else children).extend(unpack(part) if isinstance(part, bytes) else [part])
    if len(children) % 2 or (children and len(children) != 2 * len(keys) + 2):
        raise ProtocolError("a Hyperbee tree node has the wrong number of children")
    return keys, children
