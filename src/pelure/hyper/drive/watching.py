"""The moments at which a folder on this machine changes.

Folders are watched one by one. The library's recursive watch would follow symbolic links out of them, and
fail as a whole at one folder that may not be read.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from pathlib import Path

from watchfiles import Change, awatch

from pelure.hyper.drive.safe_folder import TEMPORARY

QUIET_MS = 200
"""So long nothing more has to happen before a change is told."""
POLL_MS = 2000

log = logging.getLogger(__name__)


async def changes_in(paths: Sequence[Path]) -> AsyncGenerator[None, None]:
    """Tell when the watch on ``paths`` is set up, and after each change, for ever.

    Of a folder everything below it is watched, links not followed; of a file, the folder that it is in. What
    is replaced by another of its name, or comes back, is told and watched again. Where the system has no more
    watches to give, this looks by itself every few seconds.
    """
    polling = False
    while True:
        tops = _identities(paths)
        folders = await asyncio.to_thread(_folders_in, paths)
        watch = awatch(
            *folders,
            watch_filter=lambda _, path: TEMPORARY not in path,
            step=QUIET_MS,
            rust_timeout=QUIET_MS,
            yield_on_timeout=True,  # the first time-out says that the watch is set up
            recursive=False,
            force_polling=polling,
            poll_delay_ms=POLL_MS,
        )
        first = True
        try:
            async with aclosing(watch) as batches:
                async for batch in batches:
                    if first or batch:
                        first = False
                        yield
                    if _identities(paths) != tops or _has_other_folders(batch, folders):
                        break
        except FileNotFoundError:  # one of them has just gone
            await asyncio.sleep(QUIET_MS / 1000)
        except (OSError, RuntimeError) as error:  # of the system, some of which the library makes the latter
            if not polling:
                log.warning("Changes are looked for every %d seconds only: %s", POLL_MS // 1000, error)
            polling = True
            await asyncio.sleep(QUIET_MS / 1000)


def _identities(paths: Sequence[Path]) -> list[tuple[int, int] | None]:
    """What stands at ``paths`` now: folders by device and number, files just as being there."""
    found: list[tuple[int, int] | None] = []
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            found.append(None)
        else:
            found.append((status.st_dev, status.st_ino) if path.is_dir() else (0, 0))
    return found


def _folders_in(paths: Iterable[Path]) -> set[str]:
    """The folders to be watched for ``paths``; of what is not there, the next one above."""
    folders: set[str] = set()
    for path in paths:
        if path.is_dir():
            pending = [os.path.realpath(path)]
            while pending:
                folder = pending.pop()
                try:
                    with os.scandir(folder) as items:
                        pending += [item.path for item in items if item.is_dir(follow_symlinks=False)]
                except OSError:  # not ours to read, or gone
                    continue
                folders.add(folder)
        else:
            folders.add(str(next(above for above in path.absolute().parents if above.is_dir())))
    return folders


def _has_other_folders(changes: Iterable[tuple[Change, str]], watched: set[str]) -> bool:
    """Whether one of ``changes`` has made a folder or let it be read, or has taken a watched one away.

    One made in its place may have its number, too.
    """
    return any(
        path in watched
        if change == Change.deleted
        else (change == Change.added or path not in watched)
        and os.path.isdir(path)
        and not os.path.islink(path)
        for change, path in changes
    )
