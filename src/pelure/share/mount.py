"""A shared drive as a folder of this machine (FUSE): read-only, live, content fetched when it is read.

Every open file stays at the version it was opened in; a path looked up again shows the newest. What the
publisher's absence leaves unread is an input/output error in the end (:mod:`.patience`), never other bytes.
FUSE calls from its own threads; each call runs on the event loop that owns the drive.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import stat
import threading
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import mfusepy

from pelure.errors import DriveError, PelureError
from pelure.hyper.drive.drive import Drive
from pelure.hyper.drive.entry import DriveEntry
from pelure.hyper.drive.metadata import mtime_of
from pelure.hyper.drive.paths import is_normal
from pelure.hyper.drive.safe_folder import UnsafeName, check_link, split
from pelure.share.fuse import FileSystem, Mounted, mount_at
from pelure.share.patience import WAIT_SECONDS, Patience
from pelure.share.readahead import FilesAhead, download

AHEAD_FIRST, AHEAD_MAX = 256 << 10, 8 << 20
"""Bytes fetched ahead of a reader: at its first read, and at most when it reads on and on."""
BLOCK_SIZE = 65536
INDEX_MAX = 512 << 20
"""Bytes of the largest index that is fetched whole."""

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass
class _OpenFile:
    entry: DriveEntry
    size: int
    next_offset: int = 0
    ahead: int = AHEAD_FIRST
    ahead_until: int = 0
    fetching: asyncio.Task[None] | None = field(default=None, repr=False)


class DriveOperations(FileSystem):
    """The file system calls. ``loop`` runs the drive; calls come from other threads."""

    def __init__(self, drive: Drive, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._drive = drive
        self._loop = loop
        self._files: dict[int, _OpenFile] = {}
        self._files_ahead = FilesAhead(WAIT_SECONDS)
        self._patience = Patience(self._connected)
        self._next_handle = 1
        self._lock = threading.Lock()
        self._mounted_at = time.time()

    # -- names --

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        """Size, kind and times of a path."""
        if fh is not None and fh in self._files:
            held = self._files[fh]
            return self._attributes(held.entry, held.size)
        return self._run(self._getattr(path))

    async def _getattr(self, path: str) -> dict[str, Any]:
        if path != "/":
            entry = await self._entry(path)
            if entry is not None:
                return self._attributes(entry, await self._drive.size(entry))
            if not await self._has_below(path):
                raise mfusepy.FuseOSError(errno.ENOENT)
        when = int(self._mounted_at * 1e9)
        return {
            "st_mode": stat.S_IFDIR | 0o555,
            "st_nlink": 2,
            "st_uid": os.getuid(),
            "st_gid": os.getgid(),
            "st_mtime": when,
            "st_ctime": when,
            "st_atime": when,
        }

    def _attributes(self, entry: DriveEntry, size: int) -> dict[str, Any]:
        when = int((mtime_of(entry) or self._mounted_at) * 1e9)
        if entry.linkname is not None:
            mode, size = stat.S_IFLNK | 0o777, len(entry.linkname.encode(errors="replace"))
        else:
            mode = stat.S_IFREG | (0o555 if entry.executable else 0o444)
        return {
            "st_mode": mode,
            "st_nlink": 1,
            "st_size": size,
            "st_blocks": -(-size // 512),
            "st_uid": os.getuid(),
            "st_gid": os.getgid(),
            "st_mtime": when,
            "st_ctime": when,
            "st_atime": when,
        }

    async def _entry(self, path: str) -> DriveEntry | None:
        try:
            return await self._drive.entry(path) if is_normal(path) else None
        except UnicodeEncodeError:
            return None  # a name that is not UTF-8 can't be in a drive

    async def _has_below(self, path: str) -> bool:
        async for _ in self._drive.list(path):
            return True
        return False

    def readdir(self, path: str, fh: int) -> Iterator[str]:
        """Names in a folder."""
        return iter([".", "..", *self._run(self._readdir(path))])

    async def _readdir(self, path: str) -> list[str]:
        return [name async for name in self._drive.readdir(path) if _is_fit(name)]

    def readlink(self, path: str) -> str:
        """The target of a symbolic link, as its publisher wrote it, unless it leads out of the folder."""
        entry = self._run(self._entry(path))
        if entry is None or entry.linkname is None:
            raise mfusepy.FuseOSError(errno.EINVAL)
        try:
            check_link(path, entry.linkname)
        except UnsafeName as error:
            log.info("A symbolic link is not followed: %s", error)
            raise mfusepy.FuseOSError(errno.EACCES) from None
        return entry.linkname

    def statfs(self, path: str) -> dict[str, int]:
        """A full, read-only file system."""
        return {"f_bsize": BLOCK_SIZE, "f_frsize": BLOCK_SIZE, "f_namemax": 255}

    # -- contents --

    def open(self, path: str, flags: int) -> int:
        """Open a file for reading, at the version it has now."""
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_APPEND):
            raise mfusepy.FuseOSError(errno.EROFS)
        entry = self._run(self._entry(path))
        if entry is None or entry.blob is None:
            raise mfusepy.FuseOSError(errno.ENOENT)
        held = _OpenFile(entry, self._run(self._drive.size(entry)))
        with self._lock:
            handle, self._next_handle = self._next_handle, self._next_handle + 1
            self._files[handle] = held
        return handle

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """Bytes of an open file."""
        return self._run(self._read(self._files[fh], offset, size))

    async def _read(self, held: _OpenFile, offset: int, size: int) -> bytes:
        end = min(offset + size, held.size)
        if offset >= end:
            return b""
        if offset == held.next_offset:
            held.ahead = min(held.ahead * 2, AHEAD_MAX)
        else:
            held.ahead, held.ahead_until = AHEAD_FIRST, offset
        held.next_offset = end
        if end + held.ahead // 2 > held.ahead_until and (held.fetching is None or held.fetching.done()):
            held.ahead_until = min(end + held.ahead, held.size)
            held.fetching = asyncio.ensure_future(self._fetch(held.entry, offset, held.ahead_until))
        blob, blobs = held.entry.blob, self._drive.local_blobs()
        if offset == 0 and blob is not None and not blob.block_map and blobs is not None:
            self._files_ahead.reads(blobs.core, blob)
        parts = self._drive.read(held.entry, offset, end)
        return b"".join([part async for part in parts])

    async def _fetch(self, entry: DriveEntry, start: int, end: int) -> None:
        """Have the blocks of these bytes fetched together."""
        try:
            blobs = await self._drive.blobs(timeout=WAIT_SECONDS)
            assert entry.blob is not None
            if entry.blob.block_map:
                return
            first, _ = await blobs.core.seek(entry.blob.byte_offset + start, timeout=WAIT_SECONDS)
            last = entry.blob.block_offset + entry.blob.block_length
            count = -(-(end - start) // BLOCK_SIZE) + 1
        except PelureError as error:
            log.info("Reading ahead: %s", error)
            return
        await download(blobs.core, first, min(first + count, last), WAIT_SECONDS)

    def release(self, path: str, fh: int) -> int:
        """Forget an open file."""
        held = self._files.pop(fh, None)
        if held is not None and held.fetching is not None:
            self._loop.call_soon_threadsafe(held.fetching.cancel)
        return 0

    def stop(self) -> None:
        """Fetch nothing ahead any more; called on the loop."""
        self._files_ahead.stop()
        for held in self._files.values():
            if held.fetching is not None:
                held.fetching.cancel()

    # -- running on the loop --

    def _connected(self) -> bool:
        replicator = self._drive.core.replicator
        return replicator is not None and bool(replicator.peers)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``; errors become what a program understands."""
        future = asyncio.run_coroutine_threadsafe(self._in_time(work), self._loop)
        try:
            return future.result(2 * WAIT_SECONDS)
        except DriveError as error:
            log.warning("A read from the mounted drive failed: %s", error)
            raise mfusepy.FuseOSError(errno.EIO) from None
        except (TimeoutError, PelureError):
            future.cancel()
            raise mfusepy.FuseOSError(errno.EIO) from None

    async def _in_time(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``. Raises what it does, and ``TimeoutError`` when patience is over."""
        try:
            async with asyncio.timeout(self._patience.left()):
                result = await work
        except TimeoutError:
            if self._patience.exhausted():
                log.warning("The publisher is away: reads from the mounted drive fail until it is back")
            raise
        self._patience.answered()
        return result


def _is_fit(name: str) -> bool:
    """Whether a program may see this name: not one that leads elsewhere or has control characters."""
    try:
        split(f"/{name}")
    except UnsafeName:
        return False
    return True


async def _keep_index(drive: Drive) -> None:
    """Hold the whole index here, now and as it grows: `find` then needs no round trip for each name."""
    core = drive.core
    while core.byte_length <= INDEX_MAX:
        try:
            await core.download([(0, core.length)])
            await core.changed()
        except PelureError as error:
            log.info("The index of the mounted drive: %s", error)
            return


async def mount(drive: Drive, folder: Path) -> Mounted:
    """Mount ``drive`` at the empty ``folder``. Raises as :func:`~pelure.share.fuse.mount_at` does."""
    operations = DriveOperations(drive, asyncio.get_running_loop())
    index = asyncio.ensure_future(_keep_index(drive))

    async def stop() -> None:
        index.cancel()
        operations.stop()

    try:
        return await mount_at(folder, operations, stop, ro=True)
    except BaseException:
        await stop()
        raise
