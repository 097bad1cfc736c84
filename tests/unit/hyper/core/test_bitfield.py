"""The bitfield behaves like a set of numbers."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.hyper.core.bitfield import PAGE_BITS, Bitfield

LIMIT = 3 * PAGE_BITS
numbers = st.integers(0, LIMIT - 1)
steps = st.lists(st.tuples(st.booleans(), numbers, numbers), max_size=12)


def build(changes: list[tuple[bool, int, int]]) -> tuple[Bitfield, set[int]]:
    bits, expected = Bitfield(), set()
    for value, one, other in changes:
        start, end = min(one, other), max(one, other)
        bits.set_range(start, end, value)
        (expected.update if value else expected.difference_update)(range(start, end))
        bits.set(other, value)
        (expected.add if value else expected.discard)(other)
    return bits, expected


@given(steps, numbers, numbers)
@settings(deadline=None, max_examples=60)
def test_like_a_set(changes: list[tuple[bool, int, int]], start: int, end: int) -> None:
    bits, expected = build(changes)
    assert [index for index in range(LIMIT) if bits.get(index)] == sorted(expected)
    assert bits.count(start, end) == len([index for index in expected if start <= index < end])
    above = [index for index in sorted(expected) if index >= start]
    assert bits.first_set(start) == (above[0] if above else None)
    assert bits.first_set(start, end) == (above[0] if above and above[0] < end else None)
    first_unset = bits.first_unset(start)
    assert first_unset not in expected and all(i in expected for i in range(start, first_unset))


@given(steps)
@settings(deadline=None, max_examples=30)
def test_pages_and_words_hold_it_all(changes: list[tuple[bool, int, int]]) -> None:
    bits, expected = build(changes)
    again, from_words = Bitfield(), Bitfield()
    for page in bits.dirty:
        again.load_page(page, bits.page(page))
    words = bits.words(0, LIMIT)
    assert len(words) % 4 == 0
    for at, byte in enumerate(words):
        for bit in range(8):
            if byte >> bit & 1:
                from_words.set(8 * at + bit)
    for index in range(LIMIT):
        assert again.get(index) == from_words.get(index) == (index in expected)


def test_beyond_the_end() -> None:
    bits = Bitfield()
    assert bits.first_unset(10**9) == 10**9
    assert bits.first_set(10**9) is None
    assert bits.count(10**9, 10**9 + 5) == 0
    assert not bits.get(10**12)


def test_below_the_start() -> None:
    """Python's own sequences count from their ends there."""
    bits = Bitfield()
    bits.set_range(0, PAGE_BITS)
    assert not bits.get(-1)


def test_taking_out_what_never_was_in_costs_nothing() -> None:
    bitfield = Bitfield()
    bitfield.set_range(10, 20)
    bitfield.set_range(15, 1 << 50, False)
    assert [index for index in range(30) if bitfield.get(index)] == list(range(10, 15))
    assert len(bitfield.words(0, 1 << 20)) == 4


def test_a_high_number_takes_no_more_memory_than_a_low_one() -> None:
    bitfield = Bitfield()
    bitfield.set_range(10, 20)
    bitfield.set(1 << 50)
    assert bitfield.get(1 << 50) and not bitfield.get((1 << 50) + 1)
    assert bitfield.first_set(20) == 1 << 50 and bitfield.first_set(20, 1 << 50) is None
    assert bitfield.count(15, 1 << 51) == 6
    assert bitfield.words(1 << 50, 32) == b"\1\0\0\0"


def test_far_apart_is_found_as_fast_as_side_by_side() -> None:
    bitfield = Bitfield()
    far = [number << 40 for number in reversed(range(5_000))]
    for index in far:
        bitfield.set(index)
    found, at = [], bitfield.first_set(0)
    while at is not None:
        found.append(at)
        at = bitfield.first_set(at + 1)
    assert found == far[::-1]
    assert bitfield.count(0, 1 << 60) == 5_000
    bitfield.set_range(1, 1 << 60, False)
    assert bitfield.first_set(1) is None and bitfield.get(0)
