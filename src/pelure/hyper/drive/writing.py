"""Writing to a drive in steps: one file piece by piece, and many changes that become visible together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pelure.hyper.bee.bee import Batch
from pelure.hyper.blobs.blobs import BlobWriter
from pelure.hyper.drive.entry import DriveEntry, encode_value
from pelure.hyper.drive.paths import normalize

if TYPE_CHECKING:
    from pelure.hyper.drive.drive import Drive


class FileWriter:
    """Writes one file; its entry appears when the ``async with`` block ends without an error."""

    def __init__(self, drive: Drive, path: str, executable: bool, metadata: Any) -> None:
        self._drive = drive
        self._path = path
        self._executable = executable
        self._metadata = metadata
        self._writer: BlobWriter | None = None

    async def __aenter__(self) -> FileWriter:
        blobs = await self._drive.blobs()
        self._writer = await blobs.writer(durable=False).__aenter__()
        return self

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Add a piece of any length."""
        assert self._writer is not None
        await self._writer.write(data)

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        assert self._writer is not None
        await self._writer.__aexit__(kind, error, trace)
        if error is None:
            await self._drive.put_entry(
                self._path, executable=self._executable, blob=self._writer.blob, metadata=self._metadata
            )


class DriveBatch:
    """Changes to a drive that become visible, and durable, together by :meth:`flush`.

    Contents are appended at once; the entries, when the batch is flushed.
    """

    def __init__(self, drive: Drive) -> None:
        self.drive = drive
        self._batch: Batch = drive.db.batch()

    def __len__(self) -> int:
        return len(self._batch)

    async def entry(self, path: str) -> DriveEntry | None:
        """The entry at ``path`` with the changes made."""
        found = await self._batch.get(normalize(path).encode())
        return DriveEntry.decode(found) if found is not None else None

    async def put(
        self,
        path: str,
        data: bytes | bytearray | memoryview,
        *,
        executable: bool = False,
        metadata: Any = None,
    ) -> None:
        """Write a file."""
        key = normalize(path).encode()
        blob = await (await self.drive.blobs()).put(data, durable=False)
        self._batch.put(key, encode_value(executable, None, blob, metadata))

    def put_entry(self, entry: DriveEntry) -> None:
        """Write an entry, without any content."""
        self._batch.put(normalize(entry.path).encode(), entry.encode())

    def symlink(self, path: str, target: str, *, metadata: Any = None) -> None:
        """Write a symbolic link."""
        self._batch.put(normalize(path).encode(), encode_value(False, target, None, metadata))

    def delete(self, path: str) -> None:
        """Delete the entry at ``path``, if there is one."""
        self._batch.delete(normalize(path).encode())

    async def flush(self) -> int:
        """Make the changes; return how many there were. They are durable on return."""
        return await self._batch.flush()
