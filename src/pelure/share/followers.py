"""Events of shares, for whoever listens at the moment."""

from __future__ import annotations

import asyncio
from typing import Any

from pelure.share.control import Emit

MAX_UNTOLD = 1000
"""Events kept for one who does not take them."""


class Followers:
    """Those who want to hear the events of a share, or of all (share ``None``)."""

    def __init__(self) -> None:
        self._queues: dict[asyncio.Queue[tuple[str, dict[str, Any]]], str | None] = {}

    def tell(self, event: str, **fields: Any) -> None:
        """Give everybody concerned an event; who does not listen misses events."""
        for queue, share in self._queues.items():
            if share in (None, fields.get("share")):
                try:
                    queue.put_nowait((event, fields))
                except asyncio.QueueFull:
                    pass

    async def follow(self, share: str | None, emit: Emit, until: asyncio.Event | None = None) -> None:
        """Pass events on until ``until`` is set (or for ever)."""
        queue: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue(MAX_UNTOLD)
        self._queues[queue] = share
        stop = asyncio.ensure_future((until or asyncio.Event()).wait())
        try:
            while not (stop.done() and queue.empty()):
                taking = asyncio.ensure_future(queue.get())
                await asyncio.wait((taking, stop), return_when=asyncio.FIRST_COMPLETED)
                if taking.done():
                    event, fields = taking.result()
                    await emit(event, **fields)
                else:
                    taking.cancel()
        except ConnectionError:
            return  # who listened is gone
        finally:
            stop.cancel()
            del self._queues[queue]
