"""From the shared paths to the share's drive, without copying contents, once or again and again.

A folder's contents become the drive's root; files that are shared together stand in the root by their names.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

from pelure.errors import ConfigError, PelureError
from pelure.hyper.drive.drive import Drive
from pelure.hyper.drive.ignore import IgnoreRules
from pelure.hyper.drive.local import LocalDrive
from pelure.hyper.drive.mirror import Mirror, MirrorOptions
from pelure.hyper.drive.watching import changes_in

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes there are."""
OnChange = Callable[[str, str], None]
"""Called with ``add``, ``change``, ``remove`` or ``rename``, and a path of the drive."""
OnProblem = Callable[[str, str], None]
"""Called with the path of what is not shared, and the reason."""

log = logging.getLogger(__name__)


class _OnlyNamed(IgnoreRules):
    """Leaves out everything of a folder but some of the names in it."""

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__()
        self._names = names

    def ignores(self, path: str, is_folder: bool = False) -> bool:
        return path.strip("/").partition("/")[0] not in self._names


class Importer:
    """Keeps ``drive`` like ``paths``: one folder, or files and folders that lie in one folder."""

    def __init__(self, drive: Drive, paths: list[Path], on_problem: OnProblem) -> None:
        self._drive = drive
        self._paths = paths
        self._on_problem = on_problem
        self._problems: dict[str, str] = {}
        self._busy = asyncio.Lock()

    async def update(self, progress: Progress | None = None, on_change: OnChange | None = None) -> None:
        """Take over what has changed. Raises ``ConfigError`` if the paths can't be read, ``DriveError``.

        What can't be shared (a device, an unreadable file, a link that leads out) is left out and told, once
        while it stays so.
        """
        async with self._busy:
            source = self._source()
            done = 0

            def count(size: int) -> None:
                nonlocal done
                done += size
                if progress is not None:
                    progress(done, mirror.total)

            problems: dict[str, str] = {}
            mirror = Mirror(source, self._drive, MirrorOptions(link=True, times=True, progress=count))
            try:
                async for step in mirror.steps():
                    if step.operation == "problem":
                        problems[step.path] = step.reason or "unknown"
                        if self._problems.get(step.path) != problems[step.path]:
                            self._on_problem(step.path, problems[step.path])
                    elif step.operation != "equal" and on_change is not None:
                        on_change(step.operation, step.path)
                self._problems = problems
            finally:
                source.close()

    def _source(self) -> LocalDrive:
        try:
            if len(self._paths) == 1 and self._paths[0].is_dir():
                return LocalDrive(self._paths[0], inward_links=True)
            folders = {path.parent for path in self._paths}
            if len(folders) > 1:
                raise ConfigError("what is shared together has to lie in one folder; make several shares")
            names = frozenset(path.name for path in self._paths)
            return LocalDrive(folders.pop(), ignore=_OnlyNamed(names), inward_links=True)
        except OSError as error:
            raise ConfigError(f"can't read what is shared: {error}") from error

    async def follow(self, on_change: OnChange) -> None:
        """Take changes over as they happen; never ends by itself."""
        async with aclosing(changes_in(self._paths)) as changes:
            async for _ in changes:
                try:
                    await self.update(on_change=on_change)
                except PelureError as error:
                    log.warning("Changes in the shared folder could not be taken over: %s", error)
