"""Changing the B-tree of a Hyperbee (HYPER-FACTS §14), block for block as npm hyperbee does.

A node has 4 to 8 keys (the root fewer). Each put or delete makes one block, which holds every tree node on
the path that changed. In a batch, a tree node that a later block of the batch writes again is left out of
the earlier one.
"""

from __future__ import annotations

from bisect import bisect_left

from pelure.hyper.bee.blocks import BlockCache
from pelure.hyper.bee.messages import Level, encode_block

MIN_KEYS = 4
MAX_KEYS = 2 * MIN_KEYS


class Child:
    """A pointer to tree node ``level`` of block ``seq``; ``node`` once it is loaded."""

    __slots__ = ("level", "node", "seq")

    def __init__(self, seq: int, level: int, node: TreeNode | None = None) -> None:
        self.seq = seq
        self.level = level
        self.node = node


class TreeNode:
    """A B-tree node being edited: its ``keys`` and the blocks they are in, ``seqs``.

    ``sparse``: some keys are ``None``, because they are not loaded. ``changed``: the block of the deletion
    that is being made has to hold the node.
    """

    __slots__ = ("changed", "children", "keys", "seqs", "sparse")

    def __init__(
        self, keys: list[bytes | None], seqs: list[int], children: list[Child], sparse: bool = False
    ) -> None:
        self.keys = keys
        self.seqs = seqs
        self.children = children
        self.sparse = sparse
        self.changed = False

    def insert(self, at: int, key: bytes | None, seq: int) -> None:
        """Put a key in place ``at``."""
        self.keys.insert(at, key)
        self.seqs.insert(at, seq)

    def pop(self, at: int) -> tuple[bytes | None, int]:
        """Take key ``at`` out."""
        return self.keys.pop(at), self.seqs.pop(at)

    def split(self) -> tuple[bytes | None, int, TreeNode]:
        """Move the upper half to a new node; return the key between the two, its block, and that node."""
        right = TreeNode(self.keys[-MIN_KEYS:], self.seqs[-MIN_KEYS:], [], self.sparse)
        del self.keys[-MIN_KEYS:], self.seqs[-MIN_KEYS:]
        if self.children:
            right.children = self.children[-MIN_KEYS - 1 :]
            del self.children[-MIN_KEYS - 1 :]
        return *self.pop(-1), right

    def write_out(self, index: list[Child], seq: int) -> None:
        """Give this node's changed children, and theirs, their places in block ``seq``."""
        self.changed = False
        for child in self.children:
            if child.node is not None and child.node.changed:
                child.seq, child.level = seq, len(index)
                index.append(child)
                child.node.write_out(index, seq)

    def level(self) -> Level:
        """The form in a block."""
        pointers = [number for child in self.children for number in (child.seq, child.level)]
        return self.seqs, pointers


class Editor:
    """A run of puts and deletes that become the blocks from ``first`` on.

    A key often goes into the same leaf as the one before. Then there is no need to look for it, and of the
    tree nodes that the one before changed, those on the way to the leaf are written again, so that its block
    will not hold them: so the way to the last leaf is kept, and its pointers are set (:meth:`_settle`) once
    another way is taken.
    """

    def __init__(self, blocks: BlockCache, root: TreeNode | None, first: int) -> None:
        self.blocks = blocks
        self.root = root
        self.first = first
        self._keys: list[bytes] = []
        self._values: list[bytes | None] = []
        self._indexes: list[list[Child]] = []
        self._leaf: TreeNode | None = None
        self._after: bytes | None = None
        self._before: bytes | None = None
        self._way: list[Child] = []

    @classmethod
    def load(cls, blocks: BlockCache, version: int) -> Editor:
        """An editor of the tree as of ``version``. Raises ``BlocksMissing``."""
        root = None
        if version > 1:
            root = _load_node(blocks, version - 1, 0)
        return cls(blocks, root, max(version, 1))

    def put(self, key: bytes, value: bytes | None) -> None:
        """Set ``key``."""
        seq = self.first + len(self._keys)
        leaf, after, before = self._leaf, self._after, self._before
        if leaf is not None and (after is None or after < key) and (before is None or key < before):
            at, found = self._search(leaf, key)
            if found:
                leaf.seqs[at] = seq
            else:
                leaf.insert(at, key, seq)
            if self._indexes[-1] is self._way:
                self._indexes[-1] = []
        else:
            self._settle()
            self._put(key, seq)
        full = self._leaf is not None and len(self._leaf.keys) > MAX_KEYS
        self._indexes.append(self._split_up(key, seq) if full else self._way)
        self._keys.append(key)
        self._values.append(value)

    def _put(self, key: bytes, seq: int) -> None:
        """Find the place of ``key`` from the root on, and put it there."""
        if self.root is None:
            self.root = TreeNode([], [], [])
        node = self.root
        way = [Child(seq, 0, node)]
        after = before = None
        while True:
            at, found = self._search(node, key)
            if found or not node.children:
                break
            if at:
                after = node.keys[at - 1]
            if at < len(node.keys):
                before = node.keys[at]
            child = node.children[at]
            node = child.node or self._child(node, at)
            way.append(child)
        if found:
            node.seqs[at] = seq
        else:
            node.insert(at, key, seq)
        self._way = way
        self._leaf, self._after, self._before = (None if node.children else node), after, before

    def _settle(self) -> None:
        """Have the way to the last leaf point to the block of the last put, unless that has seen to it."""
        seq = self.first + len(self._keys) - 1
        if self._indexes and self._indexes[-1] is self._way:
            for level, child in enumerate(self._way):
                child.seq, child.level = seq, level
        self._way = []
        self._leaf = None

    def _split_up(self, key: bytes, seq: int) -> list[Child]:
        """Split the leaf at the end of the way, and the nodes above it as far as this makes them too long.

        Returns the changed nodes in the order of the block: each before those below it. The way to the leaf
        goes on to the half that ``key`` is in.
        """
        way, followed = self._way, list(self._way)
        nodes = [child.node for child in way if child.node is not None]
        below: list[tuple[int, list[Child]]] = []  # by their place in the node: changed children, and theirs
        for depth in range(len(nodes) - 1, -1, -1):
            node, left = nodes[depth], [way[depth]]
            if len(node.keys) <= MAX_KEYS:
                for _, found in below:
                    left += found
                below = [(0, left)]
                continue
            median, number, half = node.split()
            right = [Child(seq, 0, half)]
            if followed[depth + 1] in half.children if half.children else self._goes_right(half, median, key):
                followed[depth] = right[0]
            for place, found in below:
                (left if place < len(node.children) else right).extend(found)
            if depth == 0:
                self.root = TreeNode([median], [number], [left[0], right[0]], median is None)
                followed.insert(0, way[0])
                below = [(0, [Child(seq, 0, self.root)]), (0, left), (1, right)]
                break
            parent = nodes[depth - 1]
            at = parent.children.index(way[depth])
            parent.insert(at, median, number)
            parent.sparse |= median is None
            parent.children.insert(at + 1, right[0])
            below = [(at, left), (at + 1, right)]
        index = [child for _, found in below for child in found]
        for level, child in enumerate(index):
            child.seq, child.level = seq, level
        self._way = [Child(seq, 0, self.root), *followed[1:]]
        return index

    def _goes_right(self, half: TreeNode, median: bytes | None, key: bytes) -> bool:
        """The last leaf was split: go on in the part that ``key`` is in; whether that is the new ``half``."""
        if median is None:  # not loaded
            self._leaf = None
        elif key < median:
            self._before = median
        else:
            self._leaf, self._after = half, median
            return True
        return False

    def delete(self, key: bytes) -> bool:
        """Remove ``key``; return whether it was there."""
        self._settle()
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
            node.pop(at)
        for node in path:
            node.changed = True
        self.root = self._rebalance(path)
        seq = self.first + len(self._keys)
        index = [Child(seq, 0, self.root)]
        self.root.write_out(index, seq)
        self._keys.append(key)
        self._values.append(None)
        self._indexes.append(index)
        return True

    def _swap_with_leaf(self, node: TreeNode, at: int, path: list[TreeNode]) -> None:
        """Put the nearest key of a leaf in the place of key ``at``: from the leaf that has more keys."""
        left = self._spine(self._child(node, at), -1)
        right = self._spine(self._child(node, at + 1), 0)
        if len(left[-1].keys) < len(right[-1].keys):
            path += right
            key, seq = right[-1].pop(0)
        else:
            path += left
            key, seq = left[-1].pop(-1)
        node.keys[at], node.seqs[at] = key, seq
        node.sparse |= key is None

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
        """Where ``key`` is or belongs in the node, and whether it is there."""
        keys = node.keys
        if node.sparse:
            return self._search_sparse(node, key)
        at = bisect_left(keys, key)  # type: ignore[type-var]  # there is no None in it
        return at, at < len(keys) and keys[at] == key

    def _search_sparse(self, node: TreeNode, key: bytes) -> tuple[int, bool]:
        """The same, loading only the keys that it takes."""
        low, high = 0, len(node.keys)
        while low < high:
            middle = (low + high) >> 1
            other = node.keys[middle]
            if other is None:
                other = node.keys[middle] = self.blocks.get(node.seqs[middle]).key
                node.sparse = None in node.keys
            if key == other:
                return middle, True
            if key < other:
                high = middle
            else:
                low = middle + 1
        return low, False

    def _child(self, node: TreeNode, at: int) -> TreeNode:
        child = node.children[at]
        if child.node is None:
            child.node = _load_node(self.blocks, child.seq, child.level)
        return child.node

    def take_blocks(self) -> list[bytes]:
        """The blocks of all changes so far; the editor is ready for the ones after them."""
        self._settle()
        last = self.first + len(self._keys) - 1
        encoded = []
        changes = zip(self._keys, self._values, self._indexes, strict=True)
        for seq, (key, value, index) in enumerate(changes, self.first):
            if index and seq < last:
                _drop_rewritten(index, seq)
            levels = [child.node.level() for child in index if child.node is not None]
            encoded.append(encode_block(key, value, levels))
        self.first += len(encoded)
        self._keys, self._values, self._indexes = [], [], []
        return encoded


def _load_node(blocks: BlockCache, seq: int, level: int) -> TreeNode:
    block = blocks.get(seq)
    seqs, pointers = block.level(level)
    keys = [block.key if number == seq else None for number in seqs]
    children = [Child(*pair) for pair in zip(pointers[::2], pointers[1::2], strict=True)]
    return TreeNode(keys, list(seqs), children, None in keys)


def _borrow_left(parent: TreeNode, at: int, left: TreeNode, node: TreeNode) -> None:
    left.changed = True
    node.insert(0, parent.keys[at - 1], parent.seqs[at - 1])
    if left.children:
        node.children.insert(0, left.children.pop())
    parent.keys[at - 1], parent.seqs[at - 1] = left.pop(-1)
    _spread_sparse(parent, node, left)


def _borrow_right(parent: TreeNode, at: int, node: TreeNode, right: TreeNode) -> None:
    right.changed = True
    node.insert(len(node.keys), parent.keys[at], parent.seqs[at])
    if right.children:
        node.children.append(right.children.pop(0))
    parent.keys[at], parent.seqs[at] = right.pop(0)
    _spread_sparse(parent, node, right)


def _merge(parent: TreeNode, at: int, left: TreeNode, right: TreeNode) -> None:
    left.changed = True
    left.insert(len(left.keys), *parent.pop(at))
    left.keys += right.keys
    left.seqs += right.seqs
    left.children += right.children
    parent.children[at + 1].seq = 0  # no block holds it any more
    del parent.children[at + 1]
    parent.changed = True
    _spread_sparse(parent, left, right)


def _spread_sparse(*nodes: TreeNode) -> None:
    """Keys moved between these nodes; see which of them have keys that are not loaded."""
    for node in nodes:
        node.sparse = None in node.keys


def _drop_rewritten(index: list[Child], seq: int) -> None:
    """Leave out the root and all nodes that a later block of the batch holds, as npm does: by moving the
    last one into the gap.
    """
    index[0].seq = 0
    at = 0
    while at < len(index):
        child = index[at]
        if child.seq == seq:
            child.level = at
            at += 1
            continue
        moved = index.pop()
        if at < len(index):
            index[at] = moved
