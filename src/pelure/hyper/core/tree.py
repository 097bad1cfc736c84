"""The Merkle tree of a core: growing it, and finding bytes in it (HYPER-FACTS §9).

A tree is known by its full roots. :class:`TreeBatch` grows a copy of them and collects the nodes this makes,
so that nothing is stored before everything is verified and signed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import add
from typing import NamedTuple

from pelure.errors import DriveError, ProtocolError
from pelure.hyper.core import flat_tree
from pelure.hyper.core.hashing import parent_hash, parent_node, tree_hash
from pelure.hyper.wire.parts import Node

_MANY = 16
"""Leaves from which on it pays to add them by rows."""

GetNode = Callable[[int], Node | None]


class NotAvailable(DriveError):
    """A block, tree node or version that is needed is not held here, and can't be had now."""


class NodeMissing(NotAvailable):
    """A tree node that is needed is not held here."""

    def __init__(self, index: int) -> None:
        super().__init__(f"tree node {index} is not held here")


def need(get: GetNode, index: int) -> Node:
    """The node ``index``. Raises :class:`NodeMissing`."""
    node = get(index)
    if node is None:
        raise NodeMissing(index)
    return node


class NodeRow(NamedTuple):
    """Neighbouring nodes of one depth: the index of the first, the step to the next, sizes and hashes."""

    first: int
    step: int
    sizes: Sequence[int]
    hashes: Sequence[bytes]


class TreeBatch:
    """A tree being grown from ``roots``; ``nodes`` and ``rows`` are the nodes that came to be on the way."""

    def __init__(self, roots: Sequence[Node], length: int, fork: int) -> None:
        self.roots = list(roots)
        self.length = length
        self.fork = fork
        self.nodes: list[Node] = []
        self.rows: list[NodeRow] = []

    @property
    def byte_length(self) -> int:
        """Bytes of all blocks."""
        return sum(root.size for root in self.roots)

    def append_leaves(self, sizes: Sequence[int], hashes: Sequence[bytes]) -> None:
        """Add blocks of these sizes with these leaf hashes."""
        if len(sizes) < _MANY:
            for size, digest in zip(sizes, hashes, strict=True):
                self._append_leaf(size, digest)
        else:
            self._append_row(sizes, hashes)

    def _append_leaf(self, size: int, digest: bytes) -> None:
        node = Node(2 * self.length, size, digest)
        self.length += 1
        roots, nodes = self.roots, self.nodes
        nodes.append(node)
        rest = self.length
        while not rest & 1:  # one merge for each power of two
            rest >>= 1
            node = parent_node(roots.pop(), node)
            nodes.append(node)
        roots.append(node)

    def _append_row(self, sizes: Sequence[int], hashes: Sequence[bytes]) -> None:
        """Add all leaves, then their parents, and so on up: half the time of one after the other."""
        depth, start = 0, self.length
        self.length += len(sizes)
        grown: list[Node] = []
        while sizes:
            row = NodeRow(flat_tree.node_at(depth, start), 2 << depth, sizes, hashes)
            self.rows.append(row)
            if start & 1:  # what is to the left of them was a root until now
                left = self.roots.pop()
                sizes, hashes = [left.size, *sizes], [left.hash, *hashes]
            if len(sizes) & 1:  # the last one has no sibling yet
                grown.append(Node(row.first + row.step * (len(row.sizes) - 1), sizes[-1], hashes[-1]))
            sums = list(map(add, sizes[::2], sizes[1::2]))
            hashes = list(map(parent_hash, sums, hashes[::2], hashes[1::2]))
            sizes, start, depth = sums, start >> 1, depth + 1
        self.roots.extend(reversed(grown))

    def append_root(self, node: Node) -> None:
        """Add a full subtree at the end; equal neighbours merge into their parents.

        Raises :class:`~pelure.errors.ProtocolError` if ``node`` does not come next.
        """
        if flat_tree.left_span(node.index) != 2 * self.length:
            raise ProtocolError(f"tree node {node.index} is not the next one")
        roots = self.roots
        self.length += flat_tree.count_leaves(node.index)
        roots.append(node)
        self.nodes.append(node)
        while len(roots) > 1 and flat_tree.sibling(roots[-1].index) == roots[-2].index:
            node = parent_node(roots[-2], roots[-1])
            del roots[-2:]
            roots.append(node)
            self.nodes.append(node)

    def hash(self) -> bytes:
        """The tree hash."""
        return tree_hash(self.roots)

    def copy(self) -> TreeBatch:
        """A tree that grows on its own."""
        return TreeBatch(self.roots, self.length, self.fork)


def unpadded_size(node: Node, padding: int) -> int:
    """Bytes below ``node`` when each block's first ``padding`` bytes don't count."""
    return node.size - padding * flat_tree.count_leaves(node.index)


def byte_offset(get: GetNode, roots: Sequence[Node], index: int) -> int:
    """Bytes before the first block below node ``index``. Raises :class:`NodeMissing`."""
    leaf = flat_tree.left_span(index)
    total = 0
    for root in roots:
        if leaf > flat_tree.right_span(root.index):
            total += root.size
            continue
        at = root.index
        while flat_tree.left_span(at) != leaf:
            left = flat_tree.left_child(at)
            if leaf < at:
                at = left
            else:
                total += need(get, left).size
                at = flat_tree.right_child(at)
        return total
    return total


@dataclass(frozen=True, slots=True)
class SeekResult:
    """Where a byte is: at ``offset`` of block ``start`` if ``found``, else in one of ``start`` to ``end``."""

    found: bool
    start: int
    end: int
    offset: int


def seek(get: GetNode, roots: Sequence[Node], length: int, position: int, padding: int) -> SeekResult:
    """Find the block that holds byte ``position`` of the unpadded bytes, as far as the known nodes tell.

    ``position`` at or past the end gives block ``length``.
    """
    for root in roots:
        size = unpadded_size(root, padding)
        if position >= size:
            position -= size
            continue
        at = root.index
        while at & 1:
            left = get(flat_tree.left_child(at))
            if left is None:
                start, end = flat_tree.left_span(at) // 2, flat_tree.right_span(at) // 2 + 1
                return SeekResult(False, start, end, position)
            size = unpadded_size(left, padding)
            if position < size:
                at = left.index
            else:
                position -= size
                at = flat_tree.right_child(at)
        return SeekResult(True, at // 2, at // 2 + 1, position)
    return SeekResult(True, length, length, position)
