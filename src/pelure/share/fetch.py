"""Fetching a shared drive into a folder: resumable, every block verified, several circuits at once.

Blocks arrive in the cache's store and are written into files that get their names when they are complete.
Then the store keeps only *where* those bytes are: nothing lies on the disk twice, what was fetched can go on
to others, and fetching again costs only what has changed.
"""

from __future__ import annotations

import asyncio
import fnmatch
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pelure.errors import ConfigError, DriveError, PelureError
from pelure.hyper.blobs.blob_id import BlobId
from pelure.hyper.blobs.blobs import Blobs
from pelure.hyper.core.core import Core
from pelure.hyper.core.linked import LinkedFile
from pelure.hyper.drive.drive import Drive, merged
from pelure.hyper.drive.entry import DriveEntry
from pelure.hyper.drive.local import LocalDrive
from pelure.hyper.drive.mirror import Mirror, MirrorOptions
from pelure.share.link import printable
from pelure.share.trust import newest

Progress = Callable[[int, int], None]
"""Called with the bytes that are there and the bytes there will be."""
PROGRESS_SECONDS = 0.25
WHOLE_INDEX = 1 << 16
"""Blocks of the longest index that is fetched while it is listed."""


@dataclass
class Fetched:
    """What was done: ``problems`` are paths left out, with the reason."""

    files: int = 0
    bytes: int = 0
    seconds: float = 0.0
    problems: list[tuple[str, str]] = field(default_factory=list)


class Fetch:
    """One fetch of ``drive`` (at the version it has when :meth:`run` begins) into ``folder``."""

    def __init__(
        self, drive: Drive, folder: Path, only: Sequence[str] = (), *, overwrite: bool = False
    ) -> None:
        """``only``: patterns such as ``photos/*``; a path that fits one is fetched, all if there is none.

        ``overwrite``: also files that are in the folder but did not come from the drive, or were changed.
        """
        self._drive = drive
        self._folder = folder
        self._only = [pattern.lstrip("/") for pattern in only]
        self._overwrite = overwrite
        self._wanted: list[tuple[int, int]] = []

    @property
    def is_new_here(self) -> bool:
        """Whether nothing of the drive was ever fetched into the folder."""
        return self._drive.core.storage.get_user_data(self._note) is None

    @property
    def _note(self) -> str:
        return "fetched into " + hashlib.blake2b(bytes(self._folder), digest_size=20).hexdigest()

    async def run(self, progress: Progress | None = None) -> Fetched:
        """Do it. Raises ``ConfigError`` if the folder can't be written, ``DriveError``.

        The drive's newest version is asked for first; the call waits for peers for as long as it takes.
        """
        started = time.monotonic()
        await newest(self._drive)
        view = self._drive.checkout(self._drive.version)
        entries = await self._list(view)
        if self._only and not entries:
            raise DriveError(f"nothing in the share fits {' or '.join(map(printable, self._only))}")
        try:
            target = LocalDrive(self._folder, create=True)
        except OSError as error:
            raise ConfigError(f"can't write to {self._folder}: {error.strerror}") from error
        try:
            self._drive.core.storage.put_user_data(self._note, b"")
            self._drive.core.storage.store.commit()
            target.folder.remove_unfinished()
            if not entries:  # a drive that nothing was ever put in has no contents to wait for
                return Fetched(seconds=time.monotonic() - started)
            return await self._fill(view, target, entries, started, progress)
        except OSError as error:
            raise ConfigError(f"can't write to {self._folder}: {error.strerror}") from error
        finally:
            target.close()

    async def _list(self, view: Drive) -> list[DriveEntry]:
        """The wanted entries.

        If all are wanted, the whole index comes at the same time: who asks for what each step needs waits
        for the far end of an onion circuit at each.
        """
        whole = not self._only and view.version <= WHOLE_INDEX
        ahead = asyncio.ensure_future(view.core.download([(0, view.version)] if whole else []))
        try:
            return [entry async for entry in view.list(ignore=self._ignored)]
        finally:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)

    def _ignored(self, path: str) -> bool:
        name = path.lstrip("/")
        return bool(self._only) and not any(
            fnmatch.fnmatchcase(name, pattern) or name.startswith(pattern.rstrip("/*") + "/")
            for pattern in self._only
        )

    async def _fill(
        self,
        view: Drive,
        target: LocalDrive,
        entries: list[DriveEntry],
        started: float,
        progress: Progress | None,
    ) -> Fetched:
        blobs = await view.blobs()
        found = [entry.blob for entry in entries if entry.blob is not None]
        if blobs.core.length < max((blob.block_offset + blob.block_length for blob in found), default=0):
            await blobs.core.update(wait=True)
        wanted: list[tuple[int, int]] = []
        result, total, left_out = Fetched(), 0, set[str]()
        for entry in entries:
            try:
                if entry.blob is not None:
                    wanted += await self._blocks_of(blobs, entry.blob)
                total += await view.size(entry)
            except PelureError as error:
                left_out.add(entry.path)
                result.problems.append((entry.path, str(error)))
        self._wanted = merged(wanted)
        ahead = asyncio.ensure_future(blobs.core.download(self._wanted))
        telling = asyncio.ensure_future(self._tell(total, progress))
        try:
            by_path = {entry.path: entry for entry in entries}
            options = MirrorOptions(
                delete=False,
                keep=not self._overwrite,
                ignore=lambda path: path in left_out or self._ignored(path),
            )
            mirror = Mirror(view, target, options)
            async for step in mirror.steps():
                if step.operation == "problem":
                    result.problems.append((step.path, step.reason or "unknown"))
                    continue
                result.files += 1
                result.bytes += step.size
                if step.operation in ("add", "change"):
                    self._relink(by_path[step.path], target)
        finally:
            for task in (ahead, telling):
                task.cancel()
            await asyncio.gather(ahead, telling, return_exceptions=True)
        await blobs.core.storage.store.durable()
        _affirm(blobs.core, self._wanted)
        _affirm(view.core, [(view.version - 1, view.version)])
        if progress is not None:
            progress(total, total)
        result.seconds = time.monotonic() - started
        return result

    async def _blocks_of(self, blobs: Blobs, blob: BlobId) -> list[tuple[int, int]]:
        """The blocks to fetch. Raises ``PelureError`` if the publisher has no such blocks."""
        if blob.block_offset + blob.block_length > blobs.core.length:
            raise DriveError("its entry names contents that the share does not have")
        _drop_stale(blobs.core, blob)
        ranges = await blobs.block_numbers(blob)
        if any(end > blobs.core.length for _, end in ranges):
            raise DriveError("its entry names contents that the share does not have")
        return ranges

    async def _tell(self, total: int, progress: Progress | None) -> None:
        """Say now and then how much has arrived."""
        blobs = await self._drive.blobs()
        blocks = max(1, sum(end - start for start, end in self._wanted))
        while progress is not None:
            missing = blocks - sum(blobs.core.bitfield.count(start, end) for start, end in self._wanted)
            progress(total * (blocks - missing) // blocks, total)
            await asyncio.sleep(PROGRESS_SECONDS)

    def _relink(self, entry: DriveEntry, target: LocalDrive) -> None:
        """Let the store point at the finished file instead of keeping a second copy of its blocks."""
        blob, blobs = entry.blob, self._drive.local_blobs()
        if blob is None or blobs is None or blob.block_map or blobs.core.fork:
            return
        path = target.path_of(entry.path)
        try:
            linked = LinkedFile.of(path, os.stat(path, follow_symlinks=False))
        except OSError:
            return  # it was taken away already
        blobs.core.link_blocks(blob.block_offset, blob.block_length, linked)


def _affirm(core: Core, blocks: list[tuple[int, int]]) -> None:
    """Let the publisher know which of ``blocks`` are here: it may be waiting for all (``share --once``)."""
    for start, end in blocks:
        if core.replicator is not None and core.bitfield.first_unset(start) >= end:
            core.replicator.affirm(start, end)


def _drop_stale(core: Core, blob: BlobId) -> None:
    """Forget blocks that are linked to a file which was changed or deleted since: they have to come anew."""
    linked = core.storage.linked_file_of(blob.block_offset)
    if linked is not None and not linked.unchanged():
        core.clear(blob.block_offset, blob.block_offset + blob.block_length)
