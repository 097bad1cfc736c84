"""Hyperdrive: files, folders and symbolic links with their whole history (HYPER-FACTS §15, §18).

A drive is two cores: *db*, a Hyperbee of paths, and *blobs*, the contents. :class:`Drive` has the methods of
npm hyperdrive under Python names. Reading asks peers for what is not held here and waits for it, unless
``wait`` is false or ``timeout`` (seconds) says otherwise; then ``NotAvailable`` is raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from pelure.errors import DriveError, ProtocolError
from pelure.hyper.bee.bee import Bee
from pelure.hyper.bee.messages import Header
from pelure.hyper.bee.walk import Range
from pelure.hyper.blobs.blob_id import BlobId
from pelure.hyper.blobs.blobs import Blobs
from pelure.hyper.blobs.importing import import_file
from pelure.hyper.core.core import Core
from pelure.hyper.core.corestore import Corestore
from pelure.hyper.core.hashing import blake2b_256, name_space
from pelure.hyper.core.manifest import Manifest, Signer
from pelure.hyper.core.tree import NotAvailable
from pelure.hyper.drive.entry import DriveDifference, DriveEntry, OnUnfit, fit_entry
from pelure.hyper.drive.paths import folder_key, folder_range, normalize, resolve
from pelure.hyper.drive.writing import DriveBatch, FileWriter

_BLOBS = name_space("hyperdrive", 0)
_MAX_LINKS = 16
_FILES = b"files"
_ENCRYPTION_KEY = "encryption key"


def content_manifest(manifest: Manifest, key: bytes) -> Manifest | None:
    """The manifest of the blobs core that belongs to the db core ``key``; ``None`` before version 1."""
    if manifest.version < 1:
        return None
    signers = tuple(
        Signer(signer.public_key, blake2b_256(_BLOBS, key, signer.namespace)) for signer in manifest.signers
    )
    return Manifest(manifest.version, signers, manifest.quorum, manifest.allow_patch)


class Drive:
    """A drive, or (:meth:`checkout`) a read-only view of one of its versions."""

    def __init__(
        self, store: Corestore, key: bytes | None = None, *, encryption_key: bytes | None = None
    ) -> None:
        """The drive ``key``, or without one the store's own (one for each name space of the store).

        The store remembers the ``encryption_key`` (32 bytes), so that it need be given only once. Raises
        ``DriveError`` if that of a drive which is written here is another.
        """
        self.store = store
        core = store.get(name="db" if key is None else None, key=key)
        known = core.storage.get_user_data(_ENCRYPTION_KEY)
        if encryption_key not in (None, known):
            if known is not None and core.writable:
                raise DriveError("the drive has another encryption key")
            core.storage.put_user_data(_ENCRYPTION_KEY, encryption_key)  # a reader's may have been mistyped
        self.encryption_key = encryption_key or known
        if self.encryption_key is not None:
            core.set_encryption(self.encryption_key)
        self._setup(Bee(core, Header(with_metadata=True)), None)

    def _setup(self, bee: Bee, main: Drive | None) -> None:
        self.bee = bee
        self.db = bee.sub(_FILES)
        self.main = main or self
        self._blobs: Blobs | None = None

    @property
    def core(self) -> Core:
        """The db core."""
        return self.bee.core

    @property
    def key(self) -> bytes:
        """What identifies the drive, and lets its holder read it (32 bytes)."""
        return self.core.key

    @property
    def version(self) -> int:
        """The length of the db core, header included; 1 for an empty drive."""
        return self.bee.version

    @property
    def writable(self) -> bool:
        """Whether files can be put and deleted here."""
        return self.bee.writable

    @property
    def content_key(self) -> bytes | None:
        """The key of the blobs core, once it is known."""
        blobs = self.local_blobs()
        return blobs.core.key if blobs is not None else None

    def local_blobs(self) -> Blobs | None:
        """The blobs, if what is held here tells which core they are in."""
        if self.main is not self:
            return self.main.local_blobs()
        if self._blobs is None:
            self._blobs = self._open_blobs(self.core.get_local(0))
        return self._blobs

    def _open_blobs(self, block: bytes | None) -> Blobs | None:
        try:
            feed = Header.decode(block).content_feed if block is not None else None
        except ProtocolError:
            raise ProtocolError(
                "this is no drive, or it is encrypted with a key that was not given"
            ) from None
        if feed is not None:
            return Blobs(self.store.get(key=feed[:32], encryption_key=self.encryption_key))
        manifest = self.core.manifest
        if manifest is None or (block is None and not self.core.writable):
            return None
        content = content_manifest(manifest, self.key)
        if content is None or self.core.verifier is None or self.core.verifier.compat:
            if self.core.writable:
                raise DriveError("drives of Hypercore 10 are read-only here")
            return None
        pairs = self.core.key_pairs if self.core.writable else ()
        return Blobs(self.store.get(manifest=content, key_pairs=pairs, encryption_key=self.encryption_key))

    async def blobs(self, *, wait: bool = True, timeout: float | None = None) -> Blobs:
        """The blobs; for a drive of someone else's this needs block 0, from a peer if need be."""
        blobs = self.local_blobs()
        if blobs is None:
            await self.core.get(0, wait=wait, timeout=timeout)
            blobs = self.local_blobs()
        if blobs is None:
            raise DriveError("the drive does not tell where its contents are")
        return blobs

    # -- reading --

    async def entry(
        self, path: str, *, follow: bool = False, wait: bool = True, timeout: float | None = None
    ) -> DriveEntry | None:
        """The entry at ``path``; with ``follow``, the one its symbolic links lead to.

        As in npm hyperdrive, a link's target is seen from the link's own path, not from its folder.
        """
        path = normalize(path)
        for _ in range(_MAX_LINKS):
            found = await self.db.get(path.encode(), wait=wait, timeout=timeout)
            entry = DriveEntry.decode(found) if found is not None else None
            if entry is None or not follow or entry.linkname is None:
                return entry
            path = resolve(entry.path, entry.linkname)
        raise DriveError(f"symbolic links lead in circles at {path!r}")

    async def get(
        self, path: str, *, follow: bool = False, wait: bool = True, timeout: float | None = None
    ) -> bytes | None:
        """The content of a file; ``None`` if there is none, and for a symbolic link."""
        entry = await self.entry(path, follow=follow, wait=wait, timeout=timeout)
        if entry is None or entry.blob is None:
            return None
        blobs = await self.blobs(wait=wait, timeout=timeout)
        return await blobs.get(entry.blob, wait=wait, timeout=timeout)

    async def read(
        self,
        path: str | DriveEntry,
        start: int = 0,
        end: int | None = None,
        *,
        wait: bool = True,
        timeout: float | None = None,
    ) -> AsyncIterator[bytes]:
        """Bytes ``start`` to ``end`` (exclusive) of a file, piece by piece. Raises if there is no file."""
        entry = await self.entry(path, wait=wait, timeout=timeout) if isinstance(path, str) else path
        if entry is None:
            raise DriveError(f"there is no file {path!r} in the drive")
        if entry.blob is None:
            return
        blobs = await self.blobs(wait=wait, timeout=timeout)
        async for part in blobs.read(entry.blob, start, end, wait=wait, timeout=timeout):
            yield part

    async def size(self, entry: DriveEntry, *, wait: bool = True) -> int:
        """Bytes of a file's content; 0 for a symbolic link."""
        if entry.blob is None or not entry.blob.block_map:
            return entry.blob.byte_length if entry.blob is not None else 0
        return await (await self.blobs(wait=wait)).byte_length(entry.blob, wait=wait)

    async def exists(self, path: str) -> bool:
        """Whether there is an entry at ``path``."""
        return await self.entry(path) is not None

    async def has(self, path: str) -> bool:
        """Whether the content of a file, or of all files below a folder, is held here."""
        blobs = await self.blobs()
        entry = None if path in ("", "/") or path.endswith("/") else await self.entry(path)
        if entry is not None:
            return entry.blob is not None and await self._holds(blobs, entry.blob)
        found = False
        async for below in self.list(path):
            found = True
            if below.blob is not None and not await self._holds(blobs, below.blob):
                return False
        return found

    async def _holds(self, blobs: Blobs, blob: BlobId) -> bool:
        try:
            ranges = await blobs.block_numbers(blob, wait=False)
        except NotAvailable:
            return False
        return all(blobs.core.has_range(start, end) for start, end in ranges)

    @staticmethod
    def compare(one: DriveEntry, other: DriveEntry) -> int:
        """-1, 0 or 1: which entry is older."""
        return (one.seq > other.seq) - (one.seq < other.seq)

    async def entries(
        self,
        bounds: Range = Range(),
        *,
        reverse: bool = False,
        limit: int | None = None,
        wait: bool = True,
        unfit: OnUnfit | None = None,
    ) -> AsyncIterator[DriveEntry]:
        """All entries of a range of paths, in order; without what is :class:`.entry.Unfit`."""
        async for found in self.db.range(bounds, reverse=reverse, limit=limit, wait=wait):
            entry = fit_entry(found, unfit)
            if entry is not None:
                yield entry

    def __aiter__(self) -> AsyncIterator[DriveEntry]:
        return self.entries()

    async def list(
        self,
        folder: str = "/",
        *,
        recursive: bool = True,
        ignore: Callable[[str], bool] | None = None,
        wait: bool = True,
        unfit: OnUnfit | None = None,
    ) -> AsyncIterator[DriveEntry]:
        """The entries below ``folder``; if not ``recursive``, one for each name directly in it.

        ``unfit`` is told what is left out because no drive's writer writes it.
        """
        found = (
            self.entries(folder_range(folder), wait=wait, unfit=unfit)
            if recursive
            else self._shallow(folder, wait)
        )
        async for entry in found:
            if ignore is None or not ignore(entry.path):
                yield entry

    async def _shallow(self, folder: str, wait: bool) -> AsyncIterator[DriveEntry]:
        prefix = folder_key(folder)
        bounds = folder_range(folder)
        last = ""
        view = self.db.snapshot()
        while True:
            found = [entry async for entry in view.range(bounds, limit=1, wait=wait)]
            if not found:
                return
            entry = fit_entry(found[0])
            if entry is None:
                bounds = Range(gt=found[0].key, lt=bounds.lt)
                continue
            name, below, _ = entry.path[len(prefix) + 1 :].partition("/")
            after = f"{prefix}/{name}".encode()
            bounds = Range(gte=after + b"0", lt=bounds.lt) if below else Range(gt=after, lt=bounds.lt)
            if name != last:
                yield entry
            last = name

    async def readdir(self, folder: str = "/", *, wait: bool = True) -> AsyncIterator[str]:
        """The names directly in ``folder``, of files and folders."""
        prefix = folder_key(folder)
        async for entry in self._shallow(folder, wait):
            yield entry.path[len(prefix) + 1 :].partition("/")[0]

    # -- writing --

    async def put(
        self,
        path: str,
        data: bytes | bytearray | memoryview,
        *,
        executable: bool = False,
        metadata: Any = None,
    ) -> None:
        """Write a file; durable on return."""
        path = normalize(path)
        self._check_writable()
        blob = await (await self.blobs()).put(data, durable=False)
        await self.put_entry(path, executable=executable, blob=blob, metadata=metadata)

    async def import_file(
        self,
        path: str,
        fd: int,
        source: str,
        *,
        link: bool = False,
        executable: bool = False,
        metadata: Any = None,
    ) -> None:
        """Write a file with the content of the open file ``fd``, whose absolute path is ``source``.

        With ``link`` the content stays there and only its hashes are stored; see
        :func:`pelure.hyper.blobs.importing.import_file`. Durable on return.
        """
        path = normalize(path)
        self._check_writable()
        blob = await import_file(await self.blobs(), fd, source, link=link)
        await self.put_entry(path, executable=executable, blob=blob, metadata=metadata)

    async def put_entry(
        self,
        path: str,
        *,
        executable: bool = False,
        linkname: str | None = None,
        blob: BlobId | None = None,
        metadata: Any = None,
    ) -> None:
        """Write an entry, without any content: ``blob`` may be that of another file."""
        entry = DriveEntry(normalize(path), 0, executable, linkname, blob, metadata)
        await self.db.put(entry.path.encode(), entry.encode())

    async def symlink(self, path: str, target: str, *, metadata: Any = None) -> None:
        """Write a symbolic link."""
        await self.put_entry(path, linkname=target, metadata=metadata)

    async def delete(self, path: str) -> bool:
        """Delete the entry at ``path``; return whether there was one."""
        return await self.db.delete(normalize(path).encode())

    def writer(self, path: str, *, executable: bool = False, metadata: Any = None) -> FileWriter:
        """Write a file piece by piece; an async context manager with ``write``."""
        self._check_writable()
        return FileWriter(self, normalize(path), executable, metadata)

    def batch(self) -> DriveBatch:
        """Collect changes that become visible together."""
        self._check_writable()
        return DriveBatch(self)

    def _check_writable(self) -> None:
        if not self.writable:
            raise DriveError("this drive is read-only here")

    # -- versions --

    def checkout(self, version: int) -> Drive:
        """The drive as of ``version``, read-only."""
        view = Drive.__new__(Drive)
        view.store, view.encryption_key = self.store, self.encryption_key
        view._setup(self.bee.checkout(version), self.main)
        return view

    def check_whole(self, version: int) -> None:
        """Raises ``DriveError`` for a version in the middle of a batch, where the tree has no root."""
        if not self.bee.is_whole(version):
            raise DriveError(
                f"version {version} is in the middle of changes that were made at once; "
                "pelure drive log tells the versions there are"
            )

    async def diff(
        self, version: int, folder: str = "/", *, wait: bool = True
    ) -> AsyncIterator[DriveDifference]:
        """How this state (left) differs from that of ``version`` (right), below ``folder``."""
        async for found in self.db.diff(version, folder_range(folder), wait=wait):
            yield DriveDifference(
                DriveEntry.decode(found.left) if found.left else None,
                DriveEntry.decode(found.right) if found.right else None,
            )

    async def watch(self, folder: str = "/") -> AsyncIterator[tuple[Drive, Drive]]:
        """After each change below ``folder``: the drive now, and as it was before. Never ends by itself."""
        async for now, before in self.db.watch(folder_range(folder)):
            yield self.checkout(now.version), self.checkout(before.version)

    async def update(self, *, wait: bool = False, timeout: float | None = None) -> bool:
        """Ask the peers for the newest version; return whether there was a newer one."""
        return await self.core.update(wait=wait, timeout=timeout)

    async def blobs_length(self, version: int | None = None) -> int:
        """How many blocks of the blobs core ``version`` needs (by default this one)."""
        view = self.checkout(version) if version is not None else self
        length = 0
        async for entry in view.entries():
            if entry.blob is not None:
                length = max(length, entry.blob.block_offset + entry.blob.block_length)
        return length

    async def truncate(self, version: int, *, blobs: int | None = None) -> None:
        """Go back to ``version``, for good, at a new fork; ``blobs`` is the new length of the blobs core."""
        self._check_writable()
        if not 1 <= version <= self.core.length:
            raise DriveError(f"the drive has no version {version} to go back to")
        self.check_whole(version)
        length = await self.blobs_length(version) if blobs is None else blobs
        content = await self.blobs()
        async with content.lock:
            self.core.truncate(version)
            content.core.truncate(length)

    # -- what is held here --

    async def download(self, folder: str = "/") -> None:
        """Fetch the contents of all files below ``folder`` (or of that file); durable on return."""
        await self.core.download([(0, self.version)])
        entry = await self.entry(folder) if folder_key(folder) else None
        entries = [entry] if entry is not None else []
        entries += [found async for found in self.list(folder)]
        await self._download(entries)

    async def download_diff(self, version: int, folder: str = "/") -> None:
        """Fetch the contents of the files below ``folder`` that are not the same in ``version``."""
        found = [difference.left async for difference in self.diff(version, folder)]
        await self._download([entry for entry in found if entry is not None])

    async def _download(self, entries: Iterable[DriveEntry]) -> None:
        blobs = await self.blobs()
        ranges: list[tuple[int, int]] = []
        for entry in entries:
            if entry.blob is not None:
                ranges += await blobs.block_numbers(entry.blob)
        await blobs.wait_length(max((end for _, end in ranges), default=0))
        await blobs.core.download(merged(ranges))

    async def download_range(
        self, db_ranges: Iterable[tuple[int, int]], blob_ranges: Iterable[tuple[int, int]]
    ) -> None:
        """Fetch these (start, end) blocks of the two cores."""
        blobs = await self.blobs()
        await asyncio.gather(self.core.download(db_ranges), blobs.core.download(blob_ranges))

    async def clear(self, path: str) -> int:
        """Delete a file's content here, not its entry; return the bytes freed."""
        entry = await self.entry(path, wait=False)
        blobs = self.local_blobs()
        if entry is None or entry.blob is None or blobs is None:
            return 0
        return await blobs.clear(entry.blob)

    async def clear_all(self) -> int:
        """Delete all contents here, not the entries; return the bytes freed."""
        blobs = self.local_blobs()
        return blobs.core.clear(0, blobs.core.length) if blobs is not None else 0

    async def purge(self) -> None:
        """Delete both cores from the store, for good."""
        if self.main is not self:
            raise DriveError("a version of a drive can't be purged, only the drive")
        blobs = self.local_blobs()
        if blobs is not None:
            blobs.core.purge()
        self.core.purge()


def merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same blocks in ascending ranges that do not touch."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        elif start < end:
            merged.append((start, end))
    return merged
