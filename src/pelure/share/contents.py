"""What somebody needs to have all of a drive, so that its publisher can tell when a reader does.

Older versions do not count: readers fetch what the newest one holds, and its index only as far as that takes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from pelure.hyper.core.replication.peer import Peer
from pelure.hyper.drive.drive import Drive, merged

LOOK_SHARE = 0.05
"""The part of the time that may go into listing a drive which changes again and again."""
_ENTRIES_AT_ONCE = 1000


class Contents:
    """The blocks of the newest version of ``drive``."""

    def __init__(self, drive: Drive) -> None:
        self.drive = drive
        self._listed: tuple[int, int] | None = None
        self._blocks: list[tuple[int, int]] = []
        self._look_again = 0.0
        self._looking = asyncio.Lock()

    async def held_by(self, peers: Mapping[bytes, Peer]) -> bool:
        """Whether a reader has announced all of it; ``peers`` is the reader at each core, by its key."""
        blobs = await self.drive.blobs()
        head = self.drive.core.length
        if not _covers(peers.get(self.drive.key), [(head - 1, head)] if head else []):
            return False
        async with self._looking:
            if not await self._look():
                return False
        return _covers(peers.get(blobs.core.key), self._blocks)

    async def _look(self) -> bool:
        """List the newest version, unless that was done; false if it is too soon to do it again."""
        view = self.drive.checkout(self.drive.version)
        version = (view.core.fork, view.version)
        if version == self._listed:
            return True
        started = time.monotonic()
        if started < self._look_again:
            return False
        blobs, blocks, count = await self.drive.blobs(), set[tuple[int, int]](), 0
        async for entry in view.list(wait=False):
            if entry.blob is not None:
                blocks.update(await blobs.block_numbers(entry.blob, wait=False))
            count += 1
            if count % _ENTRIES_AT_ONCE == 0:
                await asyncio.sleep(0)
        self._listed, self._blocks = version, merged(list(blocks))
        now = time.monotonic()
        self._look_again = now + (now - started) / LOOK_SHARE
        return True


def _covers(peer: Peer | None, blocks: list[tuple[int, int]]) -> bool:
    """Whether ``peer`` has told that it has ``blocks``."""
    return all(peer is not None and peer.blocks.covers(start, end) for start, end in blocks)
