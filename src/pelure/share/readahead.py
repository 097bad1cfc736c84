"""Fetching what a program that reads a mounted drive will want next: onion circuits are far, not slow."""

from __future__ import annotations

import asyncio
import logging

from pelure.errors import PelureError
from pelure.hyper.blobs.blob_id import BlobId
from pelure.hyper.core.core import Core

BLOCKS_FIRST, BLOCKS_MAX = 4, 128
"""Blocks of the files to come that are fetched ahead of one who reads one file after the other."""

log = logging.getLogger(__name__)


class FilesAhead:
    """Small files are read whole, and often in the drive's order (``grep -r``): fetch the ones that follow.

    Their blocks lie one after the other. One who jumps about has nothing fetched ahead.
    """

    def __init__(self, seconds: float) -> None:
        """``seconds``: how long to wait for blocks."""
        self._seconds = seconds
        self._next = 0
        self._ahead = 0
        self._until = 0
        self._fetching: asyncio.Task[None] | None = None

    def reads(self, core: Core, blob: BlobId) -> None:
        """The file of ``blob`` in ``core`` is read from its beginning."""
        follows = 0 < blob.block_offset == self._next
        self._next = blob.block_offset + blob.block_length
        if not follows:
            self._ahead = self._until = 0
            return
        self._ahead = min(max(2 * self._ahead, BLOCKS_FIRST), BLOCKS_MAX)
        end = min(self._next + self._ahead, core.length)
        if self._next + self._ahead // 2 < self._until or self._next >= end:
            return
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.ensure_future(download(core, self._next, end, self._seconds))
            self._until = end

    def stop(self) -> None:
        """Fetch nothing more."""
        if self._fetching is not None:
            self._fetching.cancel()


async def download(core: Core, first: int, end: int, seconds: float) -> None:
    """Have these blocks fetched together, as long as that takes no more than ``seconds``; never raises."""
    try:
        async with asyncio.timeout(seconds):
            await core.download([(first, end)])
    except (PelureError, TimeoutError) as error:
        log.info("Reading ahead: %s", error)
