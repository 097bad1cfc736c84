"""What is shared, and what is told of that which is not."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from pelure.hyper.core.corestore import Corestore
from pelure.hyper.drive.drive import Drive
from pelure.share.importing import Importer


async def test_what_is_not_shared_is_told_once(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "a.txt").write_text("a")
    (folder / "line\nbreak").touch()
    store = Corestore(tmp_path / "store")
    drive, told = Drive(store), list[tuple[str, str]]()
    importer = Importer(drive, [folder], lambda path, reason: told.append((path, reason)))
    await importer.update()
    assert {path for path, _ in told} == {"/pipe", "/line\nbreak"}
    assert all(reason for _, reason in told)
    await importer.update()
    assert len(told) == 2
    os.unlink(folder / "pipe")
    await importer.update()
    os.mkfifo(folder / "pipe")
    await importer.update()
    assert [path for path, _ in told[2:]] == ["/pipe"]
    assert [entry.path async for entry in drive.list()] == ["/a.txt"]
    store.close()


async def test_links_that_lead_out_are_not_shared(tmp_path: Path) -> None:
    """Readers could not write them, and would learn the names of folders of this machine."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "in").symlink_to("other")
    (folder / "out").symlink_to("../secret")
    (folder / "whole").symlink_to(tmp_path / "secret")
    store = Corestore(tmp_path / "store")
    drive, told = Drive(store), list[str]()
    await Importer(drive, [folder], lambda path, reason: told.append(path)).update()
    assert sorted(told) == ["/out", "/whole"]
    assert [entry.path async for entry in drive.list()] == ["/in"]
    store.close()


async def followed(importer: Importer, drive: Drive, path: str) -> None:
    """Wait until ``importer``, while it follows, has brought ``path`` into the drive."""

    async def until_there() -> None:
        while not await drive.exists(path):
            await drive.core.changed()

    following = asyncio.ensure_future(importer.follow(lambda op, path: None))
    there = asyncio.ensure_future(until_there())
    async with asyncio.timeout(60):
        await asyncio.wait((following, there), return_when=asyncio.FIRST_COMPLETED)
    assert there.done(), following.exception()
    following.cancel()


async def test_a_single_file_beside_a_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    store = Corestore(tmp_path / "store")
    drive = Drive(store)
    importer = Importer(drive, [tmp_path / "folder", tmp_path / "file"], lambda path, reason: None)
    await importer.update()
    (tmp_path / "folder/new").touch()
    await followed(importer, drive, "/folder/new")
    store.close()


async def test_what_is_not_shared_is_told_in_few_words(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    deep = folder
    folder.mkdir()
    fd = os.open(folder, os.O_RDONLY)
    for _ in range(20):  # deeper than a path can say
        os.mkdir("d" * 250, dir_fd=fd)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd, deep = below, deep / ("d" * 250)
    os.close(fd)
    store = Corestore(tmp_path / "store")
    told = list[str]()
    await Importer(Drive(store), [folder], lambda path, reason: told.append(reason)).update()
    assert told == ["File name too long"]
    store.close()
