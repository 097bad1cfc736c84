"""A folder of a drive as a ZIP file, written while it is sent (no temporary file, no size known before)."""

from __future__ import annotations

import io
import stat
import time
import zipfile
from collections.abc import AsyncIterator

from pelure.hyper.drive.drive import Drive
from pelure.hyper.drive.entry import DriveEntry
from pelure.hyper.drive.metadata import mtime_of

EARLIEST, LATEST = (1980, 1, 1, 0, 0, 0), (2107, 12, 31, 23, 59, 58)
"""The dates that the format can hold."""


class _Outgoing(io.RawIOBase):
    """A file that can only be written to; :meth:`take` gives out what was written since."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        part = bytes(data)  # type: ignore[call-overload]
        self._parts.append(part)
        return len(part)

    def take(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


async def zip_folder(drive: Drive, folder: str) -> AsyncIterator[bytes]:
    """The bytes of the archive of everything below ``folder`` (which ends with a slash), uncompressed.

    Nothing leaves the folder it is unpacked in: a drive's paths have no ``..``, and symbolic links that
    might lead out are left away.
    """
    outgoing = _Outgoing()
    with zipfile.ZipFile(outgoing, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        async for entry in drive.list(folder):
            info = _info(entry, folder)
            if entry.linkname is not None and _leads_out(entry.linkname):
                continue
            if entry.linkname is not None:
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
                archive.writestr(info, entry.linkname)
                yield outgoing.take()
                continue
            with archive.open(info, "w", force_zip64=True) as member:
                async for part in drive.read(entry):
                    member.write(part)
                    yield outgoing.take()
    yield outgoing.take()


def _leads_out(target: str) -> bool:
    return target.startswith(("/", "\\")) or ".." in target.replace("\\", "/").split("/") or ":" in target


def _info(entry: DriveEntry, folder: str) -> zipfile.ZipInfo:
    changed = time.gmtime(mtime_of(entry) or 0)[:6]
    info = zipfile.ZipInfo(entry.path[len(folder) :], min(max(EARLIEST, changed), LATEST))
    info.external_attr = (stat.S_IFREG | (0o755 if entry.executable else 0o644)) << 16
    return info
