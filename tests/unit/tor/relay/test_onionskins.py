"""Circuit handshakes wait in line, take turns and are shed."""

from __future__ import annotations

import asyncio

import pytest

from pelure.tor.relay import onionskins
from pelure.tor.relay.onionskins import OnionskinQueue

from .support import until


async def test_onionskins_take_turns_and_are_shed() -> None:
    queue = OnionskinQueue()
    queue.seconds_each = 0.125  # 14 may wait
    order: list[str] = []
    accepted = [queue.submit("flooder", lambda: order.append("flooder")) for _ in range(40)]
    assert accepted.count(True) == 14 and queue.shed == 26
    assert queue.submit("honest", lambda: order.append("honest"))
    assert queue.submit("gone", lambda: order.append("gone"))
    queue.forget("gone")
    await until(lambda: not queue.queued)
    assert order.index("honest") <= 1 and "gone" not in order
    assert queue.done == 15


async def test_links_share_the_time_that_handshakes_may_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = OnionskinQueue()
    queue.seconds_each = 0.125  # 14 may wait, 7 of each of two links
    for link, room in (("first", 14), ("second", 7), ("first", 0)):
        assert [queue.submit(link, lambda: None) for _ in range(20)].count(True) == room
    monkeypatch.setattr(onionskins, "MAX_QUEUED", queue.queued + 1)
    assert queue.submit("third", lambda: None) and not queue.submit("fourth", lambda: None)
    await until(lambda: queue.done == 22)


async def test_between_slices_of_handshakes_the_loop_does_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(onionskins, "perf_counter", lambda: clock[0])
    queue = OnionskinQueue()
    each = 0.6 * onionskins.SLICE
    order: list[str] = []

    def handshake() -> None:
        clock[0] += each
        order.append("handshake")

    def other() -> None:
        order.append("other")
        if queue.queued:
            asyncio.get_running_loop().call_soon(other)

    for _ in range(2):  # the second time after a rest
        order.clear()
        assert all(queue.submit("link", handshake) for _ in range(5))
        asyncio.get_running_loop().call_soon(other)
        await until(lambda: not queue.queued and order[-1] == "other")
        assert order == ["handshake", "handshake", "other"] * 2 + ["handshake", "other"]
    assert queue.seconds_each == pytest.approx(each - 0.9**6 * (each - onionskins.FIRST_GUESS))


async def test_a_handshake_that_fails_does_not_hold_up_the_others(caplog: pytest.LogCaptureFixture) -> None:
    queue = OnionskinQueue()
    done: list[int] = []
    queue.submit("first", lambda: done.append(1 // 0))
    queue.submit("second", lambda: done.append(2))
    await until(lambda: done)
    assert done == [2] and "bug" in caplog.text
