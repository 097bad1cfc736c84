"""Hyperblobs: file contents in the blocks of a core (HYPER-FACTS §16).

Contents are cut into blocks of 64 KiB when written. When read, nothing is taken for granted about their
size: positions are found with the sizes in the Merkle tree.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from itertools import islice

from pelure.errors import DriveError, ProtocolError
from pelure.hyper.blobs.blob_id import MAX_MAP_BLOCKS, BlobId, decode_block_map
from pelure.hyper.core.core import Core
from pelure.hyper.core.tree import NotAvailable

BLOCK_SIZE = 65536
_GROUP = 64
_WINDOW = 128
_BLOCKS_WITHOUT_PAUSE = 16
_LENGTH_SECONDS = 30.0
"""Peers that are there have so long to tell of contents that an entry names."""


class Blobs:
    """The blobs in one core. Writers wait for one another, as a blob's blocks are consecutive."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.lock = asyncio.Lock()

    async def put(self, data: bytes | bytearray | memoryview, *, durable: bool = True) -> BlobId:
        """Append ``data``; see :meth:`pelure.hyper.core.state.CoreState.append` for ``durable``."""
        async with self.writer(durable=durable) as writer:
            await writer.write(data)
        return writer.blob

    def writer(self, *, durable: bool = True) -> BlobWriter:
        """Write a blob piece by piece; an async context manager."""
        return BlobWriter(self, durable)

    async def get(
        self,
        blob: BlobId,
        start: int = 0,
        end: int | None = None,
        *,
        wait: bool = True,
        timeout: float | None = None,
    ) -> bytes:
        """Bytes ``start`` to ``end`` (exclusive, default: all) of a blob. Raises like :meth:`Core.get`."""
        return b"".join([part async for part in self.read(blob, start, end, wait=wait, timeout=timeout)])

    async def read(
        self,
        blob: BlobId,
        start: int = 0,
        end: int | None = None,
        *,
        wait: bool = True,
        timeout: float | None = None,
    ) -> AsyncIterator[bytes]:
        """The same bytes block by block; blocks ahead are fetched meanwhile."""
        if blob.block_map:
            blocks, skip, size = await self._mapped(blob, start, end, wait, timeout)
        else:
            blocks, skip, size = await self._plain(blob, start, end, wait, timeout)
        async for part in self._blocks(blocks, wait, timeout):
            piece = part[skip : skip + size] if skip or len(part) > size else part
            skip = max(skip - len(part), 0)
            size -= len(piece)
            if piece:
                yield piece
            if size <= 0:
                return
        if size > 0:
            raise ProtocolError("a blob is shorter than its entry says")

    async def _plain(
        self, blob: BlobId, start: int, end: int | None, wait: bool, timeout: float | None
    ) -> tuple[Iterable[int], int, int]:
        end = blob.byte_length if end is None else min(end, blob.byte_length)
        if start >= end:
            return (), 0, 0
        first, skip = blob.block_offset, 0
        last = blob.block_offset + blob.block_length
        core = self.core
        await self.wait_length(last, wait, timeout)
        if start or end < blob.byte_length:
            if start:
                first, skip = await core.seek(blob.byte_offset + start, wait=wait, timeout=timeout)
            if end < blob.byte_length:
                final, _ = await core.seek(blob.byte_offset + end - 1, wait=wait, timeout=timeout)
                last = min(last, final + 1)
            if not blob.block_offset <= first < last:
                raise ProtocolError("a blob's bytes are not in its blocks")
        return range(first, last), skip, end - start

    async def wait_length(self, length: int, wait: bool = True, timeout: float | None = None) -> None:
        """Wait until the core is known to be as long; for ever only while nobody is there to tell.

        Raises :class:`~pelure.hyper.core.tree.NotAvailable`: an entry may name what never was.
        """
        if timeout is not None or not wait or length <= self.core.length:
            await self.core.wait_length(length, wait=wait, timeout=timeout)
            return
        while length > self.core.length:
            alone = self.core.replicator is None
            try:
                await self.core.wait_length(length, timeout=_LENGTH_SECONDS)
            except NotAvailable:
                if not alone and self.core.replicator is not None:
                    raise NotAvailable("an entry names contents that the drive does not have") from None

    async def _mapped(
        self, blob: BlobId, start: int, end: int | None, wait: bool, timeout: float | None
    ) -> tuple[Iterable[int], int, int]:
        entries = await self.block_map(blob, wait=wait, timeout=timeout)
        await self.wait_length(max((index + 1 for index, _ in entries), default=0), wait, timeout)
        total = sum(size for _, size in entries)
        end = total if end is None else min(end, total)
        at = 0
        while at < len(entries) and start >= entries[at][1]:
            start, end = start - entries[at][1], end - entries[at][1]
            at += 1
        return [index for index, _ in entries[at:]], start, max(end - start, 0)

    async def block_map(
        self, blob: BlobId, *, wait: bool = True, timeout: float | None = None
    ) -> list[tuple[int, int]]:
        """The blocks of a block-map blob: (block number, bytes), in order."""
        if blob.block_length > MAX_MAP_BLOCKS:
            raise ProtocolError("a block map is too long")
        entries: list[tuple[int, int]] = []
        for index in range(blob.block_offset, blob.block_offset + blob.block_length):
            entries += decode_block_map(await self.core.get(index, wait=wait, timeout=timeout))
        return entries

    async def byte_length(self, blob: BlobId, *, wait: bool = True) -> int:
        """The size of the blob's content."""
        if not blob.block_map:
            return blob.byte_length
        return sum(size for _, size in await self.block_map(blob, wait=wait))

    async def block_numbers(self, blob: BlobId, *, wait: bool = True) -> list[tuple[int, int]]:
        """The (start, end) ranges of all blocks a blob needs, those of its map included."""
        ranges = [(blob.block_offset, blob.block_offset + blob.block_length)]
        if blob.block_map:
            ranges += [(index, index + 1) for index, _ in await self.block_map(blob, wait=wait)]
        return ranges

    async def _blocks(
        self, indexes: Iterable[int], wait: bool, timeout: float | None
    ) -> AsyncIterator[bytes]:
        ahead: deque[tuple[int, asyncio.Task[bytes] | None]] = deque()
        rest = iter(indexes)
        count = 0
        try:
            while True:
                for index in islice(rest, _WINDOW - len(ahead)):
                    fetch = wait and not self.core.has(index)
                    task = asyncio.ensure_future(self.core.get(index, timeout=timeout)) if fetch else None
                    ahead.append((index, task))
                if not ahead:
                    return
                index, task = ahead.popleft()
                count += 1
                if count % _BLOCKS_WITHOUT_PAUSE == 0:
                    await asyncio.sleep(0)
                yield await (task or self.core.get(index, wait=wait, timeout=timeout))
        finally:
            for _, task in ahead:
                if task is not None:
                    task.cancel()

    async def clear(self, blob: BlobId) -> int:
        """Delete a blob's content here (peers may have it still); return the bytes freed."""
        if blob.block_map:
            try:
                ranges = await self.block_numbers(blob, wait=False)
            except DriveError:  # the map is not here, so what it names is of no use either
                ranges = [(blob.block_offset, blob.block_offset + blob.block_length)]
            return sum(self.core.clear(start, end) for start, end in ranges)
        return self.core.clear(blob.block_offset, blob.block_offset + blob.block_length)


class BlobWriter:
    """Appends the pieces of one blob; ``blob`` is its id once the writer is closed without an error."""

    def __init__(self, blobs: Blobs, durable: bool) -> None:
        self._blobs = blobs
        self._durable = durable
        self._buffer = bytearray()
        self._blob: BlobId | None = None
        self._first = self._start = self._size = 0

    @property
    def blob(self) -> BlobId:
        """The finished blob's id."""
        if self._blob is None:
            raise DriveError("the blob is not finished")
        return self._blob

    async def __aenter__(self) -> BlobWriter:
        await self._blobs.lock.acquire()
        core = self._blobs.core
        self._first, self._start = core.length, core.byte_length
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if error is None:
                self._flush(len(self._buffer))
                core = self._blobs.core
                blocks = core.length - self._first
                self._blob = BlobId(self._first, self._start, blocks, self._size)
                if self._durable:
                    core.storage.store.commit()
        finally:
            self._blobs.lock.release()

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Add a piece of any length."""
        self._size += len(data)
        view = memoryview(data)
        step = _GROUP * BLOCK_SIZE
        while view:
            self._buffer += view[:step]
            view = view[step:]
            if len(self._buffer) >= step:
                self._flush(len(self._buffer) // BLOCK_SIZE * BLOCK_SIZE)
                await asyncio.sleep(0)

    def _flush(self, size: int) -> None:
        view = memoryview(self._buffer)
        blocks = [bytes(view[at : min(at + BLOCK_SIZE, size)]) for at in range(0, size, BLOCK_SIZE)]
        view.release()
        del self._buffer[:size]
        self._blobs.core.append(blocks, durable=False)
