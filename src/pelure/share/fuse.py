"""Running a file system in this process (FUSE): its calls come on threads of their own, next to the loop."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import mfusepy

from pelure.errors import ConfigError

QUIET_SECONDS, BUSY_SECONDS = 1.0, 9.0
"""How long programs that use a folder may go on with it once it is taken away: untold, and told."""

log = logging.getLogger(__name__)


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)  # type: ignore[untyped-decorator]
def _say(level: int, message: bytes, arguments: int) -> None:
    """What libfuse says goes to the log, as a format without its arguments (a C ``va_list``)."""
    # libfuse 3.14 says this at each start, of its own default.
    if not message.startswith(b"Ignoring invalid max threads"):
        log.warning("FUSE: %s", message.decode("utf-8", "replace").strip())


def _quieten() -> None:
    """Have libfuse speak to the log instead of standard error, where it can (3.7 and newer)."""
    setting = getattr(mfusepy._libfuse, "fuse_set_log_func", None)
    if setting is not None:
        setting(_say)


class FileSystem(mfusepy.Operations):  # type: ignore[misc]
    """What :func:`mount_at` needs of a file system: times in nanoseconds, and to know when it is there."""

    use_ns = True

    def __init__(self) -> None:
        self.ready = threading.Event()

    def init(self, path: str) -> None:
        """Called once the folder is mounted."""
        self.ready.set()


class _Fuse(mfusepy.FUSE):  # type: ignore[misc]
    """FUSE with two calls passed on as they are meant."""

    def rename_fuse_3(self, old: bytes, new: bytes, flags: int) -> int:
        """renameat2(2) with flags is refused, for callers to do it otherwise: it would overwrite files."""
        return -errno.EINVAL if flags else int(self.rename_fuse_2(old, new))

    def truncate_fuse_3(self, path: bytes | None, length: int, fip: Any) -> int:
        """ftruncate(2) is of the open file, which may have no name any more."""
        handle = fip.contents.fh if fip else None
        name = None if path is None else path.decode(self.encoding, self.errors)
        return int(self.operations.truncate(name, length, handle))


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
        await asyncio.to_thread(self._thread.join, QUIET_SECONDS)
        if self._thread.is_alive():
            log.warning("Programs still use %s; waiting for them, a few seconds at most", self.folder)
            await asyncio.to_thread(self._thread.join, BUSY_SECONDS)
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
            _quieten()
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
