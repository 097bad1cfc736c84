"""A folder into which names from a drive are written, and out of which nothing ever leads.

Paths of a drive are someone else's words. Each is taken apart, each part is checked, and each folder on the
way is opened by its descriptor without following symbolic links, so that neither ``..`` nor a link that
stands in a folder's place leads elsewhere. Files appear under their names only when they are complete.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from pelure.errors import DriveError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\\]")  # control characters, line separators, backslash
_MAX_NAME = 255
_MAX_PATH = 4095
"""Bytes of the longest path that Linux takes; of one in the folder, the folder's own path takes part."""
TEMPORARY = ".pelure-part-"
"""How the names of unfinished files begin."""


class UnsafeName(DriveError):
    """A name that must not be written into a folder."""


def split(path: str) -> list[str]:
    """The parts of a drive's path, all of them fit to be names. Raises :class:`UnsafeName`."""
    parts = path.split("/")
    if len(parts) < 2 or parts[0] != "":
        raise UnsafeName(f"{path!r} is not a path in a drive")
    for part in parts[1:]:
        if part in ("", ".", ".."):
            raise UnsafeName(f"{path!r} would lead to another place than it says")
        if _UNFIT.search(part):
            raise UnsafeName(f"{path!r} has characters that no file name should have")
        if len(part.encode(errors="surrogatepass")) > _MAX_NAME:
            raise UnsafeName(f"{path!r} has a name longer than {_MAX_NAME} bytes")
    return parts[1:]


def check_link(path: str, target: str) -> None:
    """Raises :class:`UnsafeName` unless a link at ``path`` stays in the folder, whatever else is in it.

    ``..`` is good at the beginning only: after a name, which may itself be a link, it could lead anywhere.
    """
    if not target or target.startswith("/") or _UNFIT.search(target):
        raise UnsafeName(f"the symbolic link {path!r} leads out of the folder or is malformed")
    depth = len(split(path)) - 1
    named = False
    for part in target.split("/"):
        if part == "..":
            depth -= 1
            if named or depth < 0:
                raise UnsafeName(f"the symbolic link {path!r} leads out of the folder")
        elif part not in ("", "."):
            named = True


class SafeFolder:
    """The folder ``root``; all paths are those of a drive, like ``/docs/a.txt``."""

    def __init__(self, root: Path, *, create: bool = False) -> None:
        """Raises ``OSError`` if there is no such folder."""
        if create:
            root.mkdir(parents=True, exist_ok=True)
        self.root = root.resolve(strict=True)
        self._fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the folder's descriptor."""
        os.close(self._fd)

    def __enter__(self) -> SafeFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _parent(self, parts: list[str], create: bool = False) -> Iterator[int]:
        """A descriptor of the folder that the last part is in."""
        fd = os.dup(self._fd)
        try:
            for part in parts[:-1]:
                if create:
                    try:
                        os.mkdir(part, dir_fd=fd)
                    except FileExistsError:
                        pass
                following = os.open(part, _FOLDER, dir_fd=fd)
                os.close(fd)
                fd = following
            yield fd
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                where = "/" + "/".join(parts)
                raise UnsafeName(f"{where!r}: a link or file stands in a folder's place") from None
            raise
        finally:
            os.close(fd)

    def status(self, path: str) -> os.stat_result | None:
        """What is at ``path``, not following links; ``None`` if nothing is."""
        parts = split(path)
        try:
            with self._parent(parts) as fd:
                return os.stat(parts[-1], dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def open(self, path: str) -> int:
        """A descriptor of the regular file at ``path``, for reading. Raises ``OSError`` or ``DriveError``."""
        parts = split(path)
        with self._parent(parts) as parent:
            try:
                fd = os.open(parts[-1], _READ, dir_fd=parent)
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise DriveError(f"{path!r} is a symbolic link, not a file") from None
                raise
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise DriveError(f"{path!r} is not a regular file")
        return fd

    def create(self, path: str, executable: bool = False, mtime: float | None = None) -> NewFile:
        """A new file for ``path``, which replaces what is there once it is complete.

        ``mtime``: when it was changed last, in seconds since 1970; now if None.
        """
        return NewFile(self, self._new(path), executable, mtime)

    def _new(self, path: str) -> list[str]:
        """The parts of a path that something is to be made at; by it, it has to be found again."""
        parts = split(path)
        if len(os.fsencode(self.root)) + len(path.encode()) > _MAX_PATH:
            raise UnsafeName(f"the path {path[:60]!r}… is too long for this folder")
        return parts

    def symlink(self, path: str, target: str) -> None:
        """Make or replace a symbolic link. Raises :class:`UnsafeName` if it would lead out."""
        check_link(path, target)
        parts = self._new(path)
        name = TEMPORARY + secrets.token_hex(8)
        with self._parent(parts, create=True) as fd:
            os.symlink(target, name, dir_fd=fd)
            self._put_in_place(fd, name, parts)

    def link_target(self, path: str) -> str:
        """Where the symbolic link at ``path`` leads."""
        parts = split(path)
        with self._parent(parts) as fd:
            return os.readlink(parts[-1], dir_fd=fd)

    def _put_in_place(self, fd: int, name: str, parts: list[str]) -> None:
        try:
            os.replace(name, parts[-1], src_dir_fd=fd, dst_dir_fd=fd)
        except IsADirectoryError:
            os.unlink(name, dir_fd=fd)
            where = "/" + "/".join(parts)
            raise DriveError(f"{where!r} is a folder here and a file in the drive") from None

    def set_executable(self, path: str, executable: bool) -> None:
        """Set or take away the permission to run a file, where it may be read."""
        fd = self.open(path)
        try:
            os.fchmod(fd, mode_for(os.fstat(fd).st_mode, executable))
        finally:
            os.close(fd)

    def rename(self, old: str, new: str) -> None:
        """Move a file or link within the folder."""
        source, target = split(old), self._new(new)
        with self._parent(source) as fd, self._parent(target, create=True) as other:
            os.replace(source[-1], target[-1], src_dir_fd=fd, dst_dir_fd=other)
        self._remove_empty(source[:-1])

    def remove(self, path: str) -> bool:
        """Delete a file or link, and the folders that this leaves empty; return whether it was there."""
        parts = split(path)
        try:
            with self._parent(parts) as fd:
                os.unlink(parts[-1], dir_fd=fd)
        except FileNotFoundError:
            return False
        self._remove_empty(parts[:-1])
        return True

    def remove_unfinished(self) -> None:
        """Delete what a process that was killed left of files that it was writing."""
        for _, _, names, fd in os.fwalk(dir_fd=self._fd, follow_symlinks=False):
            for name in names:
                if name.startswith(TEMPORARY):
                    os.unlink(name, dir_fd=fd)

    def _remove_empty(self, parts: list[str]) -> None:
        while parts:
            try:
                with self._parent(parts) as fd:
                    os.rmdir(parts[-1], dir_fd=fd)
            except OSError:
                return
            parts = parts[:-1]


def mode_for(mode: int, executable: bool) -> int:
    """``mode`` with the permission to run for everyone who may read, or for no one."""
    readers = (mode & 0o444) >> 2
    return stat.S_IMODE(mode) | readers if executable else stat.S_IMODE(mode) & ~0o111


class NewFile:
    """A file being written; it gets its name at the end of the ``with`` block, unless that fails."""

    def __init__(self, folder: SafeFolder, parts: list[str], executable: bool, mtime: float | None) -> None:
        self._folder = folder
        self._parts = parts
        self._executable = executable
        self._mtime = mtime
        self._name = TEMPORARY + secrets.token_hex(8)
        self._fd = -1

    def __enter__(self) -> NewFile:
        with self._folder._parent(self._parts, create=True) as fd:
            self._fd = os.open(self._name, _NEW_FILE, 0o666, dir_fd=fd)
        if self._executable:
            os.fchmod(self._fd, mode_for(os.fstat(self._fd).st_mode, True))
        return self

    def write(self, data: bytes) -> None:
        """Append ``data``. Raises ``OSError``."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._mtime is not None:
            os.utime(self._fd, (self._mtime, self._mtime))
        os.close(self._fd)
        with self._folder._parent(self._parts) as fd:
            if error is None:
                self._folder._put_in_place(fd, self._name, self._parts)
            else:
                os.unlink(self._name, dir_fd=fd)
