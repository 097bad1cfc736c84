"""A plain folder with the interface of a drive (HYPER-FACTS §19).

Paths and links are those of the file system under the root; nothing outside it is read or written. A folder
has no history: the newest state is the only one.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pelure.errors import DriveError
from pelure.hyper.blobs.blob_id import BlobId
from pelure.hyper.blobs.blobs import BLOCK_SIZE
from pelure.hyper.drive.entry import DriveEntry, Unfit
from pelure.hyper.drive.ignore import IgnoreRules
from pelure.hyper.drive.metadata import mtime_in
from pelure.hyper.drive.paths import folder_key, is_utf8, normalize
from pelure.hyper.drive.safe_folder import TEMPORARY, NewFile, SafeFolder, check_link, split


@dataclass(frozen=True, slots=True)
class LocalEntry(DriveEntry):
    """A file or link in a folder; ``mtime_ns`` is when it was modified last."""

    mtime_ns: int = 0


class LocalDrive:
    """The folder ``root`` as a drive."""

    def __init__(
        self,
        root: str | Path,
        *,
        create: bool = False,
        ignore: IgnoreRules | None = None,
        inward_links: bool = False,
    ) -> None:
        """``inward_links``: symbolic links that lead out of the folder are among the problems of a list."""
        self.folder = SafeFolder(Path(root), create=create)
        self.root = self.folder.root
        self.problems: list[Unfit] = []
        self._ignore = ignore or IgnoreRules.of(self.root)
        self._inward_links = inward_links
        self.writable = True

    def close(self) -> None:
        """Close the folder's descriptor."""
        self.folder.close()

    def path_of(self, path: str) -> str:
        """The file's absolute path in the file system."""
        return str(self.root) + normalize(path)

    async def entry(self, path: str) -> LocalEntry | None:
        """What is at ``path``; ``None`` for nothing and for folders."""
        path = normalize(path)
        status = self.folder.status(path)
        return self._entry(path, status) if status is not None else None

    def _entry(self, path: str, status: os.stat_result) -> LocalEntry | None:
        if stat.S_ISLNK(status.st_mode):
            target = self.folder.link_target(path)
            if not is_utf8(target):
                raise DriveError("the symbolic link leads to a name that UTF-8 can't hold")
            if self._inward_links:
                check_link(path, target)
            return LocalEntry(path, 0, linkname=target, mtime_ns=status.st_mtime_ns)
        if not stat.S_ISREG(status.st_mode):
            return None
        blob = BlobId(0, 0, -(-status.st_size // BLOCK_SIZE), status.st_size)
        executable = bool(status.st_mode & stat.S_IXUSR)
        return LocalEntry(path, 0, executable, None, blob, None, status.st_mtime_ns)

    async def get(self, path: str) -> bytes | None:
        """The content of a file; ``None`` if there is none, and for a symbolic link."""
        entry = await self.entry(path)
        if entry is None or entry.blob is None:
            return None
        return b"".join([part async for part in self.read(entry)])

    async def read(
        self, path: str | DriveEntry, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        """Bytes ``start`` to ``end`` (exclusive) of a file, piece by piece. Raises if there is no file."""
        fd = self.open(path if isinstance(path, str) else path.path)
        try:
            while end is None or start < end:
                size = BLOCK_SIZE if end is None else min(BLOCK_SIZE, end - start)
                part = os.pread(fd, size, start)
                if not part:
                    return
                start += len(part)
                yield part
        finally:
            os.close(fd)

    def open(self, path: str) -> int:
        """A descriptor of a file, for reading; never of what a link leads to."""
        try:
            return self.folder.open(normalize(path))
        except FileNotFoundError:
            raise DriveError(f"there is no file {path!r} in the folder") from None

    async def size(self, entry: DriveEntry) -> int:
        """Bytes of a file's content."""
        return entry.blob.byte_length if entry.blob is not None else 0

    async def exists(self, path: str) -> bool:
        """Whether there is a file or link at ``path``."""
        return await self.entry(path) is not None

    async def has(self, path: str) -> bool:
        """The same: a folder's content is always here."""
        return await self.exists(path)

    @staticmethod
    def compare(one: LocalEntry, other: LocalEntry) -> int:
        """-1, 0 or 1: which entry is older."""
        return (one.mtime_ns > other.mtime_ns) - (one.mtime_ns < other.mtime_ns)

    async def list(
        self, folder: str = "/", *, recursive: bool = True, ignore: Callable[[str], bool] | None = None
    ) -> AsyncIterator[LocalEntry]:
        """The files and links below ``folder``, in the order of a drive; see :attr:`problems` afterwards.

        What the ignore file names, and unfinished files, are left out.
        """
        found = [
            entry
            for entry in self._walk(folder_key(folder), recursive)
            if not ignore or not ignore(entry.path)
        ]
        for entry in sorted(found, key=lambda entry: entry.path.encode()):
            yield entry

    def _walk(self, top: str, recursive: bool) -> Iterator[LocalEntry]:
        """The entries in folder ``top``, in no order. Raises ``OSError`` only if ``top`` can't be read."""
        pending = [top]
        while pending:
            folder = pending.pop()
            try:
                with os.scandir(str(self.root) + folder) as items:
                    below = list(items)
            except NotADirectoryError:
                continue
            except OSError as error:
                if folder == top:
                    raise
                self.problems.append(Unfit(folder, error.strerror or str(error)))
                continue
            for item in below:
                path = f"{folder}/{item.name}"
                is_folder = item.is_dir(follow_symlinks=False)
                if item.name.startswith(TEMPORARY) or self._ignore.ignores(path, is_folder):
                    continue
                if not is_folder:
                    yield from self._found(path, item)
                elif recursive and self._is_fit(path):
                    pending.append(path)

    def _is_fit(self, path: str) -> bool:
        """Whether a drive may have ``path``; if not, it becomes one of the problems."""
        try:
            normalize(path)
            split(path)
        except DriveError as error:
            self.problems.append(Unfit(path, str(error)))
            return False
        return True

    def _found(self, path: str, item: os.DirEntry[str]) -> Iterator[LocalEntry]:
        if not self._is_fit(path):
            return
        try:
            entry = self._entry(path, item.stat(follow_symlinks=False))
        except DriveError as error:
            self.problems.append(Unfit(path, str(error)))
            return
        except OSError as error:
            self.problems.append(Unfit(path, error.strerror or str(error)))
            return
        if entry is None:
            self.problems.append(Unfit(path, "neither a file, a folder nor a symbolic link"))
        else:
            yield entry

    async def readdir(self, folder: str = "/") -> AsyncIterator[str]:
        """The names directly in ``folder``, of files and folders."""
        for name in sorted(os.listdir(str(self.root) + folder_key(folder))):
            yield name

    async def put(self, path: str, data: bytes, *, executable: bool = False, metadata: Any = None) -> None:
        """Write a file. Of ``metadata`` a folder keeps the time of the last change only."""
        async with self.writer(path, executable=executable, metadata=metadata) as writer:
            await writer.write(data)

    def writer(self, path: str, *, executable: bool = False, metadata: Any = None) -> LocalWriter:
        """Write a file piece by piece; an async context manager with ``write``."""
        return LocalWriter(self.folder.create(normalize(path), executable, mtime_in(metadata)))

    async def symlink(self, path: str, target: str, *, metadata: Any = None) -> None:
        """Make a symbolic link; one that would lead out of the folder is refused."""
        self.folder.symlink(normalize(path), target)

    async def delete(self, path: str) -> bool:
        """Delete a file or link, and the folders left empty; return whether it was there."""
        return self.folder.remove(normalize(path))


class LocalWriter:
    """Writes one file, which appears when the ``async with`` block ends without an error."""

    def __init__(self, file: NewFile) -> None:
        self._file = file

    async def __aenter__(self) -> LocalWriter:
        self._file.__enter__()
        return self

    async def write(self, data: bytes) -> None:
        """Add a piece of any length."""
        self._file.write(data)

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._file.__exit__(kind, error, trace)
