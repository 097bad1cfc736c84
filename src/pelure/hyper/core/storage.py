"""Crash-safe storage of many cores in one folder.

Everything small (heads, tree nodes, bitfield pages, short blocks) lives in one LMDB environment, so that one
transaction covers all cores; longer blocks live in one file per core (:mod:`.blockfile`) or stay in the
user's own files (:mod:`.linked`). A commit first makes the block files durable, then the transaction: at any
power cut the database refers only to bytes that are there.

Changes collect in memory and reach the disk by :meth:`Store.commit`, which returns once they are durable
(small ones by way of the :mod:`.journal`), or by :meth:`Store.commit_soon`, in a thread while reads go on.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import lmdb

from pelure.errors import DriveError, StorageError
from pelure.hyper.core.blockfile import BlockFile, sync_folder
from pelure.hyper.core.database import Database
from pelure.hyper.core.journal import Changes, Journal, encode
from pelure.hyper.core.linked import OpenFiles

PRIMARY_KEY_NAME = "primary-key"
"""The file that a corestore keeps its primary key in, in the same folder."""

_SOON_BYTES = 8 << 20
_SOON_DELAY = 0.2
_FORMAT = b"pelure hyper store 1"
_FORMAT_KEY = b"format"
_JOURNAL_LIMIT = 64 << 10
_JOURNALED_CHANGES = 20_000

log = logging.getLogger(__name__)


class StoreInUse(DriveError):
    """Another process has the store open."""


class Store:
    """The storage folder. One process at a time, one thread at a time (commits aside)."""

    def __init__(self, path: Path) -> None:
        """Open or create ``path``. Raises :class:`~pelure.errors.DriveError` if it is in use or damaged."""
        self.path = path
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._pending: Changes = {}
        self._writing: Changes = {}
        self._journaled: Changes = {}
        self._commit_lock = threading.Lock()
        self._releases: list[tuple[BlockFile, int, int]] = []
        self._releasing: list[tuple[BlockFile, int, int]] = []
        self._sealers: dict[object, Callable[[], None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._uncommitted = 0
        self._awaiting: list[Callable[[], None]] = []
        self._awaited: list[Callable[[], None]] = []
        """Those who are called once what is being written is on the disk."""
        self.block_files: dict[int, BlockFile] = {}
        self.open_files = OpenFiles()
        self.closed = False
        self._journal_fits_on = True
        with ExitStack() as undo:  # what can't be opened as a whole leaves nothing open, nor locked
            self._lock = _lock_folder(path)
            undo.callback(os.close, self._lock)
            self._database = Database(path / "db")
            undo.callback(self._database.close)
            self._journal = Journal(path / "journal")
            undo.callback(self._journal.close)
            self._recover()
            undo.pop_all()

    def _recover(self) -> None:
        """Take over what the journal holds; a new store gets its format.

        That goes to the database at once, so that a store without one is known to have lost it: its journal
        alone, or nothing, would take its cores back to what they once were, and give them two histories.
        """
        found = self.get(_FORMAT_KEY)
        if found is None:
            if (self.path / PRIMARY_KEY_NAME).exists():
                raise DriveError(f"the store {str(self.path)!r} lost its database: restore it from a copy")
            self._writing = {_FORMAT_KEY: _FORMAT}
            self._write()
            sync_folder(self.path)
        elif found != _FORMAT:
            raise DriveError(f"{str(self.path)!r} was written by another version of pelure")
        for changes in self._journal.read(self._database.generation):
            self._journaled.update(changes)

    def get(self, key: bytes) -> bytes | None:
        """The value of ``key``, committed or not."""
        for changes in (self._pending, self._writing, self._journaled):
            if key in changes:
                return changes[key]
        return self._database.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        """Set ``key``; durable after the next commit."""
        self._pending[key] = value

    def put_many(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Set many keys."""
        self._pending.update(items)

    def delete(self, key: bytes) -> None:
        """Remove ``key``, after the next commit for good."""
        self._pending[key] = None

    def keys(self, start: bytes, end: bytes) -> list[bytes]:
        """Keys in ``start`` to ``end`` (exclusive), committed or not, ascending."""
        found = {key for key, _ in self._database.scan(start, end)}
        for changes in (self._journaled, self._writing, self._pending):
            for key, value in changes.items():
                if start <= key < end:
                    (found.discard if value is None else found.add)(key)
        return sorted(found)

    def get_numbered(self, prefix: bytes, start: int, end: int) -> dict[int, bytes]:
        """The values of ``prefix`` + number (8 bytes) for ``start`` to ``end`` (exclusive), in one go."""
        size = len(prefix)
        first, last = prefix + start.to_bytes(8, "big"), prefix + end.to_bytes(8, "big")
        found = {int.from_bytes(key[size:], "big"): value for key, value in self._database.scan(first, last)}
        layers = [layer for layer in (self._journaled, self._writing, self._pending) if layer]
        for number in range(start, end) if layers else ():
            key = prefix + number.to_bytes(8, "big")
            for layer in layers:
                if key in layer:
                    value = layer[key]
                    if value is None:
                        found.pop(number, None)
                    else:
                        found[number] = value
        return found

    def release_after_commit(self, file: BlockFile, position: int, size: int) -> None:
        """Give back space in a block file once nothing committed refers to it."""
        self._releases.append((file, position, size))

    def commit(self) -> None:
        """Make all changes durable; returns when they are. Raises ``DriveError`` if the disk won't."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        with self._commit_lock:
            if self._pending or self._writing or self._releases or self._sealers:
                self._take()
                if not self._write_to_journal():
                    self._write()
        awaiting, self._awaiting = self._awaiting, []
        for callback in awaiting:
            callback()

    def when_durable(self, callback: Callable[[], None]) -> None:
        """Call ``callback``, in this thread, once all that was changed until now is on the disk for good.

        What is not being written yet will be before long. Callbacks come in the order of these calls.
        """
        if not self._pending and not self._writing and not self._awaited:
            callback()
        elif not self._pending and (self._awaited or self._commit_lock.locked()):
            self._awaited.append(callback)
        else:
            self._awaiting.append(callback)
            self.commit_soon(0)

    async def durable(self) -> None:
        """Make all changes durable and wait until everybody who waits for that was told.

        Raises ``DriveError`` if the disk won't.
        """
        self.commit()
        told = asyncio.Event()
        self.when_durable(told.set)
        await told.wait()

    def commit_soon(self, size: int) -> None:
        """Commit in a thread before long; ``size`` bytes were changed since the last call.

        Without a running event loop this is :meth:`commit`.
        """
        self._uncommitted += size
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.commit()
            return
        if self._uncommitted >= _SOON_BYTES and not self._commit_lock.locked():
            self._commit_in_thread(loop)
        elif self._timer is None:
            self._timer = loop.call_later(_SOON_DELAY, self._commit_in_thread, loop)

    def _commit_in_thread(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.closed:
            return
        if not self._commit_lock.acquire(blocking=False):
            self._timer = loop.call_later(_SOON_DELAY, self._commit_in_thread, loop)
            return
        self._take()  # in this thread: only the writing is left to the other one
        awaited = self._awaited = self._awaiting
        self._awaiting = []

        def written(success: bool) -> None:
            if self._awaited is awaited:
                self._awaited = []
            if not success:
                self._awaiting += awaited
                return
            for callback in awaited:
                callback()

        try:
            writing = loop.run_in_executor(None, self._write_and_unlock)
        except RuntimeError:  # the loop is shutting down and takes no more work
            written(self._write_and_unlock())
        else:
            writing.add_done_callback(lambda done: written(not done.cancelled() and done.result()))

    def _write_and_unlock(self) -> bool:
        """Write what was taken; whether that succeeded."""
        try:
            self._write()
        except DriveError as error:
            log.warning("%s; trying again with the next blocks", error)
            return False
        finally:
            self._commit_lock.release()
        return True

    def before_commit(self, owner: object, seal: Callable[[], None]) -> None:
        """Call ``seal`` once, before the next commit; again for the same ``owner`` changes nothing."""
        self._sealers[owner] = seal

    def _take(self) -> None:
        """Turn what is pending into what is being written; what failed to be written is still there."""
        sealers, self._sealers = self._sealers, {}
        for seal in sealers.values():
            seal()
        pending, self._pending = self._pending, {}
        self._writing = {**self._writing, **pending} if self._writing else pending
        releases, self._releases = self._releases, []
        self._releasing += releases
        self._uncommitted = 0

    def _write_to_journal(self) -> bool:
        """Make a small change durable the fast way; ``False`` if it is not small."""
        if not self._journal_fits_on or len(self._journaled) + len(self._writing) > _JOURNALED_CHANGES:
            return False
        body = encode(self._writing)
        if len(body) > _JOURNAL_LIMIT or not self._journal.fits(body):
            return False
        with self._telling_errors():
            self._sync_block_files()
            self._journal.append(self._database.generation, body)
        self._journaled.update(self._writing)
        self._writing = {}
        self._release()
        return True

    def _write(self) -> None:
        """Bring everything that is journaled and taken into the database."""
        changes = {**self._journaled, **self._writing} if self._journaled else self._writing
        self._journal_fits_on = False  # should this fail, it is not known which generation the disk has
        with self._telling_errors():
            self._sync_block_files()
            self._database.write(changes)  # before the layers go: a reader sees one or the other
        self._journal_fits_on = True
        self._journal.restart()
        self._writing = {}
        self._journaled = {}
        self._release()

    def _sync_block_files(self) -> None:
        for file in list(self.block_files.values()):
            if file.dirty:
                file.sync()

    def _release(self) -> None:
        releases, self._releasing = self._releasing, []
        by_file: dict[BlockFile, list[tuple[int, int]]] = {}
        for file, position, size in releases:
            by_file.setdefault(file, []).append((position, position + size))
        for file, spans in by_file.items():
            for start, end in _joined(spans):
                file.release(start, end - start)

    @contextmanager
    def _telling_errors(self) -> Iterator[None]:
        try:
            yield
        except (lmdb.Error, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise StorageError(f"the store in {str(self.path)!r} can't be written: {reason}") from error

    def block_file(self, number: int, end: int) -> BlockFile:
        """The block file of core ``number``, cut off at ``end`` if it is opened now."""
        file = self.block_files.get(number)
        if file is None:
            file = self.block_files[number] = BlockFile(self.path / f"blocks-{number}", end)
        return file

    def remove_block_file(self, number: int) -> None:
        """Delete the block file of core ``number``."""
        file = self.block_file(number, 0)
        with self._commit_lock:
            del self.block_files[number]
            self._releases = [release for release in self._releases if release[0] is not file]
            self._releasing = [release for release in self._releasing if release[0] is not file]
            file.remove()

    def close(self) -> None:
        """Commit and close; idempotent."""
        if self.closed:
            return
        try:
            self.commit()
            with self._commit_lock:
                if self._journaled:
                    self._write()
        finally:
            self.closed = True
            self._database.close()
            self._journal.close()
            for file in self.block_files.values():
                file.close()
            self.open_files.close()
            os.close(self._lock)


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same bytes in as few spans as possible: each costs the file system a transaction."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _lock_folder(path: Path) -> int:
    """Take the folder's lock. Raises ``DriveError`` if another process, or this one, has it."""
    fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise StoreInUse(f"the store {str(path)!r} is in use; end the other process first") from None
        raise
    return fd
