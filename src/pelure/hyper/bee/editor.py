"""Changing the B-tree of a Hyperbee (HYPER-FACTS §14), block for block as npm hyperbee does.

A node has 4 to 8 keys (the root fewer). Each put or delete makes one block, which holds every tree node on
the path that changed. In a batch, a tree node that a later block of the batch writes again is left out of
the earlier one.
"""

from __future__ import annotations

from dataclasses import dataclass

from pelure.hyper.bee.blocks import BlockCache
from pelure.hyper.bee.messages import Level, encode_block

MIN_KEYS = 4
MAX_KEYS = 2 * MIN_KEYS

Key = tuple[int, bytes | None]
"""The number of the block a key is in, and the key once it is loaded."""


class Child:
    """A pointer to tree node ``level`` of block ``seq``; ``node`` once it is loaded."""

    __slots__ = ("level", "node", "seq")

    def __init__(self, seq: int, level: int, node: TreeNode | None = None) -> None:
        self.seq = seq
        self.level = level
        self.node = node


class TreeNode:
    """A B-tree node being edited; ``changed`` when the next block has to hold it."""

    __slots__ = ("changed", "children", "keys")

    def __init__(self, keys: list[Key], children: list[Child], changed: bool = False) -> None:
        self.keys = keys
        self.children = children
        self.changed = changed

    def write_out(self, index: list[Child | None], seq: int) -> int:
        """Give this node and the changed ones below their places in block ``seq``; return this one's."""
        place = len(index)
        index.append(None)
        self.changed = False
        for child in self.children:
            if child.node is not None and child.node.changed:
                child.seq = seq
                child.level = child.node.write_out(index, seq)
                index[child.level] = child
        return place

    def level(self) -> Level:
        """The form in a block."""
        pointers = [number for child in self.children for number in (child.seq, child.level)]
        return [seq for seq, _ in self.keys], pointers


@dataclass(slots=True)
class _Entry:
    key: bytes
    value: bytes | None
    index: list[Child | None]


class Editor:
    """A run of puts and deletes that become the blocks from ``first`` on."""

    def __init__(self, blocks: BlockCache, root: TreeNode | None, first: int) -> None:
        self.blocks = blocks
        self.root = root
        self.first = first
        self._entries: list[_Entry] = []

    @classmethod
    def load(cls, blocks: BlockCache, version: int) -> Editor:
        """An editor of the tree as of ``version``. Raises ``BlocksMissing``."""
        root = None
        if version > 1:
            root = _load_node(blocks, version - 1, 0)
        return cls(blocks, root, max(version, 1))

    def put(self, key: bytes, value: bytes | None) -> None:
        """Set ``key``."""
        seq = self.first + len(self._entries)
        if self.root is None:
            self.root = TreeNode([], [])
        node = self.root
        path: list[TreeNode] = []
        pointers: list[Child] = []
        while True:
            at, found = self._search(node, key)
            if found:
                node.keys[at] = (seq, key)
                break
            if not node.children:
                node.keys.insert(at, (seq, key))
                break
            path.append(node)
            pointers.append(node.children[at])
            node = self._child(node, at)
        if len(node.keys) > MAX_KEYS:
            self._split_up(path, node)
            self._finish(seq, key, value)
            return
        for level, pointer in enumerate(
            pointers, 1
        ):  # what _finish would do, the path being all that changed
            pointer.seq, pointer.level = seq, level
        self._entries.append(_Entry(key, value, [Child(seq, 0, self.root), *pointers]))

    def _split_up(self, path: list[TreeNode], node: TreeNode) -> None:
        """Split ``node``, and those above it in ``path`` as far as this makes them too long."""
        node.changed = True
        for above in path:
            above.changed = True
        while len(node.keys) > MAX_KEYS:
            median, right = _split(node)
            if not path:
                self.root = TreeNode([median], [Child(0, 0, node), Child(0, 0, right)], True)
                return
            parent = path.pop()
            at, _ = self._search(parent, self._key(median))
            parent.keys.insert(at, median)
            parent.children.insert(at + 1, Child(0, 0, right))
            node = parent

    def delete(self, key: bytes) -> bool:
        """Remove ``key``; return whether it was there."""
        if self.root is None:
            return False
        node = self.root
        path = [node]
        at, found = self._search(node, key)
        while not found:
            if not node.children:
                return False
            node = self._child(node, at)
            path.append(node)
            at, found = self._search(node, key)
        if node.children:
            self._swap_with_leaf(node, at, path)
        else:
            del node.keys[at]
        for node in path:
            node.changed = True
        self.root = self._rebalance(path)
        self._finish(self.first + len(self._entries), key, None)
        return True

    def _swap_with_leaf(self, node: TreeNode, at: int, path: list[TreeNode]) -> None:
        """Put the nearest key of a leaf in the place of key ``at``: from the leaf that has more keys."""
        left = self._spine(self._child(node, at), -1)
        right = self._spine(self._child(node, at + 1), 0)
        if len(left[-1].keys) < len(right[-1].keys):
            path += right
            node.keys[at] = right[-1].keys.pop(0)
        else:
            path += left
            node.keys[at] = left[-1].keys.pop()

    def _spine(self, node: TreeNode, side: int) -> list[TreeNode]:
        nodes = [node]
        while node.children:
            node = self._child(node, side if side == 0 else len(node.children) - 1)
            nodes.append(node)
        return nodes

    def _rebalance(self, path: list[TreeNode]) -> TreeNode:
        root = path[0]
        while len(path) > 1:
            node = path.pop()
            if len(node.keys) >= MIN_KEYS:
                return root
            parent = path[-1]
            at = next(i for i, child in enumerate(parent.children) if child.node is node)
            left = self._child(parent, at - 1) if at else None
            right = self._child(parent, at + 1) if at + 1 < len(parent.children) else None
            if left is not None and len(left.keys) > MIN_KEYS:
                _borrow_left(parent, at, left, node)
                return root
            if right is not None and len(right.keys) > MIN_KEYS:
                _borrow_right(parent, at, node, right)
                return root
            if left is not None:
                _merge(parent, at - 1, left, node)
            elif right is not None:
                _merge(parent, at, node, right)
        return self._child(root, 0) if not root.keys and root.children else root

    def _search(self, node: TreeNode, key: bytes) -> tuple[int, bool]:
        low, high = 0, len(node.keys)
        while low < high:
            middle = (low + high) >> 1
            seq, other = node.keys[middle]
            if other is None:
                other = self.blocks.get(seq).key
                node.keys[middle] = (seq, other)
            if key == other:
                return middle, True
            if key < other:
                high = middle
            else:
                low = middle + 1
        return low, False

    def _key(self, key: Key) -> bytes:
        return self.blocks.get(key[0]).key if key[1] is None else key[1]

    def _child(self, node: TreeNode, at: int) -> TreeNode:
        child = node.children[at]
        if child.node is None:
            child.node = _load_node(self.blocks, child.seq, child.level)
        return child.node

    def _finish(self, seq: int, key: bytes, value: bytes | None) -> None:
        assert self.root is not None
        index: list[Child | None] = []
        self.root.write_out(index, seq)
        index[0] = Child(seq, 0, self.root)
        self._entries.append(_Entry(key, value, index))

    def take_blocks(self) -> list[bytes]:
        """The blocks of all changes so far; the editor is ready for the ones after them."""
        last = len(self._entries) - 1
        encoded = []
        for number, entry in enumerate(self._entries):
            if number < last:
                _drop_rewritten(entry.index, self.first + number)
            levels = [child.node.level() for child in entry.index if child is not None and child.node]
            encoded.append(encode_block(entry.key, entry.value, levels))
        self.first += len(self._entries)
        self._entries = []
        return encoded


def _load_node(blocks: BlockCache, seq: int, level: int) -> TreeNode:
    block = blocks.get(seq)
    seqs, pointers = block.level(level)
    children = [Child(*pair) for pair in zip(pointers[::2], pointers[1::2], strict=True)]
    return TreeNode([(number, block.key if number == seq else None) for number in seqs], children)


def _split(node: TreeNode) -> tuple[Key, TreeNode]:
    right = TreeNode(node.keys[-MIN_KEYS:], [], True)
    del node.keys[-MIN_KEYS:]
    median = node.keys.pop()
    if node.children:
        right.children = node.children[-MIN_KEYS - 1 :]
        del node.children[-MIN_KEYS - 1 :]
    return median, right


def _borrow_left(parent: TreeNode, at: int, left: TreeNode, node: TreeNode) -> None:
    left.changed = True
    node.keys.insert(0, parent.keys[at - 1])
    if left.children:
        node.children.insert(0, left.children.pop())
    parent.keys[at - 1] = left.keys.pop()


def _borrow_right(parent: TreeNode, at: int, node: TreeNode, right: TreeNode) -> None:
    right.changed = True
    node.keys.append(parent.keys[at])
    if right.children:
        node.children.append(right.children.pop(0))
    parent.keys[at] = right.keys.pop(0)


def _merge(parent: TreeNode, at: int, left: TreeNode, right: TreeNode) -> None:
    left.changed = True
    left.keys.append(parent.keys[at])
    left.keys += right.keys
    left.children += right.children
    del parent.keys[at]
    parent.children[at + 1].seq = 0  # no block holds it any more
    del parent.children[at + 1]
    parent.changed = True


def _drop_rewritten(index: list[Child | None], seq: int) -> None:
    """Leave out the root and all nodes that a later block of the batch holds, as npm does: by moving the
    last one into the gap.
    """
    index[0] = None
    at = 0
    while at < len(index):
        child = index[at]
        if child is not None and child.seq == seq:
            child.level = at
            at += 1
            continue
        moved = index.pop()
        if at < len(index):
            index[at] = moved
