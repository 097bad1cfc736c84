"""What pelure keeps in a drive entry's free ``metadata``: when the file was changed last."""

from __future__ import annotations

from pelure.hyper.drive.entry import DriveEntry


def mtime_of(entry: DriveEntry) -> float | None:
    """Seconds since 1970 at which the file was changed, if its publisher told; None for anything odd."""
    metadata = entry.metadata
    value = metadata.get("mtime") if isinstance(metadata, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < 1 << 40 else None
