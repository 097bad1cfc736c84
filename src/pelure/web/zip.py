"""A folder of a drive as a ZIP file, written while it is sent (no temporary file, no size known before)."""

from __future__ import annotations

import io
import logging
import stat
import time
import zipfile
from collections.abc import AsyncIterator

from pelure.errors import PelureError, ProtocolError
from pelure.hyper.drive.drive import Drive
from pelure.hyper.drive.entry import DriveEntry
from pelure.hyper.drive.metadata import mtime_of
from pelure.hyper.drive.safe_folder import UnsafeName, check_link, split

log = logging.getLogger(__name__)
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

    Nothing leaves the folder it is unpacked in: names that no file should have are left away, and so are
    symbolic links that might lead out, and files that can't be had. Raises ``PelureError`` where one breaks
    off.
    """
    outgoing = _Outgoing()
    with zipfile.ZipFile(outgoing, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        async for entry in drive.list(folder):
            if not _is_safe(entry, folder):
                continue
            info = _info(entry, folder)
            if entry.linkname is not None:
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
                archive.writestr(info, entry.linkname)
                yield outgoing.take()
                continue
            parts = drive.read(entry)
            try:
                first = await anext(parts, b"")
            except PelureError as error:
                log.info("A file is left out of a ZIP file: %s", error)
                continue
            with archive.open(info, "w", force_zip64=True) as member:
                member.write(first)
                try:
                    async for part in parts:
                        member.write(part)
                        yield outgoing.take()
                except ProtocolError as error:
                    log.warning("A file in a ZIP file has less than its entry says: %s", error)
    yield outgoing.take()


def _is_safe(entry: DriveEntry, folder: str) -> bool:
    inside = entry.path[len(folder) - 1 :]
    try:
        split(inside)
        if entry.linkname is not None:
            check_link(inside, entry.linkname)
    except UnsafeName:
        return False
    return entry.linkname is None or ":" not in entry.linkname


def _info(entry: DriveEntry, folder: str) -> zipfile.ZipInfo:
    changed = time.gmtime(mtime_of(entry) or 0)[:6]
    info = zipfile.ZipInfo(entry.path[len(folder) :], min(max(EARLIEST, changed), LATEST))
    info.external_attr = (stat.S_IFREG | (0o755 if entry.executable else 0o644)) << 16
    return info
