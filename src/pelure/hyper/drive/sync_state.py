"""What is remembered of files that are the same in a folder and in a drive.

For each path: size and modification time of the file, and the blob of the drive's entry, as they were when
both were last seen to agree. It is kept beside the drive's db core, never travels, and only saves work: a
file with the same size and time is not read again. It also tells the files that were synced once from those
that the folder had by itself.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from pelure.hyper.blobs.blob_id import BlobId
from pelure.hyper.core.core_storage import CoreStorage
from pelure.hyper.drive.entry import DriveEntry
from pelure.hyper.drive.local import LocalEntry

_RECORD = struct.Struct("<QqQQQQ")
_NO_BLOB = BlobId(0, 0, 0, 0)
_CLOCK_TICK_NS = 20_000_000


@dataclass(frozen=True, slots=True)
class Agreed:
    """The file's ``size`` and ``mtime_ns``, and where the drive has its content."""

    size: int
    mtime_ns: int
    blob: BlobId


class SyncState:
    """The agreed files of the folder ``root`` and the drive whose db core has this ``storage``."""

    def __init__(self, storage: CoreStorage, root: Path) -> None:
        self._storage = storage
        self._prefix = "sync " + blake2b(bytes(root), digest_size=8).hexdigest() + " "

    def _name(self, path: str) -> str:
        return self._prefix + blake2b(path.encode(), digest_size=20).hexdigest()

    def get(self, path: str) -> Agreed | None:
        """What was agreed on ``path``."""
        record = self._storage.get_user_data(self._name(path))
        if record is None:
            return None
        size, mtime_ns, *blob = _RECORD.unpack(record)
        return Agreed(size, mtime_ns, BlobId(*blob))

    def agree(self, local: LocalEntry, entry: DriveEntry, *, read: bool = False) -> None:
        """Note that the file (or link) and the entry are the same.

        ``read``: the file was read just now. If it was also modified just now, it might be modified once more
        within the same tick of the clock; then its time is not relied on.
        """
        size = local.blob.byte_length if local.blob is not None else 0
        fresh = read and time.time_ns() - local.mtime_ns < _CLOCK_TICK_NS
        blob = entry.blob or _NO_BLOB
        numbers = (blob.block_offset, blob.byte_offset, blob.block_length, blob.byte_length)
        record = _RECORD.pack(size, 0 if fresh or blob.block_map else local.mtime_ns, *numbers)
        name = self._name(local.path)
        if self._storage.get_user_data(name) != record:
            self._storage.put_user_data(name, record)

    def forget(self, path: str) -> None:
        """Note that the path is gone from both."""
        self._storage.put_user_data(self._name(path), None)

    def save(self) -> None:
        """Make it durable."""
        self._storage.store.commit()

    def came_from_drive(self, local: LocalEntry) -> bool:
        """Whether the file (or link) is, as far as can be told without reading it, as it was written once."""
        agreed = self.get(local.path)
        if agreed is None or local.blob is None:
            return agreed is not None
        return agreed.size == local.blob.byte_length and agreed.mtime_ns in (0, local.mtime_ns)

    def agrees(self, local: LocalEntry, entry: DriveEntry) -> bool:
        """Whether both are as they were when they agreed, which can be told without reading the file."""
        agreed = self.get(local.path)
        return (
            agreed is not None
            and local.blob is not None
            and (agreed.size, agreed.mtime_ns) == (local.blob.byte_length, local.mtime_ns)
            and agreed.blob == entry.blob
        )
