"""Mounting: what programs see of a drive through FUSE."""

import asyncio
import errno
import hashlib
import os
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pelure.errors import ConfigError
from pelure.hyper.core.corestore import Corestore
from pelure.hyper.core.replication.stream import Replication
from pelure.hyper.drive.drive import Drive
from pelure.hyper.wire.noise import KeyPair
from pelure.share import fuse, patience
from pelure.share.mount import mount
from pelure.share.readahead import FilesAhead
from pelure.streams import memory_pipe

needs_fuse = pytest.mark.skipif(
    not os.environ.get("CI") and not (os.path.exists("/dev/fuse") and shutil.which("fusermount3")),
    reason="FUSE is not there (Debian: apt-get install fuse3)",
)


@needs_fuse
async def test_files_folders_links_and_changes(tmp_path: Path) -> None:
    store = Corestore(tmp_path / "store")
    drive = Drive(store)
    big = os.urandom(3_000_000)
    await drive.put("/a.txt", b"hello", metadata={"mtime": 1_700_000_000.5})
    await drive.put("/folder/deep/big.bin", big)
    await drive.put("/run.sh", b"#!/bin/sh\n", executable=True)
    await drive.symlink("/link", "a.txt")
    folder = tmp_path / "mounted"
    mounted = await mount(drive, folder)
    try:

        def look() -> None:
            assert sorted(os.listdir(folder)) == ["a.txt", "folder", "link", "run.sh"]
            assert (folder / "a.txt").read_bytes() == b"hello"
            assert (folder / "link").read_bytes() == b"hello"
            assert (folder / "a.txt").stat().st_mtime == 1_700_000_000.5
            assert os.access(folder / "run.sh", os.X_OK)
            digest = hashlib.sha256((folder / "folder/deep/big.bin").read_bytes()).digest()
            assert digest == hashlib.sha256(big).digest()
            with (folder / "folder/deep/big.bin").open("rb") as file:
                file.seek(2_000_001)
                assert file.read(1000) == big[2_000_001:2_001_001]
            with pytest.raises(FileNotFoundError):
                (folder / "nothing").read_bytes()
            with pytest.raises(OSError) as refused:
                (folder / "new").write_bytes(b"x")
            assert refused.value.errno in (errno.EROFS, errno.EACCES, errno.EPERM)

        await asyncio.to_thread(look)
        await drive.put("/later.txt", b"live")
        assert await asyncio.to_thread((folder / "later.txt").read_bytes) == b"live"
    finally:
        await mounted.unmount()
    await asyncio.wait_for(mounted.ended.wait(), 30)
    assert os.listdir(folder) == []
    store.close()


async def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    store = Corestore(tmp_path / "store")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    with pytest.raises(ConfigError, match="not empty"):
        await mount(Drive(store), tmp_path / "full")
    store.close()


@asynccontextmanager
async def _connected(theirs: Corestore, ours: Corestore) -> AsyncIterator[None]:
    left, right = memory_pipe()
    async with (
        Replication(left, False, theirs, KeyPair.from_seed(bytes(32))),
        Replication(right, True, ours, KeyPair.from_seed(bytes(31) + b"\1")),
    ):
        yield


@needs_fuse
async def test_a_publisher_that_is_gone_is_an_input_output_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = Corestore(tmp_path / "theirs"), Corestore(tmp_path / "ours")
    published, film = Drive(theirs), os.urandom(3_000_000)
    await published.put("/film.bin", film)
    drive, folder = Drive(ours, published.key), tmp_path / "mounted"

    def read(start: int, size: int) -> bytes:
        with (folder / "film.bin").open("rb", buffering=0) as file:
            return os.pread(file.fileno(), size, start)

    async with _connected(theirs, ours):
        await drive.update(wait=True)
        mounted = await mount(drive, folder)
        assert await asyncio.to_thread(read, 0, 1000) == film[:1000]
    try:
        with monkeypatch.context() as patched:
            patched.setattr(patience, "WAIT_SECONDS", 0.2)
            patched.setattr(patience, "AWAY_SECONDS", 0.2)
            with pytest.raises(OSError) as failed:
                await asyncio.to_thread(read, 2_900_000, 1000)
            assert failed.value.errno == errno.EIO
        assert await asyncio.to_thread(read, 0, 1000) == film[:1000]
        async with _connected(theirs, ours):
            assert await asyncio.to_thread(read, 2_900_000, 1000) == film[2_900_000:2_901_000]
    finally:
        await mounted.unmount()
        ours.close()
        theirs.close()


async def test_who_reads_file_after_file_has_the_next_ones_fetched(tmp_path: Path) -> None:
    theirs, ours = Corestore(tmp_path / "theirs"), Corestore(tmp_path / "ours")
    published = Drive(theirs)
    for number in range(100, 400):
        await published.put(f"/{number}", b"x")
    drive = Drive(ours, published.key)
    async with _connected(theirs, ours):
        await drive.update(wait=True)
        core = (await drive.blobs()).core
        await core.get(0)
        await core.get(250)
        ahead = FilesAhead(60)
        for number in (0, 250, 7, 8, 9):
            entry = await drive.entry(f"/{100 + number}")
            assert entry is not None
            assert entry.blob is not None
            ahead.reads(core, entry.blob)
        while not core.has_range(9, 13):
            await core.changed()
        assert not core.has(20)
        ahead.stop()
    ours.close()
    theirs.close()


async def test_programs_that_keep_a_folder_from_going_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def take_away(folder: Path) -> None:
        pass

    async def afterwards() -> None:
        pass

    monkeypatch.setattr(fuse, "_take_away", take_away)
    monkeypatch.setattr(fuse, "QUIET_SECONDS", 0.01)
    used = threading.Event()
    thread = threading.Thread(target=used.wait, daemon=True)
    thread.start()
    unmounting = asyncio.ensure_future(fuse.Mounted(tmp_path, thread, asyncio.Event(), afterwards).unmount())
    async with asyncio.timeout(60):
        while "still use" not in caplog.text:  # noqa: ASYNC110 - a log tells nobody
            await asyncio.sleep(0.01)
        used.set()
        await unmounting
