"""Reading the B-tree of a Hyperbee in order: lookups, ranges and differences (HYPER-FACTS §14).

Each step either succeeds or raises ``BlocksMissing`` and leaves everything as it was, so that it can be done
again once the blocks have come.
"""

from __future__ import annotations

from dataclasses import dataclass

from pelure.errors import ProtocolError
from pelure.hyper.bee.blocks import BlockCache
from pelure.hyper.bee.messages import Block, Level

_MAX_DEPTH = 64
_OUT_OF_ORDER = "the keys of the drive's index are not in order"
"""Nor need its nodes be a tree then: without a check, walking over them might never end."""


@dataclass(frozen=True, slots=True)
class Range:
    """Keys from ``gte`` or after ``gt``, up to ``lte`` or before ``lt``; ``None`` is no bound."""

    gt: bytes | None = None
    gte: bytes | None = None
    lt: bytes | None = None
    lte: bytes | None = None

    def under(self, prefix: bytes) -> Range:
        """The same range of the keys that come after ``prefix`` (which ends in a separator byte)."""
        after = prefix[:-1] + bytes([prefix[-1] + 1]) if prefix else None
        lower_open = self.gt is None and self.gte is None
        upper_open = self.lt is None and self.lte is None
        return Range(
            None if self.gt is None else prefix + self.gt,
            prefix if lower_open and prefix else None if self.gte is None else prefix + self.gte,
            after if upper_open else None if self.lt is None else prefix + self.lt,
            None if self.lte is None else prefix + self.lte,
        )


def _search(blocks: BlockCache, keys: list[int], key: bytes) -> tuple[int, bool]:
    low, high = 0, len(keys)
    while low < high:
        middle = (low + high) >> 1
        other = blocks.get(keys[middle]).key
        if key == other:
            return middle, True
        if key < other:
            high = middle
        else:
            low = middle + 1
    return low, False


def lookup(blocks: BlockCache, version: int, key: bytes) -> Block | None:
    """The block that holds ``key`` as of ``version``. Raises ``BlocksMissing``."""
    if version < 2:
        return None
    keys, children = blocks.get(version - 1).level(0)
    for _ in range(_MAX_DEPTH):
        at, found = _search(blocks, keys, key)
        if found:
            return blocks.get(keys[at])
        if not children:
            return None
        keys, children = blocks.get(children[2 * at]).level(children[2 * at + 1])
    raise ProtocolError("the drive's index goes round in circles")


class RangeCursor:
    """Walks the keys of a range in order, or backwards."""

    def __init__(self, blocks: BlockCache, version: int, bounds: Range, reverse: bool = False) -> None:
        self._blocks = blocks
        self._version = version
        self._bounds = bounds
        self._step = -1 if reverse else 1
        self._stack: list[tuple[Level, int]] | None = None
        self._seeking = True
        self._last: bytes | None = None

    def next(self) -> Block | None:
        """The next key's block, ``None`` at the end. Raises ``BlocksMissing``; then call it again."""
        if self._stack is None:
            if self._version < 2:
                return None
            root = self._blocks.get(self._version - 1).level(0)
            position = self._start(root)
            self._stack = [(root, position)]
        while self._stack:
            level, position = self._stack[-1]
            keys, children = level
            if not 0 <= position <= 2 * len(keys):
                self._stack.pop()
            elif position & 1:
                block = self._blocks.get(keys[position >> 1])
                last, self._last = self._last, block.key
                if last is not None and not (last < block.key if self._step > 0 else last > block.key):
                    raise ProtocolError(_OUT_OF_ORDER)
                self._stack[-1] = (level, position + self._step)
                self._seeking = False
                if self._past_end(block.key):
                    self._stack.clear()
                    return None
                return block
            elif children:
                if len(self._stack) >= _MAX_DEPTH:
                    raise ProtocolError("the drive's index goes round in circles")
                child = self._blocks.get(children[position]).level(children[position + 1])
                start = self._start(child)
                self._stack[-1] = (level, position + self._step)
                self._stack.append((child, start))
                if not self._seeking:
                    self._blocks.require(child[0])
            else:
                self._stack[-1] = (level, position + self._step)
        return None

    def _start(self, level: Level) -> int:
        """Where to begin in a tree node: even positions are children, odd ones keys."""
        keys = level[0]
        bounds = self._bounds
        if self._step > 0:
            first = bounds.gte if bounds.gte is not None else bounds.gt
            if not self._seeking or first is None:
                return 0
            at, found = _search(self._blocks, keys, first)
            return 2 * at + (0 if not found else 1 if bounds.gte is not None else 2)
        last = bounds.lte if bounds.lte is not None else bounds.lt
        if not self._seeking or last is None:
            return 2 * len(keys)
        at, found = _search(self._blocks, keys, last)
        return 2 * at + (1 if found and bounds.lte is not None else 0)

    def _past_end(self, key: bytes) -> bool:
        bounds = self._bounds
        if self._step > 0:
            if bounds.lt is not None and key >= bounds.lt:
                return True
            return bounds.lte is not None and key > bounds.lte
        if bounds.gt is not None and key <= bounds.gt:
            return True
        return bounds.gte is not None and key < bounds.gte


@dataclass(frozen=True, slots=True)
class _Item:
    """Something still to be walked over: a key's block, or a tree node."""

    is_key: bool
    seq: int
    level: int


class _Side:
    """One of the two trees of a difference: the items ahead, the next one last."""

    def __init__(self, blocks: BlockCache, version: int) -> None:
        self._blocks = blocks
        self.items = [_Item(False, version - 1, 0)] if version > 1 else []

    def top(self) -> _Item | None:
        return self.items[-1] if self.items else None

    def upper(self) -> bytes | None:
        """The key of the next item, or, for a tree node, the key that follows it; ``None`` at the end."""
        for item in self.items[:-3:-1]:
            if item.is_key:
                return self._blocks.get(item.seq).key
        return None

    def expand(self) -> None:
        """Replace the tree node ahead by what is in it."""
        item = self.items[-1]
        keys, children = self._blocks.get(item.seq).level(item.level)
        if len(self.items) > _MAX_DEPTH * 32:
            raise ProtocolError("the drive's index goes round in circles")
        inside = []
        for at, seq in enumerate(keys):
            if children:
                inside.append(_Item(False, children[2 * at], children[2 * at + 1]))
            inside.append(_Item(True, seq, 0))
        if children:
            inside.append(_Item(False, children[-2], children[-1]))
        self.items.pop()
        self.items.extend(reversed(inside))


class DiffCursor:
    """Walks two versions at once and gives the keys that differ; subtrees they share are skipped."""

    def __init__(self, blocks: BlockCache, left: int, right: int, bounds: Range) -> None:
        self._blocks = blocks
        self._left, self._right = _Side(blocks, left), _Side(blocks, right)
        self._bounds = bounds
        self._last: bytes | None = None

    def next(self) -> tuple[Block | None, Block | None] | None:
        """The next difference (left side, right side), ``None`` at the end. Raises ``BlocksMissing``."""
        while True:
            left, right = self._left.top(), self._right.top()
            if left is None and right is None:
                return None
            if left == right:
                self._left.items.pop()
                self._right.items.pop()
            elif left is not None and right is not None and not (left.is_key and right.is_key):
                self._expand(left, right)
            elif left is not None and not left.is_key:
                self._left.expand()
            elif right is not None and not right.is_key:
                self._right.expand()
            else:
                pair = self._take(left, right)
                key = next(block.key for block in pair if block is not None)
                if self._last is not None and key <= self._last:
                    raise ProtocolError(_OUT_OF_ORDER)
                self._last = key
                if self._beyond(key):
                    self._left.items.clear()
                    self._right.items.clear()
                    return None
                if not self._before(key):
                    return pair

    def _expand(self, left: _Item, right: _Item) -> None:
        if left.is_key:
            self._right.expand()
        elif right.is_key:
            self._left.expand()
        else:
            one, other = self._left.upper(), self._right.upper()
            if one == other:
                self._left.expand()
                self._right.expand()
            elif other is None or (one is not None and one < other):
                self._right.expand()
            else:
                self._left.expand()

    def _take(self, left: _Item | None, right: _Item | None) -> tuple[Block | None, Block | None]:
        one = self._blocks.get(left.seq) if left is not None else None
        other = self._blocks.get(right.seq) if right is not None else None
        if one is not None and other is not None and one.key != other.key:
            one, other = (one, None) if one.key < other.key else (None, other)
        if one is not None:
            self._left.items.pop()
        if other is not None:
            self._right.items.pop()
        return one, other

    def _before(self, key: bytes) -> bool:
        gt, gte = self._bounds.gt, self._bounds.gte
        return (gt is not None and key <= gt) or (gte is not None and key < gte)

    def _beyond(self, key: bytes) -> bool:
        lt, lte = self._bounds.lt, self._bounds.lte
        return (lt is not None and key >= lt) or (lte is not None and key > lte)
