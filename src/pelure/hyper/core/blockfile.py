"""The file that holds a core's larger blocks, one after the other.

Space is handed out at the end only, so writers (threads included) never overlap. What the database does
not refer to is free: an interrupted append leaves bytes past the recorded end, which the next opening cuts
off, and cleared blocks give their pages back to the file system where it can punch holes.

What is written, or read from one end to the other, passes through the kernel's cache without staying in it,
where the kernel can do that (Linux 6.14): a large import, download or upload need not push out what other
programs use.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_BEGIN_WRITING = 2
_UNCACHED = 0x80 if sys.platform == "linux" else 0  # RWF_DONTCACHE
_TAIL_BYTES = 1 << 20
_TAIL_BLOCKS = 256
_AHEAD_BYTES = 2 << 20
_READERS = 4
"""So many at once are read ahead for; what more of them read is left to the kernel."""

Buffer = bytes | bytearray | memoryview


class _Ahead:
    """What was read ahead: ``size`` bytes from ``start`` on."""

    def __init__(self) -> None:
        self.buffer = memoryview(b"")
        self.start = self.size = 0

    def has(self, position: int, size: int) -> bool:
        """Whether all ``size`` bytes at ``position`` are here."""
        return self.start <= position and position + size <= self.start + self.size

    def take(self, position: int, size: int) -> bytes:
        """The bytes at ``position``, as many of ``size`` as there are."""
        at = position - self.start
        return bytes(self.buffer[at : min(at + size, self.size)])


class BlockFile:
    """An open block file; ``end`` is where the next block goes."""

    def __init__(self, path: Path, end: int) -> None:
        self.path = path
        self.end = end
        self.dirty = False
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(self._fd).st_size > end:
            os.ftruncate(self._fd, end)
        self._fresh = end == 0
        self._flags = _UNCACHED
        self._lock = threading.RLock()
        self._aheads: list[_Ahead] = []
        self._ends: list[int] = []
        """Where the last reads ended; the last one comes last."""
        self._tail: list[bytes] = []
        self._tail_start = self._tail_end = end

    def reserve(self, size: int) -> int:
        """Hand out ``size`` bytes; return their position."""
        position = self.end
        self.end += size
        return position

    def append(self, data: bytes) -> int:
        """Put ``data`` at the end, and return its position; the disk gets it with more, in large pieces.

        Ten times as fast as writing each block, because the kernel allocates whole runs of pages. Raises
        ``OSError``.
        """
        position = self.reserve(len(data))
        with self._lock:
            if position != self._tail_end:
                self._flush()
                self._tail_start = position
            self._tail.append(data)
            self._tail_end = position + len(data)
            self.dirty = True
            if self._tail_end - self._tail_start >= _TAIL_BYTES or len(self._tail) >= _TAIL_BLOCKS:
                self._flush()
        return position

    def _flush(self) -> None:
        if self._tail:
            written = self._transfer(os.pwritev, self._tail, self._tail_start)
            if written < self._tail_end - self._tail_start:
                rest = b"".join(self._tail)[written:]
                self.write(self._tail_start + written, rest)
            self._tail.clear()
            self._forget_aheads()
        self._tail_start = self._tail_end

    def write(self, position: int, data: bytes | memoryview) -> None:
        """Write all of ``data`` at a reserved ``position``. Raises ``OSError``.

        Where the system can be told so, the disk begins with it at once, so that the next :meth:`sync` finds
        little left to do.
        """
        view = memoryview(data)
        start = position
        while view:
            written = self._transfer(os.pwritev, [view], position)
            view = view[written:]
            position += written
        with self._lock:
            self._forget_aheads()
        self.dirty = True  # not earlier: a commit in another thread may just be syncing
        begin = getattr(_LIBC, "sync_file_range", None)
        if begin is not None and not self._flags:  # else it has begun
            begin(self._fd, ctypes.c_int64(start), ctypes.c_int64(position - start), _BEGIN_WRITING)

    def _transfer(self, call: Callable[..., int], buffers: Sequence[Buffer], position: int) -> int:
        """Read or write without filling the kernel's cache, or as always if this system can't do that."""
        if self._flags:
            try:
                return call(self._fd, buffers, position, self._flags)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                    raise
                self._flags = 0
        return call(self._fd, buffers, position)

    def read(self, position: int, size: int) -> bytes:
        """The ``size`` bytes at ``position``, fewer if the file is damaged.

        Who reads on where a read ended has more read for the next ones: that is fast past the cache too, and
        leaves the cache to what is read here and there.
        """
        with self._lock:
            if position + size > self._tail_start:
                self._flush()
            on = position in self._ends
            if on:
                self._ends.remove(position)
            self._ends = [*self._ends, position + size][-_READERS:]
            ahead = next((ahead for ahead in self._aheads if ahead.has(position, size)), None)
            if ahead is None and not on:
                return os.pread(self._fd, size, position)
            return (ahead or self._read_ahead(position, size)).take(position, size)

    def _read_ahead(self, position: int, size: int) -> _Ahead:
        """Read from ``position`` on, at least ``size`` bytes if the file has them, in place of the oldest."""
        ahead = self._aheads.pop(0) if len(self._aheads) == _READERS else _Ahead()
        if size > len(ahead.buffer):
            ahead.buffer = memoryview(bytearray(max(size, _AHEAD_BYTES)))
        ahead.start = position
        ahead.size = self._transfer(os.preadv, [ahead.buffer], position)
        self._aheads.append(ahead)
        return ahead

    def _forget_aheads(self) -> None:
        """Something was written that may have been read before."""
        for ahead in self._aheads:
            ahead.size = 0

    def sync(self) -> None:
        """Make what was written durable."""
        self.dirty = False
        try:
            with self._lock:
                self._flush()
            os.fdatasync(self._fd)
        except OSError:
            self.dirty = True  # what could not be written is still to be written by the next commit
            raise
        if self._fresh:
            self._fresh = False
            sync_folder(self.path.parent)

    def release(self, position: int, size: int) -> None:
        """Give the space back to the file system, where that is possible."""
        punch = getattr(_LIBC, "fallocate", None)
        if punch is not None:
            where, length = ctypes.c_int64(position), ctypes.c_int64(size)
            punch(self._fd, _KEEP_SIZE | _PUNCH_HOLE, where, length)

    def close(self) -> None:
        """Close the file; what was appended since the last :meth:`sync` may be lost."""
        os.close(self._fd)

    def remove(self) -> None:
        """Close and delete the file."""
        self.close()
        self.path.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Make new, renamed and deleted names in a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


_LIBC = ctypes.CDLL(None)
