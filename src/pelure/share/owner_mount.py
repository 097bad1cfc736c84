"""The owner's mount of a share: its folder, to read and write, with every change told to readers at once.

A share's drive follows the shared folder, which alone is kept: what was written into the drive would be gone
when the share is started again. So what the owner writes here is written into the folder, and the pelure that
publishes it (if one does, and does not watch the folder already) takes it over into the drive.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pelure.errors import ConfigError, PelureError
from pelure.share.control import request
from pelure.share.fuse import FileSystem, Mounted, mount_at
from pelure.share.record import ShareRecord

SETTLE_SECONDS = 0.2
_STATUS = ("mode", "nlink", "size", "blocks", "uid", "gid")
_TIMES = ("atime", "mtime", "ctime")

_UTIME_NOW, _UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
"""What stands for "now" and "as it was" in utimensat(2), in place of nanoseconds."""

log = logging.getLogger(__name__)


class FolderOperations(FileSystem):
    """The file system calls, passed on to the folder ``root``; ``changed`` is called after each change.

    Nothing outside the folder is touched: the kernel follows symbolic links itself, in its own view.
    """

    def __init__(self, root: Path, changed: Callable[[], None]) -> None:
        super().__init__()
        self._root = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._changed = changed
        self._written: set[int] = set()

    def close(self) -> None:
        """Let the folder go."""
        os.close(self._root)

    # -- looking --

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        """Size, kind and times of a path, or of an open file."""
        if fh is not None:
            found = os.fstat(fh)
        else:
            found = os.stat(_name(path), dir_fd=self._root, follow_symlinks=False)
        status = {f"st_{field}": getattr(found, f"st_{field}") for field in _STATUS}
        return status | {f"st_{field}": getattr(found, f"st_{field}_ns") for field in _TIMES}

    def readdir(self, path: str, fh: int) -> list[str]:
        """Names in a folder."""
        folder = os.open(_name(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._root)
        try:
            return [".", "..", *os.listdir(folder)]
        finally:
            os.close(folder)

    def readlink(self, path: str) -> str:
        """The target of a symbolic link."""
        return os.readlink(_name(path), dir_fd=self._root)

    def statfs(self, path: str) -> dict[str, int]:
        """Room on the disk that the folder is on."""
        found = os.fstatvfs(self._root)
        fields = ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_favail", "f_ffree", "f_files", "f_frsize")
        return {field: getattr(found, field) for field in (*fields, "f_namemax")}

    # -- contents --

    def open(self, path: str, flags: int) -> int:
        """Open a file."""
        handle = self._open(path, flags & ~(os.O_CREAT | os.O_EXCL))
        if flags & os.O_TRUNC:
            self._written.add(handle)
        return handle

    def create(self, path: str, mode: int, flags: int) -> int:
        """Make a file and open it. ``mode`` has the caller's umask taken off; pelure's own is stricter."""
        handle = self._open(path, flags | os.O_CREAT)
        os.fchmod(handle, mode & 0o777)
        self._written.add(handle)
        return handle

    def _open(self, path: str, flags: int) -> int:
        return os.open(_name(path), flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self._root)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """Bytes of an open file."""
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        """Write into an open file; returns how many bytes."""
        self._written.add(fh)
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        """Cut a file, or make it longer with zeros."""
        if fh is not None:
            self._written.add(fh)
            os.ftruncate(fh, length)
            return 0
        handle = self._open(path, os.O_WRONLY)
        try:
            os.ftruncate(handle, length)
        finally:
            os.close(handle)
        return self._done()

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        """Make what was written durable."""
        os.fsync(fh)
        return 0

    def release(self, path: str, fh: int) -> int:
        """Close a file; if it was written, it is complete now."""
        written = fh in self._written
        self._written.discard(fh)
        os.close(fh)
        return self._done() if written else 0

    # -- names --

    def mkdir(self, path: str, mode: int) -> int:
        """Make a folder."""
        os.mkdir(_name(path), dir_fd=self._root)
        os.chmod(_name(path), mode & 0o777, dir_fd=self._root)
        return self._done()

    def rmdir(self, path: str) -> int:
        """Remove an empty folder."""
        os.rmdir(_name(path), dir_fd=self._root)
        return self._done()

    def unlink(self, path: str) -> int:
        """Remove a file or symbolic link."""
        os.unlink(_name(path), dir_fd=self._root)
        return self._done()

    def rename(self, old: str, new: str) -> int:
        """Give something another name, in place of what has it."""
        os.rename(_name(old), _name(new), src_dir_fd=self._root, dst_dir_fd=self._root)
        return self._done()

    def symlink(self, target: str, source: str) -> int:
        """Make the symbolic link ``target`` that points to ``source``."""
        os.symlink(source, _name(target), dir_fd=self._root)
        return self._done()

    def chmod(self, path: str, mode: int) -> int:
        """Set permissions; a drive keeps whether a file is executable."""
        os.chmod(_name(path), mode & 0o777, dir_fd=self._root)
        return self._done()

    def chown(self, path: str, uid: int, gid: int) -> int:
        """Give a file to another user: the folder keeps that, the drive does not."""
        os.chown(_name(path), uid, gid, dir_fd=self._root, follow_symlinks=False)
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        """Set the times of last access and change, in nanoseconds."""
        found = os.stat(_name(path), dir_fd=self._root, follow_symlinks=False)
        accessed, modified = times or (_UTIME_NOW, _UTIME_NOW)
        wanted = (_meant(accessed, found.st_atime_ns), _meant(modified, found.st_mtime_ns))
        os.utime(_name(path), ns=wanted, dir_fd=self._root, follow_symlinks=False)
        return self._done()

    def _done(self) -> int:
        self._changed()
        return 0


def _name(path: str) -> str:
    """The name, seen from the root folder, of what FUSE calls ``path``."""
    return path.lstrip("/") or "."


def _meant(given: int, old: int) -> int:
    """The time that utimensat(2) was ``given``, where the file has the ``old`` one."""
    return {_UTIME_NOW: time.time_ns(), _UTIME_OMIT: old}.get(given, given)


class _Teller:
    """Tells the pelure that publishes a share that its folder has changed, a moment after the last change."""

    def __init__(self, node_folder: Path, share: str) -> None:
        self._node_folder = node_folder
        self._share = share
        self._waiting = False
        self._tasks: set[asyncio.Task[None]] = set()

    def changed(self) -> None:
        """Something has changed; called on the loop."""
        if not self._waiting:
            self._waiting = True
            task = asyncio.ensure_future(self._tell())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _tell(self) -> None:
        await asyncio.sleep(SETTLE_SECONDS)
        self._waiting = False
        try:
            async for _ in request(self._node_folder, "share-update", share=self._share):
                pass
        except (OSError, PelureError) as error:
            log.info("The change is taken over when the share is started: %s", error)

    async def close(self) -> None:
        """Wait until everything is told."""
        await asyncio.gather(*self._tasks)


async def mount_own(record: ShareRecord, node_folder: Path, folder: Path) -> Mounted:
    """Mount the share of ``record`` at ``folder``, to read and write.

    The node in ``node_folder`` is told of changes. Raises ``ConfigError`` if it is not a share of one folder,
    if ``folder`` lies in that or around it, and as :func:`~pelure.share.fuse.mount_at` does.
    """
    source = Path(record.paths[0])
    if len(record.paths) > 1 or not source.is_dir():
        raise ConfigError(
            f"the share «{record.id}» is of single files: edit them where they are "
            f"({', '.join(record.paths)}), or mount it with --read-only"
        )
    real, wanted = source.resolve(), folder.resolve()
    if wanted.is_relative_to(real) or real.is_relative_to(wanted):
        raise ConfigError(f"{folder} and the shared folder {source} lie in each other; mount somewhere else")
    loop = asyncio.get_running_loop()
    teller = _Teller(node_folder, record.id)
    operations = FolderOperations(source, lambda: _soon(loop, teller.changed))

    async def stop() -> None:
        operations.close()
        await teller.close()

    try:
        return await mount_at(folder, operations, stop, hard_remove=True)
    except BaseException:
        await stop()
        raise


def _soon(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Have ``call`` made on ``loop``, unless that has ended (a file closed after the folder was gone)."""
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        pass
