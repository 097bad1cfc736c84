"""Which versions of a Hyperbee can be looked at: the ones between batches (HYPER-FACTS §14).

Of a batch's blocks only the last has the root. The others have those tree nodes only that none after them
writes again. The first of these would be taken for the root, and a part of the tree for all of it. But
something in the batch points to it, unless a deletion has emptied it, and nothing ever points to a root.
"""

from __future__ import annotations

from pelure.errors import ProtocolError
from pelure.hyper.bee.blocks import BlockCache
from pelure.hyper.bee.messages import Block
from pelure.hyper.bee.walk import DiffCursor, Range
from pelure.hyper.core.tree import NotAvailable


class WholeVersions:
    """Goes back through the blocks of a Hyperbee, beginning with the last of a whole version."""

    def __init__(self, blocks: BlockCache) -> None:
        self._blocks = blocks
        self._version = 0
        self._pointed_to: set[int] = set()
        self._keys: set[bytes] = set()
        self._has_deletion = False

    def of(self, block: Block) -> int:
        """The first whole version that holds ``block``, which is the one before that of the last call."""
        levels = block.levels()
        for _, pointers in levels:
            self._pointed_to.update(pointers[at] for at in range(0, len(pointers), 2) if not pointers[at + 1])
        may_be_root = bool(levels) and block.seq not in self._pointed_to
        if not self._version or (may_be_root and self._fits(block.seq + 1)):
            self._version = block.seq + 1
            self._keys.clear()
            self._has_deletion = False
        self._pointed_to.discard(block.seq)
        self._keys.add(block.key)
        self._has_deletion |= block.is_deletion
        return self._version

    def _fits(self, version: int) -> bool:
        """Whether no more differs from ``version`` to the next whole one than the blocks between say."""
        if not self._has_deletion:
            return True
        cursor = DiffCursor(self._blocks, self._version, version, Range())
        try:
            while (pair := cursor.next()) is not None:
                if next(block.key for block in pair if block is not None) not in self._keys:
                    return False
        except (NotAvailable, ProtocolError):
            return False
        return True
