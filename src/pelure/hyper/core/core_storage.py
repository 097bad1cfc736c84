"""What one core keeps in a :class:`~pelure.hyper.core.storage.Store`: the records and their keys.

Keys are one letter for the kind, the core's number (4 bytes), and an index (8 bytes), big endian, so that the
records of a range lie together.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pelure.errors import DriveError, ProtocolError, StorageError
from pelure.hyper.core.bitfield import Bitfield
from pelure.hyper.core.blockfile import BlockFile
from pelure.hyper.core.linked import LinkedFile, LinkedFileChanged
from pelure.hyper.core.storage import Store
from pelure.hyper.core.tree import NodeRow
from pelure.hyper.encoding.compact import Reader, Writer
from pelure.hyper.wire.parts import Node

INLINE_LIMIT = 2048
"""Bytes up to which a block is kept in the database; longer ones go to the block file."""

_INLINE, _IN_FILE, _LINKED = b"\0", b"\1", b"\2"
_FILE_RECORD = struct.Struct("<cQI")
_LINK_RECORD = struct.Struct("<cIQIQ")
_NODE_RECORD = struct.Struct("<Q32s")
_UINT64 = 0xFFFFFFFFFFFFFFFF


@dataclass(slots=True)
class Head:
    """The state of a core that is not in its tree: ``seeds`` are the secret keys held here."""

    key: bytes
    fork: int = 0
    length: int = 0
    signature: bytes | None = None
    manifest: bytes | None = None
    seeds: tuple[bytes, ...] = field(default=(), repr=False)

    def encode(self) -> bytes:
        w = Writer()
        w.fixed32(self.key)
        w.uint(self.fork)
        w.uint(self.length)
        w.buffer(self.signature)
        w.buffer(self.manifest)
        w.uint(len(self.seeds))
        for seed in self.seeds:
            w.fixed32(seed)
        return w.bytes()

    @classmethod
    def decode(cls, data: bytes) -> Head:
        """Raises :class:`~pelure.errors.DriveError` for a damaged record."""
        try:
            r = Reader(data)
            key, fork, length = r.fixed32(), r.uint(), r.uint()
            signature, manifest = r.optional_buffer(), r.optional_buffer()
            return cls(key, fork, length, signature, manifest, tuple(r.fixed32() for _ in range(r.count(32))))
        except ProtocolError as error:
            raise DriveError(f"the store is damaged: a core's head can't be read ({error})") from None


@dataclass(frozen=True, slots=True)
class LinkedBlock:
    """Plain bytes of a block that lives in a file of the user's, and the fork it was appended at."""

    data: bytes
    fork: int
    path: str


class CoreStorage:
    """The records of the core with this ``discovery_key``; ``head`` is ``None`` for a new one."""

    def __init__(self, store: Store, discovery_key: bytes) -> None:
        self.store = store
        self._discovery_key = discovery_key
        number = store.get(b"c" + discovery_key)
        self.head: Head | None = None
        if number is None:
            number = int.from_bytes(store.get(b"#") or bytes(4), "big").to_bytes(4, "big")
            store.put(b"#", (int.from_bytes(number, "big") + 1).to_bytes(4, "big"))
            store.put(b"c" + discovery_key, number)
        else:
            record = store.get(b"h" + number)
            self.head = Head.decode(record) if record else None
        self._number = number
        self._file_number = int.from_bytes(number, "big")
        self._node_prefix = b"n" + number
        self._block_prefix = b"b" + number
        self._links: dict[int, LinkedFile] = {}

    @staticmethod
    def peek(store: Store, discovery_key: bytes) -> Head | None:
        """The head of a core, if it is stored."""
        number = store.get(b"c" + discovery_key)
        record = store.get(b"h" + number) if number is not None else None
        return Head.decode(record) if record is not None else None

    @staticmethod
    def discovery_keys(store: Store) -> list[bytes]:
        """The discovery keys of all stored cores."""
        return [key[1:] for key in store.keys(b"c", b"d") if len(key) == 33]

    def put_head(self, head: Head) -> None:
        """Replace the head."""
        self.store.put(b"h" + self._number, head.encode())

    def get_node(self, index: int) -> Node | None:
        """Tree node ``index``, if held."""
        value = self.store.get(self._node_prefix + index.to_bytes(8, "big"))
        return Node(index, *_NODE_RECORD.unpack(value)) if value is not None else None

    def put_nodes(self, nodes: Iterable[Node]) -> None:
        """Store tree nodes."""
        put, prefix, pack = self.store.put, self._node_prefix, _NODE_RECORD.pack
        for node in nodes:
            put(prefix + node.index.to_bytes(8, "big"), pack(node.size, node.hash))

    def put_node_row(self, row: NodeRow) -> None:
        """Store neighbouring tree nodes; it takes half the time of one by one."""
        prefix, pack = self._node_prefix, _NODE_RECORD.pack
        indexes = range(row.first, row.first + row.step * len(row.sizes), row.step)
        keys = [prefix + index.to_bytes(8, "big") for index in indexes]
        self.store.put_many(zip(keys, map(pack, row.sizes, row.hashes), strict=True))

    def delete_node(self, index: int) -> None:
        """Forget a tree node."""
        self.store.delete(self._node_prefix + index.to_bytes(8, "big"))

    def node_indexes(self, start: int = 0) -> list[int]:
        """The tree nodes held from ``start`` on."""
        first, end = self._node_prefix + start.to_bytes(8, "big"), self._node_prefix + b"\xff" * 8
        return [int.from_bytes(key[5:], "big") for key in self.store.keys(first, end)]

    def _block_key(self, index: int) -> bytes:
        return self._block_prefix + index.to_bytes(8, "big")

    def put_blocks(self, first: int, blocks: Sequence[bytes]) -> None:
        """Store the blocks from ``first`` on. Raises ``DriveError`` if the disk won't take them."""
        put, prefix = self.store.put, self._block_prefix
        for index, block in enumerate(blocks, first):
            if len(block) <= INLINE_LIMIT:
                put(prefix + index.to_bytes(8, "big"), _INLINE + block)
            else:
                self._put_long_block(index, block)

    def _put_long_block(self, index: int, block: bytes) -> None:
        file = self._block_file()
        try:
            position = file.append(block)
        except OSError as error:
            raise StorageError(f"a block can't be stored: {error.strerror}") from error
        self.store.put(b"e" + self._number, file.end.to_bytes(8, "big"))
        self.put_block_at(index, position, len(block))

    def reserve(self, size: int) -> int:
        """Hand out ``size`` bytes of the block file, to be filled by :meth:`write`."""
        file = self._block_file()
        position = file.reserve(size)
        self.store.put(b"e" + self._number, file.end.to_bytes(8, "big"))
        return position

    def write(self, position: int, data: bytes | memoryview) -> None:
        """Fill reserved space; may be called from any thread."""
        try:
            self.store.block_files[self._file_number].write(position, data)
        except OSError as error:
            raise StorageError(f"a block can't be stored: {error.strerror}") from error

    def _block_file(self) -> BlockFile:
        """The file of the longer blocks, opened when it is first needed."""
        file = self.store.block_files.get(self._file_number)
        if file is None:
            end = int.from_bytes(self.store.get(b"e" + self._number) or b"", "big")
            file = self.store.block_file(self._file_number, end)
        return file

    def put_block_at(self, index: int, position: int, size: int) -> None:
        """Record that a block is in the block file."""
        self.store.put(self._block_key(index), _FILE_RECORD.pack(_IN_FILE, position, size))

    def add_link(self, file: LinkedFile) -> int:
        """Remember a file of the user's; return its number for :meth:`put_linked_block`."""
        number = int.from_bytes(self.store.get(b"l" + self._number) or bytes(4), "big")
        self.store.put(b"l" + self._number, (number + 1).to_bytes(4, "big"))
        self._put_link(number, file)
        return number

    def _put_link(self, number: int, file: LinkedFile) -> None:
        w = Writer()
        w.buffer(file.path.encode(errors="surrogateescape"))
        w.uint64(file.size)
        w.uint64(file.mtime_ns & _UINT64)
        self.store.put(b"s" + self._number + number.to_bytes(4, "big"), w.bytes())
        self._links[number] = file
        self.store.open_files.forget(file.path)

    def move_link(self, index: int, file: LinkedFile) -> None:
        """Note that the linked file which block ``index`` is in has another name or time now."""
        record = self.store.get(self._block_key(index))
        if record is not None and record[:1] == _LINKED:
            self._put_link(_LINK_RECORD.unpack(record)[1], file)

    def link(self, number: int) -> LinkedFile:
        """The linked file with this number."""
        if number not in self._links:
            r = Reader(self.store.get(b"s" + self._number + number.to_bytes(4, "big")) or b"")
            try:
                path = r.buffer().decode(errors="surrogateescape")
                size, mtime_ns = r.uint64(), r.uint64()
                mtime_ns -= (mtime_ns >> 63) << 64  # before 1970 it is negative
                self._links[number] = LinkedFile(path, size, mtime_ns)
            except ProtocolError:
                raise DriveError(f"the store is damaged: linked file {number} is not known") from None
        return self._links[number]

    def links(self) -> list[LinkedFile]:
        """All linked files."""
        prefix = b"s" + self._number
        keys = self.store.keys(prefix, prefix + b"\xff" * 5)
        return [self.link(int.from_bytes(key[5:], "big")) for key in keys]

    def put_linked_block(self, index: int, link: int, position: int, size: int, fork: int) -> None:
        """Record that a block is ``size`` bytes at ``position`` of a linked file."""
        self.store.put(self._block_key(index), _LINK_RECORD.pack(_LINKED, link, position, size, fork))

    def linked_file_of(self, index: int) -> LinkedFile | None:
        """The file that block ``index`` is in, if it is a linked one."""
        record = self.store.get(self._block_key(index))
        if record is None or record[:1] != _LINKED:
            return None
        return self.link(_LINK_RECORD.unpack(record)[1])

    def get_block(self, index: int) -> bytes | LinkedBlock | None:
        """A block as stored, or its plain bytes in a linked file; ``None`` if not held."""
        record = self.store.get(self._block_key(index))
        return None if record is None else self._load(record)

    def _load(self, record: bytes) -> bytes | LinkedBlock:
        if record[:1] == _INLINE:
            return record[1:]
        if record[:1] == _IN_FILE:
            _, position, size = _FILE_RECORD.unpack(record)
            return self._block_file().read(position, size)
        _, number, position, size, fork = _LINK_RECORD.unpack(record)
        link = self.link(number)
        data = self.store.open_files.read(link.path, position, size)
        if len(data) != size:
            raise LinkedFileChanged(link.path, "has become shorter")
        return LinkedBlock(data, fork, link.path)

    def get_inline_blocks(self, start: int, end: int) -> dict[int, bytes]:
        """The blocks of ``start`` to ``end`` (exclusive) that are kept in the database, in one go."""
        found = self.store.get_numbered(self._block_prefix, start, end)
        return {index: value[1:] for index, value in found.items() if value[:1] == _INLINE}

    def delete_block(self, index: int) -> int:
        """Forget a block; return the bytes of disk space this frees."""
        record = self.store.get(self._block_key(index))
        if record is None:
            return 0
        self.store.delete(self._block_key(index))
        if record[:1] == _IN_FILE:
            _, position, size = _FILE_RECORD.unpack(record)
            self.store.release_after_commit(self._block_file(), position, size)
            return int(size)
        return len(record) - 1 if record[:1] == _INLINE else 0

    def load_bitfield(self) -> Bitfield:
        """The stored bitfield."""
        bitfield = Bitfield()
        prefix = b"p" + self._number
        for key in self.store.keys(prefix, prefix + b"\xff" * 5):
            bitfield.load_page(int.from_bytes(key[5:], "big"), self.store.get(key) or b"")
        return bitfield

    def put_bitfield(self, bitfield: Bitfield) -> None:
        """Store the changed pages."""
        for page in bitfield.dirty:
            self.store.put(b"p" + self._number + page.to_bytes(4, "big"), bitfield.page(page))
        bitfield.dirty.clear()

    def get_user_data(self, name: str) -> bytes | None:
        """A local note kept with the core; it never travels."""
        return self.store.get(b"u" + self._number + name.encode())

    def put_user_data(self, name: str, value: bytes | None) -> None:
        """Set, or with ``None`` delete, a local note."""
        key = b"u" + self._number + name.encode()
        if value is None:
            self.store.delete(key)
        else:
            self.store.put(key, value)

    def purge(self) -> None:
        """Delete everything of this core, for good."""
        for letter in b"hnbpuels":
            prefix = bytes([letter]) + self._number
            for key in self.store.keys(prefix, prefix + b"\xff" * 256):
                self.store.delete(key)
        self.store.delete(b"c" + self._discovery_key)
        self.store.commit()
        self.store.remove_block_file(self._file_number)

    @property
    def folder(self) -> Path:
        """Where the store is."""
        return self.store.path
