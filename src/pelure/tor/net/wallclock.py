"""Waiting by the wall clock, and noticing that it jumped: the machine slept, or somebody set the clock.

The event loop's timers stand still while a machine sleeps; validity times of directories and descriptors
go on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

LOOK_SECONDS = 10.0
"""So often the wall clock is looked at."""
JUMP_SECONDS = 100.0
"""From here on it is no adjustment but a jump (C tor's limit too)."""


async def sleep_until(due: float) -> None:
    """Return at ``due`` (epoch seconds), or within ``LOOK_SECONDS`` of the machine's waking up later."""
    while (left := due - time.time()) > 0:  # noqa: ASYNC110 - no event tells of a clock that jumps
        await asyncio.sleep(min(left, LOOK_SECONDS))


async def watch_clock(on_jump: Callable[[float], None]) -> None:
    """Call ``on_jump`` with the seconds of each jump of the wall clock, until cancelled."""
    ahead = time.time() - time.monotonic()
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        before, ahead = ahead, time.time() - time.monotonic()
        if abs(ahead - before) >= JUMP_SECONDS:
            on_jump(ahead - before)
