"""State on disk: one folder of a network and role, locked by the process that uses it.

Files are 0600 and replaced atomically (a reader, or a crash, sees the old or the new content, never
half of one) unless they are only added to; the folder is 0700. What is kept here can be rebuilt: where it
can't be written, because the disk is full or the folder was made read-only, the program says so and goes on.
DESIGN section 6.
"""

from __future__ import annotations

import fcntl
import json
import logging
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from pelure.errors import ConfigError

LOCK_NAME = "lock"
TEMPORARY_PREFIX = "."
log = logging.getLogger(__name__)


def write_private(path: Path, data: bytes | Iterator[bytes]) -> None:
    """Replace ``path`` by ``data`` (or its parts) atomically, readable by this user only. Raises ``OSError``.

    After a power cut there is the old contents or the new, never a part of it.
    """
    handle, temporary = tempfile.mkstemp(prefix=f"{TEMPORARY_PREFIX}{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:  # mkstemp makes it 0600
            file.writelines((data,) if isinstance(data, bytes) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _append_private(path: Path, data: bytes) -> None:
    with private_log(path) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def private_folder(path: Path) -> Path:
    """Make ``path`` and its parents where missing; ``path`` is 0700 from then on. Raises ``ConfigError``.

    So are the parents made here: even their names can tell what somebody reads.
    """
    try:
        for folder in (*reversed(path.parents), path):
            if not folder.is_dir():
                folder.mkdir(mode=0o700, exist_ok=True)
        if path.stat().st_mode & 0o077:
            path.chmod(0o700)
    except OSError as error:
        raise ConfigError(f"can't use {path} as a state folder: {error.strerror}") from error
    return path


def private_log(path: Path) -> BinaryIO:
    """Open ``path`` to append to, readable by this user only; made where missing. Raises ``OSError``."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "ab")


def is_locked(lock: Path) -> bool:
    """Whether a process holds the lock on the file ``lock``; False if there is no such file."""
    try:
        file = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(file)


class StateFolder:
    """A locked folder of small state files. ``close`` (or leaving ``with``) gives the lock back."""

    def __init__(self, path: Path) -> None:
        """Make and lock ``path``. Raises ``ConfigError``, also if another process holds it."""
        self.path = private_folder(path)
        self._failing: set[str] = set()
        self._lock: int | None = None
        try:
            self._lock = os.open(self.path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise ConfigError(f"{path} is in use by another pelure process") from None
        except OSError as error:
            self.close()
            raise ConfigError(f"can't lock the state folder {path}: {error.strerror}") from error

    def read(self, name: str) -> bytes | None:
        """The content of file ``name``, None if there is none. Raises ``OSError``."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def read_mapped(self, name: str) -> bytes | mmap.mmap:
        """The content of a large file ``name``, not copied into memory; empty if there is none.

        Stays what it is when the file is replaced; ends with the last reference. Raises ``OSError``.
        """
        try:
            with (self.path / name).open("rb") as file:
                try:
                    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                except (ValueError, OSError):  # it is empty, or on a file system that can't
                    return file.read()
        except FileNotFoundError:
            return b""

    def write(self, name: str, data: bytes | Iterator[bytes]) -> bool:
        """Replace file ``name`` atomically; if that can't be, warn (once in a row) and keep what was there.

        Returns whether it was written.
        """
        return self._attempt(name, lambda path: write_private(path, data))

    def append(self, name: str, data: bytes) -> bool:
        """Add ``data`` to the end of file ``name``; otherwise as :meth:`write`.

        A crash may leave a part of ``data``: for files whose readers tell what is whole.
        """
        return self._attempt(name, lambda path: _append_private(path, data))

    def _attempt(self, name: str, action: Callable[[Path], None]) -> bool:
        try:
            action(self.path / name)
        except OSError as error:
            if name not in self._failing:
                log.warning(
                    "Can't save %s in %s: %s. What was there is kept.",
                    name,
                    self.path,
                    error.strerror or error,
                )
            self._failing.add(name)
            return False
        self._failing.discard(name)
        return True

    def read_json(self, name: str) -> Any:
        """The JSON value in file ``name``; None if it is missing or, which is told, damaged.

        State can be rebuilt; but whoever has other entry guards from now on should know why.
        """
        data = self.read(name)
        if data is None:
            return None
        try:
            return json.loads(data)
        except ValueError:
            log.warning("%s in %s is damaged; it is made anew", name, self.path)
            return None

    def write_json(self, name: str, value: Any) -> bool:
        """Replace file ``name`` by ``value`` as JSON; see :meth:`write`."""
        return self.write(name, json.dumps(value, indent=1).encode() + b"\n")

    def close(self) -> None:
        """Give the lock back; idempotent."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> StateFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
