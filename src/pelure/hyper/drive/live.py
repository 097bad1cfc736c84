"""Keeping a folder and a drive alike while one of them changes.

That is a :class:`~pelure.hyper.drive.mirror.Mirror` pass now, and another one after each change.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from watchfiles import awatch

from pelure.hyper.drive.drive import Drive
from pelure.hyper.drive.local import LocalDrive
from pelure.hyper.drive.mirror import Mirror, MirrorOptions, Step
from pelure.hyper.drive.safe_folder import TEMPORARY

_QUIET_MS = 200


async def push(folder: LocalDrive, drive: Drive, options: MirrorOptions) -> AsyncIterator[Step]:
    """Bring every change of the folder into the drive, for ever."""
    watching = awatch(
        folder.root,
        step=_QUIET_MS,
        watch_filter=lambda _, path: TEMPORARY not in path,
        yield_on_timeout=True,  # the first time-out says that the watch is set up
        rust_timeout=_QUIET_MS,
    )
    first = True
    async for changes in watching:
        if first or changes:
            first = False
            async for step in Mirror(folder, drive, options).steps():
                yield step


async def pull(drive: Drive, folder: LocalDrive, options: MirrorOptions) -> AsyncIterator[Step]:
    """Bring every change of the drive into the folder, for ever."""
    seen: tuple[int, int] | None = None
    while True:
        while seen == (drive.core.fork, drive.version):
            await drive.core.changed()
        seen = (drive.core.fork, drive.version)
        view = drive.checkout(drive.version)
        async for step in Mirror(view, folder, options).steps():
            yield step
