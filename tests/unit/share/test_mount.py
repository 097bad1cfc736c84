"""Mounting: what programs see of a drive through FUSE."""

import asyncio
import errno
import hashlib
import os
import shutil
from pathlib import Path

import pytest

from pelure.errors import ConfigError
from pelure.hyper.core.corestore import Corestore
from pelure.hyper.drive.drive import Drive
from pelure.share.mount import mount

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
