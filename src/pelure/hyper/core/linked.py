"""Blocks that stay in the user's own files: the files, and what tells whether they changed.

A linked file is known by its path and its fingerprint (size and modification time when it was linked). The
fingerprint only says whether to be suspicious; what is read is always checked against the Merkle tree by
the core, so that a file changed underneath is never served as if it were the old one.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass

from pelure.errors import DriveError

_OPEN_FILES = 64


class LinkedFileChanged(DriveError):
    """A file whose blocks were linked is gone or no longer has the content it had."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(f"{path!r} {what} since it was linked; import it again")
        self.path = path


@dataclass(frozen=True, slots=True)
class LinkedFile:
    """A file of the user's: absolute ``path``, ``size`` in bytes, modification time in nanoseconds."""

    path: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str, status: os.stat_result) -> LinkedFile:
        """The file as it is now."""
        return cls(path, status.st_size, status.st_mtime_ns)

    def unchanged(self) -> bool:
        """Whether size and modification time are still the same."""
        try:
            status = os.stat(self.path)
        except OSError:
            return False
        return (status.st_size, status.st_mtime_ns) == (self.size, self.mtime_ns)


class OpenFiles:
    """A bounded set of open linked files."""

    def __init__(self) -> None:
        self._fds: OrderedDict[str, int] = OrderedDict()

    def read(self, path: str, position: int, size: int) -> bytes:
        """The bytes there, fewer at the end. Raises :class:`LinkedFileChanged` if it can't be read."""
        fd = self._fds.get(path)
        try:
            if fd is None:
                fd = self._open(path)
            return os.pread(fd, size, position)
        except OSError:
            raise LinkedFileChanged(path, "can no longer be read") from None

    def _open(self, path: str) -> int:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        self._fds[path] = fd
        if len(self._fds) > _OPEN_FILES:
            os.close(self._fds.popitem(last=False)[1])
        return fd

    def forget(self, path: str) -> None:
        """Close the file, if it is open, so that the next read sees what has that name now."""
        fd = self._fds.pop(path, None)
        if fd is not None:
            os.close(fd)

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.popitem()[1])
