"""Entries of a drive: what its index says about a path (HYPER-FACTS §15)."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pelure.errors import ProtocolError
from pelure.hyper.bee.bee import Entry
from pelure.hyper.blobs.blob_id import BlobId
from pelure.hyper.drive.paths import is_normal, is_utf8

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Unfit:
    """Something that can't be in a drive, or is in one although no writer of drives writes it, and why."""

    path: str
    reason: str


OnUnfit = Callable[[Unfit], object]


_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def encode_value(executable: bool, linkname: str | None, blob: BlobId | None, metadata: Any) -> bytes:
    """The value of an entry in the index: JSON as JavaScript writes it."""
    mode = "true" if executable else "false"
    link = "null" if linkname is None else _JSON.encode(linkname)
    content = "null" if blob is None else blob.to_json()
    other = "null" if metadata is None else _JSON.encode(metadata)
    return f'{{"executable":{mode},"linkname":{link},"blob":{content},"metadata":{other}}}'.encode()


@dataclass(frozen=True, slots=True)
class DriveEntry:
    """A file (``blob``) or a symbolic link (``linkname``) at ``path``; ``metadata`` is any JSON value.

    ``seq`` is the block of the index that says so, 0 for an entry that is not written yet.
    """

    path: str
    seq: int
    executable: bool = False
    linkname: str | None = None
    blob: BlobId | None = None
    metadata: Any = None

    def encode(self) -> bytes:
        """The value in the index."""
        return encode_value(self.executable, self.linkname, self.blob, self.metadata)

    @classmethod
    def decode(cls, entry: Entry) -> DriveEntry:
        """Raises :class:`~pelure.errors.ProtocolError` for anything that is not a drive's entry."""
        try:
            path = entry.key.decode()
            value = json.loads(entry.value or b"")
        except (ValueError, RecursionError):
            raise ProtocolError(f"block {entry.seq} of the drive's index is not a drive's entry") from None
        if not isinstance(value, dict):
            raise ProtocolError(f"the entry of {path!r} is malformed")
        blob, linkname = value.get("blob"), value.get("linkname")
        if linkname is not None and not (isinstance(linkname, str) and is_utf8(linkname)):
            raise ProtocolError(f"the entry of {path!r} has a malformed link")
        return cls(
            path,
            entry.seq,
            bool(value.get("executable")),
            linkname,
            BlobId.from_json(blob) if blob is not None else None,
            value.get("metadata"),
        )

    def same_as(self, other: DriveEntry) -> bool:
        """Whether both stand for the same content with the same attributes, in one drive."""
        mine = (self.executable, self.linkname, self.blob, self.metadata)
        return mine == (other.executable, other.linkname, other.blob, other.metadata)


@dataclass(frozen=True, slots=True)
class DriveDifference:
    """A path that differs between two versions; ``None`` where it does not exist."""

    left: DriveEntry | None
    right: DriveEntry | None

    @property
    def path(self) -> str:
        """The path."""
        entry = self.left or self.right
        assert entry is not None
        return entry.path


def fit_entry(found: Entry, unfit: OnUnfit | None = None) -> DriveEntry | None:
    """The entry of a drive that ``found`` in its index is.

    ``None``, and ``unfit`` is told, for a path like ``/a/../b``, which nobody could ask for, and for what is
    no entry at all.
    """
    try:
        entry = DriveEntry.decode(found)
        if is_normal(entry.path):
            return entry
        problem = Unfit(entry.path, "this is not a path that a drive can have")
    except ProtocolError as error:
        problem = Unfit(found.key.decode("utf-8", "backslashreplace"), str(error))
    log.info("Left out of the drive: %r: %s", problem.path, problem.reason)
    if unfit is not None:
        unfit(problem)
    return None
