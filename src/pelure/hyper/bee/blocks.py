"""The decoded blocks of a Hyperbee, cached, with read-ahead.

Everything here is synchronous and local. A block that is not held raises :class:`BlocksMissing`; who called
fetches those blocks and starts the step again. So the same code serves local trees fast and remote ones.
"""

from __future__ import annotations

from collections.abc import Iterable

from pelure.errors import DriveError
from pelure.hyper.bee.messages import Block
from pelure.hyper.core.changes import Change, ChangeKind
from pelure.hyper.core.core import Core
from pelure.hyper.core.tree import NotAvailable

_CACHED_BLOCKS = 16384
_CACHED_BYTES = 64 * 1024 * 1024
"""Half of what the cache may hold, however large the blocks are that a publisher makes."""
_DECODED_INDEX = 8  # bytes in memory for each byte of an index, once its levels are lists
_READ_AHEAD = 64
_RUN = 16
"""Loads close to one another that make it likely that more will follow."""


class BlocksMissing(NotAvailable):
    """Blocks ``indexes`` are needed and not held here."""

    def __init__(self, indexes: list[int]) -> None:
        super().__init__(f"block {indexes[0]} of the drive's index is not held here")
        self.indexes = indexes


class BlockCache:
    """Decoded blocks of one core. Two generations of them are kept, the older one is dropped when full."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self._young: dict[int, Block] = {}
        self._old: dict[int, Block] = {}
        self._young_bytes = 0
        self._last_chunk = -2
        self._run = 0
        core.on_change(self._changed)

    def _changed(self, change: Change) -> None:
        if change.kind is ChangeKind.TRUNCATE:
            self._young.clear()
            self._old.clear()
            self._young_bytes = 0

    def get(self, seq: int) -> Block:
        """Block ``seq``. Raises :class:`BlocksMissing`, or ``ProtocolError`` if it is not a node."""
        block = self._young.get(seq)
        if block is not None:
            return block
        block = self._old.get(seq)
        if block is None:
            return self._load(seq)
        self._keep(block)
        return block

    def _keep(self, block: Block) -> None:
        if len(self._young) >= _CACHED_BLOCKS or self._young_bytes >= _CACHED_BYTES:
            self._old, self._young, self._young_bytes = self._young, {}, 0
        self._young[block.seq] = block
        self._young_bytes += len(block.key) + len(block.value or b"") + _DECODED_INDEX * len(block.index)

    def _load(self, seq: int) -> Block:
        if not 0 < seq < self.core.length:
            raise DriveError(f"the drive's index refers to block {seq}, which does not exist")
        chunk = seq // _READ_AHEAD
        near = abs(chunk - self._last_chunk) <= 1
        self._run = min(self._run + 1, 4 * _RUN) if near else self._run // 4
        if near and chunk != self._last_chunk and self._run >= _RUN:
            self._read_ahead(chunk)
        self._last_chunk = chunk
        block = self._young.get(seq)
        if block is None:
            found = self.core.get_local(seq)
            if found is None:
                raise BlocksMissing([seq])
            block = Block.decode(seq, found)
            self._keep(block)
        return block

    def _read_ahead(self, chunk: int) -> None:
        """Load a whole chunk: blocks are being read in the order in which they were written."""
        start = chunk * _READ_AHEAD
        for index, data in self.core.get_inline(start, start + _READ_AHEAD).items():
            if index and index not in self._young and index not in self._old:
                self._keep(Block.decode(index, data))

    def require(self, indexes: Iterable[int]) -> None:
        """Raises :class:`BlocksMissing` naming all of ``indexes`` that are not held, if any is not."""
        missing = [index for index in indexes if not self.core.has(index)]
        if missing:
            raise BlocksMissing(missing)
