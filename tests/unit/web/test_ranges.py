"""Range headers as RFC 9110 section 14 has them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelure.web.ranges import ByteRange, RangeNotSatisfiable, parse_range


@pytest.mark.parametrize(
    ("header", "size", "expected"),
    [
        (None, 10, None),
        ("bytes=0-4", 10, ByteRange(0, 5)),
        ("bytes=5-", 10, ByteRange(5, 10)),
        ("bytes=-3", 10, ByteRange(7, 10)),
        ("bytes=-30", 10, ByteRange(0, 10)),
        ("bytes=2-100", 10, ByteRange(2, 10)),
        ("bytes=5-5", 10, ByteRange(5, 6)),
        ("bytes=9-9", 10, ByteRange(9, 10)),
        ("bytes=5-2", 10, None),
        ("bytes=0-1,4-5", 10, None),
        ("lines=0-1", 10, None),
        ("bytes=-", 10, None),
    ],
)
def test_table(header: str | None, size: int, expected: ByteRange | None) -> None:
    assert parse_range(header, size) == expected


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=10-", 10), ("bytes=-0", 10), ("bytes=0-", 0), ("bytes=-1", 0)]
)
def test_outside(header: str, size: int) -> None:
    with pytest.raises(RangeNotSatisfiable):
        parse_range(header, size)


@given(st.text(max_size=40), st.integers(0, 100))
def test_any_header_is_safe(header: str, size: int) -> None:
    try:
        found = parse_range(header, size)
    except RangeNotSatisfiable:
        return
    assert found is None or 0 <= found.start < found.end <= size
