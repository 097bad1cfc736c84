"""The LMDB environment of a store: what is committed, seen through one reading transaction.

Reading goes on while another thread writes. The transaction is begun anew after each write; and now and then
the whole file is mapped anew, since what was read once through a mapping counts as memory of this process.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import lmdb

from pelure.errors import DriveError
from pelure.hyper.core.journal import Changes

_MAP_SIZE = 1 << 40
_READS_PER_MAPPING = 4096
_GENERATION_KEY = b"generation"


class Database:
    """The database in the folder ``path``, which is made if need be.

    All methods raise ``DriveError`` if it is damaged; :meth:`write` raises ``lmdb.Error`` if the disk won't.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        """Held while the environment is written to, or closed to be mapped anew."""
        self._stale = False
        self._closed = False
        self._reads = 0
        path.mkdir(mode=0o700, exist_ok=True)
        self._open()
        try:
            self.generation = int.from_bytes(self.get(_GENERATION_KEY) or b"", "little")
            """How often it was written to."""
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        try:
            self._env = lmdb.open(str(self._path), map_size=_MAP_SIZE, mode=0o600, readahead=False)
        except lmdb.Error as error:
            raise self._damaged(error) from error
        self._reader = self._env.begin()

    def _damaged(self, error: lmdb.Error) -> DriveError:
        return DriveError(f"the store {str(self._path.parent)!r} is damaged: {error}")

    def get(self, key: bytes) -> bytes | None:
        """The value of ``key``."""
        try:
            return self._transaction().get(key)
        except lmdb.Error as error:
            raise self._damaged(error) from error

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The keys in ``start`` to ``end`` (exclusive), ascending, with their values."""
        count = 0
        try:
            with self._transaction().cursor() as cursor:
                more = cursor.set_range(start)
                while more and (key := cursor.key()) < end:
                    yield key, cursor.value()
                    count += 1
                    more = cursor.next()
        except lmdb.Error as error:
            raise self._damaged(error) from error
        finally:
            self._reads += count // 4  # several lie on one page

    def _transaction(self) -> lmdb.Transaction[bytes]:
        if self._closed:
            raise DriveError("the store is closed")
        self._reads += 1
        if self._stale or self._reads > _READS_PER_MAPPING:
            self._renew()
        return self._reader

    def _renew(self) -> None:
        """See what was written, and map the file anew if it is time."""
        self._stale = False
        self._reader.abort()
        if self._reads > _READS_PER_MAPPING and self._lock.acquire(blocking=False):
            try:
                self._reads = 0
                self._env.close()
                self._open()
            finally:
                self._lock.release()
        else:
            self._reader = self._env.begin()

    def write(self, changes: Changes) -> None:
        """Make ``changes`` durable, in any thread. Readers see all of them from then on."""
        generation = self.generation + 1
        with self._lock, self._env.begin(write=True) as transaction:
            for key in [key for key, value in changes.items() if value is None]:
                transaction.delete(key)
            with transaction.cursor() as cursor:
                kept = [(key, value) for key, value in changes.items() if value is not None]
                cursor.putmulti(sorted(kept))  # in order they take less time, and less space
            transaction.put(_GENERATION_KEY, generation.to_bytes(8, "little"))
        self.generation = generation
        self._stale = True

    def close(self) -> None:
        """Close it; nothing can be read from then on."""
        self._closed = True
        self._reader.abort()
        self._env.close()
