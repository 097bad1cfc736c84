"""Received blocks that were just verified, for who waits for them: no need to read and hash them once more.

Who waits for a block takes it in the same moment, so a few are enough. Short blocks are not kept; reading
those costs next to nothing.
"""

from __future__ import annotations

from collections import OrderedDict

from pelure.hyper.core.core_storage import INLINE_LIMIT

LIMIT = 4 * 1024 * 1024
"""Bytes of blocks that are kept at most; the oldest go first."""


class FreshBlocks:
    """Blocks in their stored form, each to be taken once."""

    def __init__(self) -> None:
        self.awaited: set[int] = set()
        """Blocks that somebody waits for; no others are kept."""
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._size = 0

    def put(self, index: int, block: bytes) -> None:
        """Keep block ``index`` for a while if somebody waits for it."""
        if index not in self.awaited or len(block) <= INLINE_LIMIT:
            return
        self.take(index)
        self._blocks[index] = block
        self._size += len(block)
        while self._size > LIMIT:
            self._size -= len(self._blocks.popitem(last=False)[1])

    def take(self, index: int) -> bytes | None:
        """Block ``index`` if it is here, and from then on it is not."""
        block = self._blocks.pop(index, None)
        if block is not None:
            self._size -= len(block)
        return block

    def clear(self) -> None:
        """Forget all, since some were dropped from the core."""
        self._blocks.clear()
        self._size = 0
