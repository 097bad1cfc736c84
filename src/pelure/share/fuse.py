"""Running a file system in this process (FUSE): its calls come on threads of their own, next to the loop."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import mfusepy

from pelure.errors import ConfigError


class FileSystem(mfusepy.Operations):  # type: ignore[misc]
    """What :func:`mount_at` needs of a file system: times in nanoseconds, and to know when it is there."""

    use_ns = True

    def __init__(self) -> None:
        self.ready = threading.Event()

    def init(self, path: str) -> None:
        """Called once the folder is mounted."""
        self.ready.set()


class _Fuse(mfusepy.FUSE):  # type: ignore[misc]
    """FUSE that refuses what it would do wrongly: ``mv -n`` and an exchange of two names would overwrite."""

    def rename_fuse_3(self, old: bytes, new: bytes, flags: int) -> int:
        """rename(2) with flags is left to the caller to do otherwise, as with other file systems."""
        return -errno.EINVAL if flags else int(self.rename_fuse_2(old, new))


class Mounted:
    """A mounted file system; :func:`mount_at` makes one, :meth:`unmount` ends it."""

    def __init__(
        self,
        folder: Path,
        thread: threading.Thread,
        ended: asyncio.Event,
        afterwards: Callable[[], Awaitable[None]],
    ) -> None:
        self.folder = folder
        self.ended = ended
        self._thread = thread
        self._afterwards = afterwards

    async def unmount(self) -> None:
        """Take the folder away; programs with open files on it get errors from then on."""
        await _take_away(self.folder)
        await asyncio.to_thread(self._thread.join, 10)
        await self._afterwards()


async def _take_away(folder: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        "fusermount3", "-u", "-z", str(folder), stderr=asyncio.subprocess.DEVNULL
    )
    await process.wait()


async def _make_ready(folder: Path) -> None:
    """Make ``folder`` where it is missing; free it from what a killed process left mounted there."""
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            names = os.listdir(folder)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise
            await _take_away(folder)
            names = os.listdir(folder)
    except OSError as error:
        raise ConfigError(f"can't mount at {folder}: {error.strerror}") from error
    if names:
        raise ConfigError(f"{folder} is not empty; mount at an empty folder")


async def mount_at(
    folder: Path, system: FileSystem, afterwards: Callable[[], Awaitable[None]], **options: Any
) -> Mounted:
    """Mount ``system`` at the empty ``folder`` with FUSE's ``options``; ``afterwards`` runs once it is gone.

    Raises ``ConfigError`` if the folder can't be used, or if this machine has no FUSE (package ``fuse3``).
    """
    await _make_ready(folder)
    loop = asyncio.get_running_loop()
    ended, problem = asyncio.Event(), []

    def serve() -> None:
        try:
            _Fuse(
                system,
                str(folder),
                foreground=True,
                nosuid=True,
                nodev=True,
                fsname="pelure",
                attr_timeout=1,
                entry_timeout=1,
                **options,
            )
        except (RuntimeError, OSError) as error:
            problem.append(str(error))
        finally:
            system.ready.set()
            loop.call_soon_threadsafe(ended.set)

    thread = threading.Thread(target=serve, name="pelure-fuse", daemon=True)
    thread.start()
    await asyncio.to_thread(system.ready.wait)
    if problem:
        raise ConfigError(
            f"can't mount at {folder} ({problem[0]}); is FUSE there (Debian: apt-get install fuse3)?"
        )
    return Mounted(folder, thread, ended, afterwards)
