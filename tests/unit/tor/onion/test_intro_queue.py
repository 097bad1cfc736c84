"""The queue of introductions and the suggested effort (proposal 327 sections 3.4.2, 3.4.3)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pelure.tor.onion.intro_queue import MAX_WAIT_SECONDS, IntroQueue, PowLimits

SMALL = PowLimits(rate=1, burst=3)
"""8 waiting make a queue, at 63 it is trimmed."""


def filled(efforts: list[int], now: float = 0.0) -> IntroQueue[int]:
    queue = IntroQueue[int](SMALL)
    for number, effort in enumerate(efforts):
        queue.add(number, effort, now)
    return queue


def drained(queue: IntroQueue[int], now: float = 0.0) -> list[int]:
    order = []
    while (request := queue.pop(now)) is not None:
        order.append(request)
    return order


def test_limits() -> None:
    """C tor's defaults, and the levels that it derives from them."""
    assert (PowLimits().rate, PowLimits().burst) == (250, 2500)
    assert (PowLimits().low_level, PowLimits().high_level) == (62, 17_500)
    assert (SMALL.low_level, SMALL.high_level) == (8, 63)


@given(st.lists(st.integers(0, 50), max_size=60))
def test_more_effort_first_then_who_came_first(efforts: list[int]) -> None:
    assert drained(filled(efforts)) == sorted(range(len(efforts)), key=lambda number: -efforts[number])


def test_who_waited_too_long_is_passed_over() -> None:
    queue = filled([9, 1])
    queue.add(2, 0, 10.0)
    assert drained(queue, MAX_WAIT_SECONDS + 1) == [2]
    assert len(queue) == 0
    queue.update_effort()
    assert queue.suggested_effort == 10, "effort 9 was too little; 10 came in all, and one was answered"


def test_a_queue_too_long_loses_its_lower_half() -> None:
    queue = filled([*range(SMALL.high_level)])
    assert len(queue) == SMALL.high_level // 2
    assert drained(queue) == [*range(62, 31, -1)]


def test_without_a_queue_nobody_is_asked_for_work() -> None:
    queue = filled([5, 0])
    drained(queue)
    queue.update_effort()
    assert queue.suggested_effort == 0


def test_a_queue_that_stays_raises_the_suggestion_to_the_mean_effort() -> None:
    queue = filled([0] * 5 + [100] * 6)
    for _ in range(4):
        assert queue.pop(0.0) is not None
    queue.update_effort()
    assert queue.suggested_effort == 150, "600 in all, 4 answered"
    queue.update_effort()
    assert queue.suggested_effort == 100, "those who still wait made less than was suggested, and are few"


def test_a_queue_without_work_raises_it_by_one() -> None:
    queue = filled([0] * 10)
    queue.pop(0.0)
    queue.update_effort()
    assert queue.suggested_effort == 1


def test_a_queue_of_those_who_make_less_leaves_it() -> None:
    queue = filled([0] * 10)
    queue.suggested_effort = 30
    assert not queue.top_follows_suggestion
    queue.update_effort()
    assert queue.suggested_effort == 30
    queue.add(99, 30, 0.0)
    assert queue.top_follows_suggestion


def test_dropping_who_followed_the_suggestion_raises_it() -> None:
    queue = filled([7] * SMALL.high_level)
    queue.suggested_effort = 6
    drained(queue)
    queue.update_effort()
    assert queue.suggested_effort == 7 * SMALL.high_level // (SMALL.high_level // 2)


def test_it_falls_by_a_third_to_nothing() -> None:
    queue = filled([])
    queue.suggested_effort = 10
    efforts = []
    for _ in range(6):
        queue.update_effort()
        efforts.append(queue.suggested_effort)
    assert efforts == [6, 4, 2, 1, 0, 0]


def test_it_stays_a_number_of_32_bits() -> None:
    queue = filled([0xFFFFFFFF] * 10)
    queue.pop(0.0)
    queue.update_effort()
    assert queue.suggested_effort == 0xFFFFFFFF
