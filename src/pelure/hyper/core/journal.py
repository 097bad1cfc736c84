"""The journal of a store: small commits, durable with one write and one sync of a file that never grows.

A commit to the database costs several scattered writes and two syncs. So a small one is appended to the
journal instead, and the database takes over many of them at once, later. Each record carries the
generation of the database it comes on top of, and a digest: after a crash, records of the current generation
are applied in order, up to the first one that is not whole.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

SIZE = 4 << 20
"""Bytes of the journal; more than one generation's records never need."""

Changes = dict[bytes, bytes | None]
"""New values of keys; ``None`` deletes."""

_HEAD = struct.Struct("<QI16s")
_ITEM = struct.Struct("<HI")
_DELETED = 0xFFFFFFFF
_ZEROS = bytes(1 << 20)


def encode(changes: Changes) -> bytes:
    """The body of a record."""
    parts = []
    for key, value in changes.items():
        parts.append(_ITEM.pack(len(key), _DELETED if value is None else len(value)))
        parts.append(key)
        if value is not None:
            parts.append(value)
    return b"".join(parts)


def decode(body: bytes) -> Changes:
    """The changes in the body of a record whose digest is right."""
    changes: Changes = {}
    pos = 0
    while pos < len(body):
        key_size, size = _ITEM.unpack_from(body, pos)
        pos += _ITEM.size
        key = body[pos : pos + key_size]
        pos += key_size
        if size == _DELETED:
            changes[key] = None
        else:
            changes[key] = body[pos : pos + size]
            pos += size
    return changes


def _digest(generation: int, body: bytes) -> bytes:
    return blake2b(generation.to_bytes(8, "little") + body, digest_size=16).digest()


class Journal:
    """The open journal file at ``path``."""

    def __init__(self, path: Path) -> None:
        """Raises ``OSError``, if there is no room for it for one thing."""
        self._end = 0
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._fill()
        except BaseException:
            self.close()
            raise

    def _fill(self) -> None:
        """Have the file take all the room that it will ever need."""
        present = os.fstat(self._fd).st_size
        if present < SIZE:
            for at in range(present, SIZE, len(_ZEROS)):
                os.pwrite(self._fd, _ZEROS[: SIZE - at], at)
            os.fsync(self._fd)

    def read(self, generation: int) -> Iterator[Changes]:
        """The whole records of ``generation``, in order; new ones go after them."""
        self._end = 0
        while True:
            head = os.pread(self._fd, _HEAD.size, self._end)
            if len(head) < _HEAD.size:
                return
            found, size, digest = _HEAD.unpack(head)
            if found != generation or size > SIZE:
                return
            body = os.pread(self._fd, size, self._end + _HEAD.size)
            if len(body) != size or _digest(generation, body) != digest:
                return
            self._end += _HEAD.size + size
            yield decode(body)

    def fits(self, body: bytes) -> bool:
        """Whether there is room for one more record."""
        return self._end + _HEAD.size + len(body) <= SIZE

    def append(self, generation: int, body: bytes) -> None:
        """Write a record; it is durable on return. Raises ``OSError``, and then nothing is recorded."""
        record = _HEAD.pack(generation, len(body), _digest(generation, body)) + body
        written = os.pwrite(self._fd, record, self._end)
        if written != len(record):
            raise OSError(f"only {written} of {len(record)} bytes could be written")
        os.fdatasync(self._fd)
        self._end += len(record)

    def restart(self) -> None:
        """Begin a new generation: the old records don't count any more."""
        self._end = 0

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
