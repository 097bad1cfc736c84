"""What is wanted of a core: single blocks, and ranges of blocks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pelure.hyper.core.replication.local import LocalBitfield
    from pelure.hyper.core.replication.peer import Peer


PRIORITY = 1
"""Of requests for what someone waits for; it is 0 for downloads in bulk."""


def finish(future: asyncio.Future[None]) -> None:
    """Wake whoever waits for ``future``; it may have been cancelled already."""
    if not future.done():
        future.set_result(None)


@dataclass(slots=True, eq=False)
class BlockWant:
    """A block that someone waits for."""

    index: int
    futures: list[asyncio.Future[None]] = field(default_factory=list)


class Download:
    """Ranges of blocks being fetched, in order. ``cursors`` tells for each peer where to look on."""

    def __init__(self, ranges: Iterable[tuple[int, int]], future: asyncio.Future[None]) -> None:
        self.ranges = [(start, end) for start, end in ranges if start < end]
        self.future = future
        self.first = 0
        """The first range that is not complete."""
        self._cursors: dict[Peer, tuple[int, int]] = {}

    def complete(self, local: LocalBitfield) -> bool:
        """Note which ranges are held by now; whether all are."""
        while self.first < len(self.ranges):
            start, end = self.ranges[self.first]
            start = local.first_unset(start)
            if start < end:
                self.ranges[self.first] = (start, end)
                return False
            self.first += 1
        return True

    def cursor(self, peer: Peer) -> tuple[int, int]:
        """The number of the range, and the block in it, where ``peer`` goes on."""
        at, index = self._cursors.get(peer, (0, 0))
        return (at, index) if at >= self.first else (self.first, 0)

    def advance(self, peer: Peer, at: int, index: int) -> None:
        """``peer`` has been looked at up to block ``index`` of range ``at``."""
        self._cursors[peer] = (at, index)

    def rewind(self, peer: Peer | None = None) -> None:
        """Something may be asked of ``peer`` (by default of any) that could not be before."""
        if peer is None:
            self._cursors.clear()
        else:
            self._cursors.pop(peer, None)
