"""The interval set against a plain set of numbers."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.hyper.core.replication import intervals
from pelure.hyper.core.replication.intervals import IntervalSet

numbers = st.integers(0, 120)
steps = st.lists(
    st.tuples(st.sampled_from(["add", "remove"]), numbers, numbers)
    | st.tuples(st.just("words"), st.integers(0, 3), st.binary(max_size=12)),
    max_size=30,
)


@settings(deadline=None, max_examples=100)
@given(steps)
def test_like_a_set(actions: list[tuple]) -> None:
    mine, model = IntervalSet(), set()
    for action, first, second in actions:
        if action == "words":
            words = second[: len(second) - len(second) % 4]
            bits = np.unpackbits(np.frombuffer(words, np.uint8), bitorder="little")
            mine.set_words(32 * first, words)
            model -= set(range(32 * first, 32 * first + len(bits)))
            model |= {32 * first + int(at) for at in np.flatnonzero(bits)}
        else:
            getattr(mine, action)(first, second)
            model = (
                model | set(range(first, second)) if action == "add" else model - set(range(first, second))
            )
        assert [index for index in range(260) if index in mine] == sorted(model)
        assert [index for start, end in mine for index in range(start, end)] == sorted(model)
        assert all(end < start for (_, end), (start, _) in zip(list(mine), list(mine)[1:], strict=False))
    for index in range(0, 260, 7):
        assert mine.next(index) == min((member for member in model if member >= index), default=None)
        assert mine.covers(index, index + 5) == all(at in model for at in range(index, index + 5))


def test_huge_ranges_cost_nothing() -> None:
    mine = IntervalSet()
    mine.add(0, 2**53)
    mine.remove(2**40, 2**40 + 1)
    assert 2**52 in mine and 2**40 not in mine


def test_scattered_blocks_are_remembered_only_up_to_a_limit(monkeypatch) -> None:
    monkeypatch.setattr(intervals, "MAX_INTERVALS", 10)
    mine = IntervalSet()
    for index in range(0, 100, 2):
        mine.add(index, index + 1)
    mine.set_words(1024, b"\x55" * 400)
    assert len(list(mine)) <= 12
    assert 0 in mine and 18 in mine


def test_taking_out_single_blocks_costs_bounded_memory(monkeypatch) -> None:
    monkeypatch.setattr(intervals, "MAX_INTERVALS", 100)
    found = IntervalSet()
    found.add(0, 10**9)
    for index in range(1, 1000, 2):
        found.remove(index, index + 1)
    assert len(list(found)) <= 100
    assert 0 in found and not any(index in found for index in range(1, 1000, 2))
