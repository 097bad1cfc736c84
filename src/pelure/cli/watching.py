"""Following a folder of small files, such as the keys of clients, while a command runs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

DEBOUNCE_MILLISECONDS = 200
LOOK_MILLISECONDS = 5000

Seen = list[tuple[str, int, int, int]]
"""Name, inode number, time of change in nanoseconds and size of each file, in order."""


def seen(folder: Path) -> Seen:
    """What the files of ``folder`` look like now; what can't be looked at is not among them."""
    found = []
    with contextlib.suppress(OSError):
        for file in folder.iterdir():
            with contextlib.suppress(OSError):
                state = file.stat()
                found.append((file.name, state.st_ino, state.st_mtime_ns, state.st_size))
    return sorted(found)


async def changes(folder: Path, known: Seen | None = None) -> AsyncGenerator[None]:
    """Yield whenever the files of ``folder`` differ from before, first from ``known``; without end.

    The folder is also looked at now and then without news of it: for what changed before the watch began, and
    where the file system tells no news.
    """
    from watchfiles import awatch

    async for _ in awatch(
        folder,
        debounce=DEBOUNCE_MILLISECONDS,
        step=DEBOUNCE_MILLISECONDS,  # it wakes up so often
        rust_timeout=LOOK_MILLISECONDS,
        yield_on_timeout=True,
    ):
        now = seen(folder)
        if now != known:
            known = now
            yield
