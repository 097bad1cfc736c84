"""Keeping a folder and a drive alike while one of them changes.

That is a :class:`~pelure.hyper.drive.mirror.Mirror` pass now, and another one after each change.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from pelure.hyper.drive.drive import Drive
from pelure.hyper.drive.local import LocalDrive
from pelure.hyper.drive.mirror import Mirror, MirrorOptions, Step
from pelure.hyper.drive.watching import changes_in


async def push(folder: LocalDrive, drive: Drive, options: MirrorOptions) -> AsyncIterator[Step]:
    """Bring every change of the folder into the drive, for ever."""
    async with aclosing(changes_in([folder.root])) as changes:
        async for _ in changes:
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
