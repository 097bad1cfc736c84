"""Putting the user's files into a blobs core, fast: copied, or left in place and linked.

Hashing a block (and, if it is copied, writing it) is done by threads, which is as fast as the machine
hashes; the tree on top of it grows in the caller's thread. A file that changes while it is read is refused.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from pelure.errors import DriveError
from pelure.hyper.blobs.blob_id import BlobId
from pelure.hyper.blobs.blobs import BLOCK_SIZE, Blobs
from pelure.hyper.core.core import Core
from pelure.hyper.core.core_storage import INLINE_LIMIT
from pelure.hyper.core.encryption import PADDING
from pelure.hyper.core.hashing import leaf_hash
from pelure.hyper.core.linked import LinkedFile
from pelure.hyper.core.state import PlacedBlock

_CHUNK = 16 * BLOCK_SIZE
_GROUP_BLOCKS = 1024
_THREADS = min(8, os.cpu_count() or 1)

Progress = Callable[[int], None]
"""Called with the number of bytes done since the last call."""

_pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="pelure-import")


async def import_file(
    blobs: Blobs, fd: int, path: str, *, link: bool = False, progress: Progress | None = None
) -> BlobId:
    """Append the content of the open file ``fd``; the blob is durable once the store is committed.

    With ``link`` only hashes are stored and the blocks stay in the file, known by its absolute ``path``.
    Raises :class:`~pelure.errors.DriveError` if the file changes meanwhile, ``OSError`` if it can't be read.
    """
    status = os.fstat(fd)
    if status.st_size <= (INLINE_LIMIT if link else BLOCK_SIZE):
        data = _read(fd, 0, status.st_size, path)
        _check_unchanged(fd, status, path)
        if progress is not None:
            progress(len(data))
        return await blobs.put(data, durable=False)
    async with blobs.lock:
        core = blobs.core
        first, start = core.length, core.byte_length
        number = core.storage.add_link(LinkedFile.of(path, status)) if link else None
        await _import_chunks(core, fd, path, status.st_size, number, progress)
        _check_unchanged(fd, status, path)
    return BlobId(first, start, core.length - first, status.st_size)


async def _import_chunks(
    core: Core, fd: int, path: str, size: int, link: int | None, progress: Progress | None
) -> None:
    waiting: deque[Future[list[PlacedBlock]]] = deque()
    placed: list[PlacedBlock] = []
    index = core.length
    try:
        for at in range(0, size, _CHUNK):
            length = min(_CHUNK, size - at)
            blocks = -(-length // BLOCK_SIZE)
            position = at
            if link is None:
                position = core.storage.reserve(length + core.padding * blocks)
            waiting.append(_pool.submit(_process, core, fd, path, at, length, index, position, link))
            index += blocks
            if len(waiting) > 2 * _THREADS:
                await _collect(waiting, placed, progress)
            if len(placed) >= _GROUP_BLOCKS:
                core.append_placed(placed, durable=False)
                placed.clear()
        while waiting:
            await _collect(waiting, placed, progress)
        core.append_placed(placed, durable=False)
    finally:
        for future in waiting:
            future.cancel()
        await asyncio.gather(*map(asyncio.wrap_future, waiting), return_exceptions=True)


async def _collect(
    waiting: deque[Future[list[PlacedBlock]]], placed: list[PlacedBlock], progress: Progress | None
) -> None:
    blocks = await asyncio.wrap_future(waiting.popleft())
    placed += blocks
    if progress is not None:
        progress(sum(block.size for block in blocks))


def _process(
    core: Core, fd: int, path: str, at: int, length: int, index: int, position: int, link: int | None
) -> list[PlacedBlock]:
    """Hash, and unless linked seal and write, the blocks of one chunk. Runs in a thread."""
    data = memoryview(_read(fd, at, length, path))
    parts: list[bytes | memoryview] = [data[i : i + BLOCK_SIZE] for i in range(0, length, BLOCK_SIZE)]
    if core.encryption is not None:
        parts = [core.encryption.seal(index + i, core.fork, bytes(part)) for i, part in enumerate(parts)]
    if link is None:
        core.storage.write(position, b"".join(parts) if core.encryption is not None else data)
    placed = []
    for part in parts:
        placed.append(PlacedBlock(len(part), leaf_hash(part), position, link))
        position += len(part) - (PADDING if link is not None and core.encryption is not None else 0)
    return placed


def _read(fd: int, at: int, length: int, path: str) -> bytes:
    data = os.pread(fd, length, at)
    while len(data) < length:
        more = os.pread(fd, length - len(data), at + len(data))
        if not more:
            raise DriveError(f"{path!r} became shorter while it was read")
        data += more
    return data


def _check_unchanged(fd: int, before: os.stat_result, path: str) -> None:
    after = os.fstat(fd)
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise DriveError(f"{path!r} changed while it was read; import it again")


def same_content(blobs: Blobs, blob: BlobId, fd: int) -> bool:
    """Whether the open file has the blob's content, told by the hashes in the tree alone.

    False if that can't be told so: for block maps, encrypted cores, and nodes that are not held.
    """
    core = blobs.core
    if blob.block_map or core.encryption is not None or os.fstat(fd).st_size != blob.byte_length:
        return False
    at = 0
    for index in range(blob.block_offset, blob.block_offset + blob.block_length):
        node = core.get_node(2 * index)
        if node is None:
            return False
        data = os.pread(fd, node.size, at)
        if leaf_hash(data) != node.hash:
            return False
        at += node.size
    return at == blob.byte_length
