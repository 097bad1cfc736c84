"""Giving way: work that can wait lets that go first whose answer takes a round trip."""

from __future__ import annotations

import asyncio

_TURNS = 5
"""Of the event loop: a task begins, begins others, one extends a circuit, and its link writes."""


async def others_first() -> None:
    """Return once the tasks begun just before have sent what they begin with, if nothing holds them up."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)
