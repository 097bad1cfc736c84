"""A plain folder with the interface of a drive, and live sync."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from pelure.errors import DriveError
from pelure.hyper.core.corestore import Corestore
from pelure.hyper.drive import live
from pelure.hyper.drive.drive import Drive
from pelure.hyper.drive.local import LocalDrive
from pelure.hyper.drive.mirror import MirrorOptions, Step


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalDrive]:
    local = LocalDrive(tmp_path / "folder", create=True)
    yield local
    local.close()


async def test_like_a_drive(local: LocalDrive) -> None:
    await local.put("/a", b"content")
    await local.put("b/run", b"#!", executable=True)
    async with local.writer("/b/stream") as writer:
        for _ in range(3):
            await writer.write(b"x" * 50_000)
    await local.symlink("/b/link", "run")
    assert [entry.path async for entry in local.list()] == ["/a", "/b/link", "/b/run", "/b/stream"]
    assert [entry.path async for entry in local.list("/b")] == ["/b/link", "/b/run", "/b/stream"]
    assert [entry.path async for entry in local.list("/", recursive=False)] == ["/a"]
    assert [name async for name in local.readdir("/")] == ["a", "b"]
    assert await local.get("/a") == b"content" and await local.get("/b/link") is None
    assert await local.get("/none") is None and await local.get("/b") is None
    part = [piece async for piece in local.read("/b/stream", 10, 70_000)]
    assert len(b"".join(part)) == 69_990
    run, link = await local.entry("/b/run"), await local.entry("/b/link")
    assert run is not None and run.executable and await local.size(run) == 2
    assert link is not None and link.linkname == "run" and await local.size(link) == 0
    assert LocalDrive.compare(run, run) == 0
    assert await local.exists("/a") and await local.delete("/a") and not await local.delete("/a")
    assert await local.delete("/b/link") and await local.delete("/b/run") and await local.delete("/b/stream")
    assert list(local.root.iterdir()) == []
    with pytest.raises(DriveError):
        _ = [piece async for piece in local.read("/none")]
    with pytest.raises(DriveError):
        await local.put("/../x", b"x")


async def test_very_deep_folders(local: LocalDrive) -> None:
    """Deeper than Python's stack."""
    folders = ["/a" * depth for depth in range(1, 1501)]
    for folder in folders:
        os.mkdir(str(local.root) + folder)
    (local.root / "a/file").touch()
    deepest = Path(str(local.root) + folders[-1], "file")
    deepest.touch()
    try:
        assert [len(entry.path) async for entry in local.list()] == [3005, 7]
    finally:
        deepest.unlink()
        for folder in reversed(folders[1:]):
            os.rmdir(str(local.root) + folder)


async def until(steps: AsyncIterator[Step], wanted: Callable[[Step], bool]) -> None:
    async def follow() -> None:
        async for step in steps:
            if wanted(step):
                return

    await asyncio.wait_for(follow(), 60)


async def test_live_push(local: LocalDrive, store: Corestore) -> None:
    await local.put("/before", b"1")
    drive = Drive(store)

    async def until_there(path: str) -> None:
        while not await drive.exists(path):
            await drive.core.changed()

    async def push() -> None:
        async for _ in live.push(local, drive, MirrorOptions()):
            pass

    pushing = asyncio.create_task(push())
    await asyncio.wait_for(until_there("/before"), 60)
    await local.put("/later", b"2")
    await asyncio.wait_for(until_there("/later"), 60)
    assert await drive.get("/later") == b"2"
    pushing.cancel()


async def test_live_pull(local: LocalDrive, store: Corestore) -> None:
    drive = Drive(store)
    await drive.put("/one", b"1")
    steps = live.pull(drive, local, MirrorOptions())
    await until(steps, lambda step: step.path == "/one")
    changing = asyncio.create_task(until(steps, lambda step: step.path == "/two"))
    await asyncio.sleep(0)
    await drive.put("/two", b"2")
    await drive.delete("/one")
    await changing
    await until(steps, lambda step: (step.operation, step.path) == ("remove", "/one"))
    await steps.aclose()
    assert (local.root / "two").read_bytes() == b"2" and not (local.root / "one").exists()
