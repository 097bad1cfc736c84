"""Making one drive or folder like another: HYPER-FACTS §19, and folder sync.

:class:`Mirror` compares a source with a target and changes the target: files are added, changed, renamed and
removed, with their executable bits and symbolic links. Between a drive and a folder, equal files are told by
what is remembered of them (:mod:`.sync_state`) or by the hashes in the tree, and renames move no content.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pelure.errors import PelureError
from pelure.hyper.blobs.blob_id import BlobId
from pelure.hyper.blobs.importing import import_file, same_content
from pelure.hyper.core.linked import LinkedFile
from pelure.hyper.drive.drive import Drive
from pelure.hyper.drive.entry import DriveEntry, OnUnfit, Unfit
from pelure.hyper.drive.local import LocalDrive, LocalEntry
from pelure.hyper.drive.metadata import with_mtime
from pelure.hyper.drive.sync_state import SyncState
from pelure.hyper.drive.writing import DriveBatch

AnyDrive = Drive | LocalDrive
KEPT = "a file is here that did not come from the drive or was changed since: it stays as it is"
_BATCH = 4096


@dataclass(frozen=True, slots=True)
class Step:
    """One step: ``operation`` is add, change, remove, rename (from ``source``), equal, or problem.

    ``size`` is the bytes of the file's new content; ``reason`` says why something was left out.
    """

    operation: str
    path: str
    size: int = 0
    source: str | None = None
    reason: str | None = None


@dataclass(slots=True)
class MirrorOptions:
    """``folder`` limits the mirror to what is below it; ``delete`` lets it delete files of the target.

    In a folder only files that were synced before are deleted. ``keep`` leaves files of a folder alone that
    did not come from the drive, or were changed since: they are problems if the drive has others. ``by_hash``
    reads files even if size and time say that they are unchanged. ``link`` leaves imported content in the
    user's files. ``times`` keeps the files' times in the drive's metadata. ``ignore`` leaves out paths;
    ``progress`` is told of bytes as they are done.
    """

    folder: str = "/"
    delete: bool = True
    keep: bool = False
    dry_run: bool = False
    by_hash: bool = False
    link: bool = False
    times: bool = False
    ignore: Callable[[str], bool] | None = None
    progress: Callable[[int], None] | None = None


class Mirror:
    """One pass from ``source`` to ``target``: iterate over :meth:`steps`."""

    def __init__(self, source: AnyDrive, target: AnyDrive, options: MirrorOptions | None = None) -> None:
        self.source = source
        self.target = target
        self.options = options or MirrorOptions()
        self._state: SyncState | None = None
        if isinstance(source, LocalDrive) and isinstance(target, Drive):
            self._state = SyncState(target.core.storage, source.root)
        elif isinstance(source, Drive) and isinstance(target, LocalDrive):
            self._state = SyncState(source.core.storage, target.root)
        self._batch: DriveBatch | None = None
        self.total = 0
        """Bytes of all files of the source, known from the first step on."""

    async def steps(self) -> AsyncIterator[Step]:
        """Do it, telling each step once it is done (in a drive: written, and visible at the end).

        A file that can't be taken over is told as a problem, and the rest goes on.
        """
        if isinstance(self.target, Drive) and not self.options.dry_run:
            self._batch = self.target.batch()
        unfit: list[Unfit] = []
        wanted = {entry.path: entry async for entry in self._list(self.source, unfit.append)}
        present = {entry.path: entry async for entry in self._list(self.target)}
        self.total = await self._total(wanted.values())
        removed = {path: entry for path, entry in present.items() if path not in wanted}
        for path in _in_the_way(removed, wanted):
            async for step in self._remove(path, removed.pop(path)):
                yield step
        for path, entry in wanted.items():
            try:
                yield await self._take_over(entry, present.get(path), removed)
            except (PelureError, OSError) as error:
                reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                yield Step("problem", path, reason=reason)
            await self._flush(_BATCH)
        for path, entry in removed.items():
            async for step in self._remove(path, entry):
                yield step
        await self._flush(1)
        if self._state is not None and not self.options.dry_run:
            self._state.save()
        if isinstance(self.source, LocalDrive):  # what a target has beside it is nobody's concern
            unfit += self.source.problems
            self.source.problems.clear()
        for problem in unfit:
            yield Step("problem", problem.path, reason=problem.reason)

    def _list(self, drive: AnyDrive, unfit: OnUnfit | None = None) -> AsyncIterator[DriveEntry]:
        folder, ignore = self.options.folder, self.options.ignore
        if isinstance(drive, Drive):
            return drive.list(folder, ignore=ignore, unfit=unfit)
        return drive.list(folder, ignore=ignore)

    async def _total(self, entries: Iterable[DriveEntry]) -> int:
        """Bytes of all files, as far as that can be told; the others are problems later."""
        total = 0
        for entry in entries:
            with contextlib.suppress(PelureError):
                total += await self.source.size(entry)
        return total

    async def _take_over(
        self, entry: DriveEntry, old: DriveEntry | None, removed: dict[str, DriveEntry]
    ) -> Step:
        size = await self.source.size(entry)
        if old is not None and await self._same_content(entry, old):
            same = self._same_attributes(entry, old)
            if not same and not self.options.dry_run:
                await self._set_attributes(entry, old)
            self._progress(size)
            return Step("equal" if same else "change", entry.path, size)
        if old is not None and self._is_own(old):
            return Step("problem", entry.path, reason=KEPT)
        renamed = await self._renamed_from(entry, removed) if old is None else None
        if renamed is not None:
            del removed[renamed.path]
            if not self.options.dry_run:
                await self._rename(entry, renamed)
            self._progress(size)
            return Step("rename", entry.path, size, renamed.path)
        if not self.options.dry_run:
            await self._copy(entry, old)
        return Step("add" if old is None else "change", entry.path, size)

    def _progress(self, size: int) -> None:
        if self.options.progress is not None:
            self.options.progress(size)

    # -- comparing --

    def _same_attributes(self, entry: DriveEntry, old: DriveEntry) -> bool:
        return entry.executable == old.executable and self._metadata(entry, old) == old.metadata

    def _metadata(self, entry: DriveEntry, old: DriveEntry | None) -> Any:
        """The metadata to write: a folder has none, so what the target has stays."""
        if isinstance(self.source, LocalDrive):
            kept = old.metadata if old is not None else None
            timed = self.options.times and isinstance(entry, LocalEntry) and entry.blob is not None
            return with_mtime(kept, entry.mtime_ns) if timed and isinstance(entry, LocalEntry) else kept
        return None if isinstance(self.target, LocalDrive) else entry.metadata

    async def _same_content(self, entry: DriveEntry, old: DriveEntry) -> bool:
        """Whether a file or link of the source has the content of one of the target."""
        if entry.linkname is not None or old.linkname is not None:
            return entry.linkname == old.linkname
        if await self.source.size(entry) != await self.target.size(old):
            return False
        if isinstance(self.source, LocalDrive) and isinstance(entry, LocalEntry):
            return await self._same_as_local(self.source, entry, self.target, old)
        if isinstance(self.target, LocalDrive) and isinstance(old, LocalEntry):
            return await self._same_as_local(self.target, old, self.source, entry)
        return await _same_bytes(self.source, entry, self.target, old)

    async def _same_as_local(
        self, folder: LocalDrive, local: LocalEntry, drive: AnyDrive, entry: DriveEntry
    ) -> bool:
        if self._state is None or not isinstance(drive, Drive) or entry.blob is None:
            return await _same_bytes(folder, local, drive, entry)
        same_path = local.path == entry.path
        if same_path and not self.options.by_hash and self._state.agrees(local, entry):
            return True
        fd = folder.open(local.path)
        try:
            same = same_content(await drive.blobs(), entry.blob, fd)
        finally:
            os.close(fd)
        if not same and _needs_bytes(drive, entry):
            same = await _same_bytes(folder, local, drive, entry)
        if same and same_path and not self.options.dry_run:
            self._state.agree(local, entry, read=True)
        return same

    async def _renamed_from(self, entry: DriveEntry, removed: dict[str, DriveEntry]) -> DriveEntry | None:
        """A file that is to be removed and has the content of one that is to be added."""
        if entry.blob is None or not self.options.delete or entry.blob.byte_length == 0:
            return None
        for old in removed.values():
            if old.blob is not None and self._may_remove(old) and await self._same_content(entry, old):
                return old
        return None

    # -- changing the target --

    async def _rename(self, entry: DriveEntry, old: DriveEntry) -> None:
        if isinstance(self.target, LocalDrive):
            self.target.folder.rename(old.path, entry.path)
            self.target.folder.set_executable(entry.path, entry.executable)
            await self._agree(entry)
        elif self._batch is not None:
            metadata = self._metadata(entry, old)
            self._put_entry(entry, DriveEntry(entry.path, 0, entry.executable, None, old.blob, metadata))
            self._batch.delete(old.path)
            if (
                isinstance(self.source, LocalDrive)
                and isinstance(self.target, Drive)
                and old.blob is not None
            ):
                place = self.source.path_of(entry.path)
                blobs = await self.target.blobs()
                blobs.core.storage.move_link(old.blob.block_offset, LinkedFile.of(place, os.stat(place)))
        if self._state is not None:
            self._state.forget(old.path)

    async def _set_attributes(self, entry: DriveEntry, old: DriveEntry) -> None:
        if isinstance(self.target, LocalDrive):
            self.target.folder.set_executable(entry.path, entry.executable)
        else:
            metadata = self._metadata(entry, old)
            self._put_entry(entry, DriveEntry(entry.path, 0, entry.executable, None, old.blob, metadata))

    async def _copy(self, entry: DriveEntry, old: DriveEntry | None) -> None:
        metadata = self._metadata(entry, old)
        if entry.linkname is not None:
            if isinstance(self.target, LocalDrive):
                await self.target.symlink(entry.path, entry.linkname)
                await self._agree(entry)
            else:
                self._put_entry(entry, DriveEntry(entry.path, 0, linkname=entry.linkname, metadata=metadata))
        elif isinstance(self.source, LocalDrive) and isinstance(self.target, Drive):
            blob = await self._import(self.source, self.target, entry.path)
            self._put_entry(entry, DriveEntry(entry.path, 0, entry.executable, None, blob, metadata))
        else:
            writer = self.target.writer(entry.path, executable=entry.executable, metadata=entry.metadata)
            async with writer:
                async for part in self.source.read(entry):
                    await writer.write(part)
                    self._progress(len(part))
            await self._agree(entry)

    async def _import(self, source: LocalDrive, target: Drive, path: str) -> BlobId:
        options = self.options
        fd = source.open(path)
        try:
            blobs, place = await target.blobs(), source.path_of(path)
            return await import_file(blobs, fd, place, link=options.link, progress=options.progress)
        finally:
            os.close(fd)

    def _put_entry(self, source: DriveEntry, new: DriveEntry) -> None:
        assert self._batch is not None
        self._batch.put_entry(new)
        if self._state is not None and isinstance(source, LocalEntry):
            self._state.agree(source, new, read=True)

    async def _agree(self, entry: DriveEntry) -> None:
        if self._state is not None and isinstance(self.target, LocalDrive):
            local = await self.target.entry(entry.path)
            if local is not None:
                self._state.agree(local, entry)

    def _may_remove(self, entry: DriveEntry) -> bool:
        """In a folder, only what came from the drive; what was there by itself stays."""
        if not isinstance(self.target, LocalDrive) or self._state is None:
            return True
        return self._state.get(entry.path) is not None and not self._is_own(entry)

    def _is_own(self, entry: DriveEntry) -> bool:
        """Whether a file of the target has what nobody else may have, and is to be kept."""
        if not (self.options.keep and isinstance(entry, LocalEntry)) or self._state is None:
            return False
        return not self._state.came_from_drive(entry)

    async def _remove(self, path: str, entry: DriveEntry) -> AsyncIterator[Step]:
        if not self.options.delete or not self._may_remove(entry):
            return
        if not self.options.dry_run:
            if self._batch is not None:
                self._batch.delete(path)
            else:
                await self.target.delete(path)
            if self._state is not None:
                self._state.forget(path)
        yield Step("remove", path, await self.target.size(entry))

    async def _flush(self, least: int) -> None:
        if self._batch is not None and len(self._batch) >= least:
            await self._batch.flush()


def _in_the_way(removed: dict[str, DriveEntry], wanted: dict[str, DriveEntry]) -> list[str]:
    """Files to be removed where a folder has to be, and files in folders where a file has to be."""
    folders = {folder for path in wanted for folder in _folders_above(path)} if removed else set()
    return [
        path
        for path in removed
        if path in folders or any(folder in wanted for folder in _folders_above(path))
    ]


def _folders_above(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:end]) for end in range(2, len(parts))]


def _needs_bytes(drive: Drive, entry: DriveEntry) -> bool:
    """Whether hashes can't tell if contents are equal: those of encrypted blocks, or not held here."""
    blob, blobs = entry.blob, drive.local_blobs()
    if blob is None or blobs is None or blob.block_map or blobs.core.encryption is not None:
        return True
    last = blob.block_offset + blob.block_length
    return any(blobs.core.get_node(2 * index) is None for index in range(blob.block_offset, last))


async def _same_bytes(one: AnyDrive, entry: DriveEntry, other: AnyDrive, old: DriveEntry) -> bool:
    left, right = bytearray(), bytearray()
    theirs = other.read(old)
    async for part in one.read(entry):
        left += part
        while len(right) < len(left):
            more = await anext(theirs, None)
            if more is None:
                return False
            right += more
        if left != right[: len(left)]:
            return False
        del right[: len(left)]
        left.clear()
    return not right and await anext(theirs, None) is None
