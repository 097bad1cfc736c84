"""Flat tree numbering against its definition."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.hyper.core import flat_tree as f


@given(st.integers(0, 40), st.integers(0, 2**20))
@settings(deadline=None, max_examples=100)
def test_relations_of_a_node(level: int, number: int) -> None:
    node = f.node_at(level, number)
    assert (f.depth(node), f.offset(node)) == (level, number)
    assert f.parent(node) == f.node_at(level + 1, number // 2)
    assert f.sibling(node) == f.node_at(level, number ^ 1)
    assert f.left_span(node) == 2 * (number << level)
    assert f.right_span(node) == 2 * ((number + 1 << level) - 1)
    assert f.count_leaves(node) == 1 << level
    assert f.contains(f.parent(node), node) and not f.contains(node, f.parent(node))
    if level:
        assert f.parent(f.left_child(node)) == f.parent(f.right_child(node)) == node


def test_full_roots() -> None:
    assert f.full_roots(0) == []
    assert f.full_roots(1) == [0]
    assert f.full_roots(7) == [3, 9, 12]
    assert f.full_roots(8) == [7]
