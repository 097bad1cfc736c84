"""When a folder is said to have changed."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from watchfiles import awatch

from pelure.hyper.drive import watching
from pelure.hyper.drive.watching import changes_in


async def next_change(changes: AsyncIterator[None]) -> None:
    async with asyncio.timeout(60):
        await anext(changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("name", ["a.txt", "draft~", "x.pyc", ".git/config", "node_modules/x"])
async def test_no_name_is_overlooked(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    async with aclosing(changes_in([folder])) as changes:
        await next_change(changes)
        (folder / name).touch()
        await next_change(changes)


async def test_new_folders_are_watched_too(folder: Path) -> None:
    async with aclosing(changes_in([folder])) as changes:
        await next_change(changes)
        (folder / "new/er").mkdir(parents=True)
        await next_change(changes)  # as something has changed
        await next_change(changes)  # as the watch is set up again
        (folder / "new/er/x").touch()
        await next_change(changes)


async def test_links_out_of_the_folder_are_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other/below").mkdir(parents=True)
    (folder / "out").symlink_to(tmp_path / "other")
    (folder / "loop").symlink_to(".")
    assert watching._folders_in([folder]) == {str(folder)}


async def test_folders_that_may_not_be_read_are_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = folder / "closed"
    closed.mkdir()
    scandir = os.scandir

    def denied(path: str) -> Any:  # as for anyone but root
        if path == str(closed):
            raise PermissionError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    async with aclosing(changes_in([folder])) as changes:
        await next_change(changes)
        (folder / "a").touch()
        await next_change(changes)


async def test_a_folder_that_is_made_anew_is_watched_again(folder: Path) -> None:
    async with aclosing(changes_in([folder])) as changes:
        await next_change(changes)
        shutil.rmtree(folder)
        await next_change(changes)
        folder.mkdir()
        await next_change(changes)
        (folder / "a").touch()
        await next_change(changes)


async def test_without_watches_of_the_system_changes_are_looked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def exhausted(*paths: str, force_polling: bool, **options: Any) -> AsyncIterator[Any]:
        if not force_polling:
            raise OSError("OS file watch limit reached")
        async for batch in awatch(*paths, force_polling=True, **options):
            yield batch

    monkeypatch.setattr(watching, "awatch", exhausted)
    monkeypatch.setattr(watching, "POLL_MS", 100)
    async with aclosing(changes_in([folder])) as changes:
        await next_change(changes)
        (folder / "a").write_text("new")
        await next_change(changes)
    assert "watch limit" in caplog.text
