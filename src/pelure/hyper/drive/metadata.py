"""What pelure keeps in a drive entry's free ``metadata``: when the file was changed last (``mtime``)."""

from __future__ import annotations

from typing import Any

from pelure.hyper.drive.entry import DriveEntry


def with_mtime(metadata: Any, mtime_ns: int) -> dict[str, Any]:
    """``metadata`` with the time of the last change, in seconds since 1970 to the millisecond."""
    return {**(metadata if isinstance(metadata, dict) else {}), "mtime": round(mtime_ns / 1e9, 3)}


def mtime_of(entry: DriveEntry) -> float | None:
    """Seconds since 1970 at which the file was changed, if its publisher told; None for anything odd."""
    return mtime_in(entry.metadata)


def mtime_in(metadata: Any) -> float | None:
    """The same, of an entry's metadata alone."""
    value = metadata.get("mtime") if isinstance(metadata, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < 1 << 40 else None
