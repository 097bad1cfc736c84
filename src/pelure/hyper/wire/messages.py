"""The messages of a Hypercore channel (protocol ``hypercore/alpha`` of npm hypercore 11).

Each message class has its number on the channel in ``TYPE``, ``encode()`` and ``decode(reader)``; what
requests and answers are made of is in :mod:`~pelure.hyper.wire.parts`. Manifests travel as raw bytes here;
``hyper.core`` gives them meaning.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from pelure.errors import ProtocolError
from pelure.hyper.encoding.compact import LONG, Reader, Writer
from pelure.hyper.wire.parts import (
    BlockRequest,
    DataBlock,
    DataHash,
    DataSeek,
    DataUpgrade,
    HashRequest,
    SeekRequest,
    UpgradeRequest,
    read_nodes,
    write_nodes,
)

PROTOCOL = "hypercore/alpha"
ALIASES = ("hypercore",)
CROWDED = "pelure/crowded"
"""A channel of this name says that its side serves as many streams for the other's key as it will."""

MAX_BLOCK = 15 * 1024 * 1024
"""Bytes of the longest block that may be appended."""


@dataclass(slots=True)
class Handshake:
    """What a channel's open carries: 32-byte proof of knowing the core's key, and a feature flag."""

    capability: bytes = field(repr=False)
    seeks: bool = True

    def encode(self) -> bytes:
        w = Writer()
        w.uint(1 if self.seeks else 0)
        w.fixed32(self.capability)
        return w.bytes()

    @classmethod
    def decode(cls, r: Reader) -> Handshake:
        flags = r.uint()
        return cls(seeks=bool(flags & 1), capability=r.fixed32())


@dataclass(slots=True)
class Sync:
    """A peer's state: its fork and length, and the last length it saw of the other side."""

    TYPE: ClassVar[int] = 0
    fork: int
    length: int
    remote_length: int
    can_upgrade: bool = True
    uploading: bool = True
    downloading: bool = True
    has_manifest: bool = False
    allow_push: bool = False

    def encode(self) -> bytes:
        w = Writer()
        w.uint(
            self.can_upgrade * 1
            | self.uploading * 2
            | self.downloading * 4
            | self.has_manifest * 8
            | self.allow_push * 16
        )
        w.uint(self.fork)
        w.uint(self.length)
        w.uint(self.remote_length)
        return w.bytes()

    @classmethod
    def decode(cls, r: Reader) -> Sync:
        flags = r.uint()
        return cls(
            r.uint(),
            r.uint(),
            r.uint(),
            can_upgrade=bool(flags & 1),
            uploading=bool(flags & 2),
            downloading=bool(flags & 4),
            has_manifest=bool(flags & 8),
            allow_push=bool(flags & 16),
        )


@dataclass(slots=True)
class Request:
    """Asks for any of a block, a tree node, a byte position, growth, and the manifest, in one answer."""

    TYPE: ClassVar[int] = 1
    id: int
    fork: int
    block: BlockRequest | None = None
    hash: HashRequest | None = None
    seek: SeekRequest | None = None
    upgrade: UpgradeRequest | None = None
    manifest: bool = False
    priority: int = 0

    def encode(self) -> bytes:
        w = Writer()
        parts = (self.block, self.hash, self.seek, self.upgrade)
        flags = sum(1 << bit for bit, part in enumerate(parts) if part is not None)
        w.uint(flags | self.manifest * 16 | bool(self.priority) * 32)
        w.uint(self.id)
        w.uint(self.fork)
        if self.block is not None:
            w.uint(self.block.index)
            w.uint(self.block.nodes)
        if self.hash is not None:
            w.uint(self.hash.index)
            w.uint(self.hash.nodes)
        if self.seek is not None:
            w.uint(self.seek.bytes)
            w.uint(self.seek.padding)
        if self.upgrade is not None:
            w.uint(self.upgrade.start)
            w.uint(self.upgrade.length)
        if self.priority:
            w.uint(self.priority)
        return w.bytes()

    @classmethod
    def decode(cls, r: Reader) -> Request:
        flags = r.uint()
        return cls(
            r.uint(),
            r.uint(),
            BlockRequest(r.uint(), r.uint()) if flags & 1 else None,
            HashRequest(r.uint(), r.uint()) if flags & 2 else None,
            SeekRequest(r.uint(), r.uint()) if flags & 4 else None,
            UpgradeRequest(r.uint(), r.uint()) if flags & 8 else None,
            bool(flags & 16),
            r.uint() if flags & 32 else 0,
        )


@dataclass(slots=True)
class Cancel:
    """Takes back the request with this id."""

    TYPE: ClassVar[int] = 2
    request: int

    def encode(self) -> bytes:
        w = Writer()
        w.uint(self.request)
        return w.bytes()

    @classmethod
    def decode(cls, r: Reader) -> Cancel:
        return cls(r.uint())


@dataclass(slots=True)
class Data:
    """The answer to a request; ``manifest`` is an encoded manifest."""

    TYPE: ClassVar[int] = 3
    request: int
    fork: int
    block: DataBlock | None = None
    hash: DataHash | None = None
    seek: DataSeek | None = None
    upgrade: DataUpgrade | None = None
    manifest: bytes | None = None

    def encode(self) -> bytes:
        return self._write().bytes()

    def pieces(self) -> list[bytes]:
        """The encoded message in pieces: a long block is one of its own, and need not be copied."""
        w = self._write()
        long = self.block is not None and len(self.block.value) >= LONG
        return w.pieces() if long else [w.bytes()]

    def _write(self) -> Writer:
        w = Writer()
        parts = (self.block, self.hash, self.seek, self.upgrade, self.manifest)
        w.uint(sum(1 << bit for bit, part in enumerate(parts) if part is not None))
        w.uint(self.request)
        w.uint(self.fork)
        if self.block is not None:
            w.uint(self.block.index)
            w.buffer(self.block.value)
            write_nodes(w, self.block.nodes)
        if self.hash is not None:
            w.uint(self.hash.index)
            write_nodes(w, self.hash.nodes)
        if self.seek is not None:
            w.uint(self.seek.bytes)
            write_nodes(w, self.seek.nodes)
        if self.upgrade is not None:
            w.uint(self.upgrade.start)
            w.uint(self.upgrade.length)
            write_nodes(w, self.upgrade.nodes)
            write_nodes(w, self.upgrade.additional_nodes)
            w.buffer(self.upgrade.signature)
        if self.manifest is not None:
            w.raw(self.manifest)
        return w

    @classmethod
    def decode(cls, r: Reader) -> Data:
        flags = r.uint()
        return cls(
            r.uint(),
            r.uint(),
            DataBlock(r.uint(), r.buffer(), read_nodes(r)) if flags & 1 else None,
            DataHash(r.uint(), read_nodes(r)) if flags & 2 else None,
            DataSeek(r.uint(), read_nodes(r)) if flags & 4 else None,
            DataUpgrade(r.uint(), r.uint(), read_nodes(r), read_nodes(r), r.optional_buffer())
            if flags & 8
            else None,
            r.rest() if flags & 16 else None,
        )


@dataclass(slots=True)
class NoData:
    """The request can't be answered: ``reason`` 1 not available, 2 invalid request, 0 not said."""

    TYPE: ClassVar[int] = 4
    NOT_AVAILABLE: ClassVar[int] = 1
    INVALID_REQUEST: ClassVar[int] = 2
    request: int
    reason: int = 0

    def encode(self) -> bytes:
        w = Writer()
        w.uint(self.request)
        w.uint(1 if self.reason else 0)
        if self.reason:
            w.uint(self.reason)
        return w.bytes()

    @classmethod
    def decode(cls, r: Reader) -> NoData:
        request = r.uint()
        flags = r.uint() if r.remaining else 0
        return cls(request, r.uint() if flags & 1 else 0)


@dataclass(slots=True)
class Want:
    """Asks which of ``length`` blocks from ``start`` the other side has, now and later."""

    TYPE: ClassVar[int] = 5
    start: int
    length: int
    any: bool = False

    def encode(self) -> bytes:
        w = Writer()
        w.uint(self.start)
        w.uint(self.length)
        if self.any:
            w.uint(1)
        return w.bytes()

    @classmethod
    def decode(cls, r: Reader) -> Want:
        return cls(r.uint(), r.uint(), bool(r.uint() & 1) if r.remaining else False)


@dataclass(slots=True)
class Unwant(Want):
    """Takes back a :class:`Want` of the same span."""

    TYPE: ClassVar[int] = 6


@dataclass(slots=True)
class Bitfield:
    """Which blocks from ``start``, a multiple of 32, the sender has: 32-bit words, lowest bit first."""

    TYPE: ClassVar[int] = 7
    start: int
    words: bytes = field(repr=False)

    def encode(self) -> bytes:
        if len(self.words) % 4:
            raise ValueError("bitfield is not made of 32-bit words")
        w = Writer()
        w.uint(self.start)
        w.uint(len(self.words) // 4)
        w.raw(self.words)
        return w.bytes()

    @classmethod
    def decode(cls, r: Reader) -> Bitfield:
        start = r.uint()
        if start % 32:
            raise ProtocolError("bitfield does not start at a multiple of 32")
        return cls(start, r.take(4 * r.count(4)))


@dataclass(slots=True)
class Range:
    """The sender has (``drop``: no longer has) the ``length`` blocks from ``start``."""

    TYPE: ClassVar[int] = 8
    start: int
    length: int
    drop: bool = False

    def encode(self) -> bytes:
        w = Writer()
        w.uint(self.drop * 1 | (self.length == 1) * 2)
        w.uint(self.start)
        if self.length != 1:
            w.uint(self.length)
        return w.bytes()

    @classmethod
    def decode(cls, r: Reader) -> Range:
        flags = r.uint()
        return cls(r.uint(), 1 if flags & 2 else r.uint(), bool(flags & 1))


@dataclass(slots=True)
class Extension:
    """A message of an extension; an empty ``name`` repeats the sender's previous one on this channel."""

    TYPE: ClassVar[int] = 9
    name: str
    message: bytes = field(repr=False)

    def encode(self) -> bytes:
        w = Writer()
        w.string(self.name)
        w.raw(self.message)
        return w.bytes()

    @classmethod
    def decode(cls, r: Reader) -> Extension:
        return cls(r.string(), r.rest())


Message: TypeAlias = Sync | Request | Cancel | Data | NoData | Want | Unwant | Bitfield | Range | Extension

MESSAGES: tuple[type[Message], ...] = (
    Sync,
    Request,
    Cancel,
    Data,
    NoData,
    Want,
    Unwant,
    Bitfield,
    Range,
    Extension,
)
"""Message classes by their number on the channel."""


def decode(kind: int, r: Reader) -> Message | None:
    """Decode message number ``kind``; ``None`` for a kind that is not known (to be ignored).

    Raises :class:`~pelure.errors.ProtocolError` for malformed bytes.
    """
    return MESSAGES[kind].decode(r) if kind < len(MESSAGES) else None
