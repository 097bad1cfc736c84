"""Flat tree numbering: a binary tree laid out in one line of integers (HYPER-FACTS §9).

The leaf of block ``i`` is ``2 i``; a node at depth ``d`` and offset ``o`` is ``o * 2^(d+1) + 2^d - 1``.
Everything here is arithmetic on such indexes.
"""

from __future__ import annotations


def depth(index: int) -> int:
    """Levels above the leaves: the number of trailing one bits."""
    return (~index & (index + 1)).bit_length() - 1


def node_at(level: int, offset: int) -> int:
    """The index of node number ``offset`` at depth ``level``."""
    return (offset << (level + 1)) + (1 << level) - 1


def offset(index: int) -> int:
    """Position among the nodes of the same depth, from the left."""
    return (index + 1) >> (depth(index) + 1)


def parent(index: int) -> int:
    """The node above."""
    step = ~index & (index + 1)  # 2^depth
    return index - step if index & (step << 1) else index + step


def sibling(index: int) -> int:
    """The other child of the same parent."""
    step = (~index & (index + 1)) << 1
    return index - step if index & step else index + step


def left_child(index: int) -> int:
    """The left node below an inner node."""
    return index - ((~index & (index + 1)) >> 1)


def right_child(index: int) -> int:
    """The right node below an inner node."""
    return index + ((~index & (index + 1)) >> 1)


def left_span(index: int) -> int:
    """The leftmost leaf below ``index``."""
    return index - (~index & (index + 1)) + 1


def right_span(index: int) -> int:
    """The rightmost leaf below ``index``."""
    return index + (~index & (index + 1)) - 1


def contains(index: int, other: int) -> bool:
    """Whether ``other`` is ``index`` or lies below it."""
    reach = (~index & (index + 1)) - 1
    return index - reach <= other <= index + reach


def count_leaves(index: int) -> int:
    """The number of blocks below ``index``."""
    return ~index & (index + 1)


def full_roots(length: int) -> list[int]:
    """The roots, left to right, of the full subtrees that make up a tree of ``length`` blocks."""
    roots = []
    start = 0
    while length:
        factor = 1 << (length.bit_length() - 1)
        roots.append(start + factor - 1)
        start += 2 * factor
        length -= factor
    return roots
