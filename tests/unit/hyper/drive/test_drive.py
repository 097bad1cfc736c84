"""Hyperdrive's methods, alone and between two stores."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import DriveError, ProtocolError
from pelure.hyper.bee.bee import Entry
from pelure.hyper.core.corestore import Corestore
from pelure.hyper.core.tree import NotAvailable
from pelure.hyper.drive.drive import Drive
from pelure.hyper.drive.entry import DriveEntry
from pelure.hyper.drive.paths import normalize, resolve
from pelure.streams import memory_pipe

T = TypeVar("T")


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Corestore]:
    other = Corestore(tmp_path / "other")
    yield other
    other.close()


@asynccontextmanager
async def connected(one: Corestore, other: Corestore) -> AsyncIterator[None]:
    left, right = memory_pipe()
    async with one.replicate(left, True), other.replicate(right, False):
        yield


async def within(work: Awaitable[T]) -> T:
    return await asyncio.wait_for(work, 60)


async def paths(drive: Drive, folder: str = "/", **options: bool) -> list[str]:
    return [entry.path async for entry in drive.list(folder, **options)]


async def filled(store: Corestore) -> Drive:
    drive = Drive(store)
    for path in ("/a", "/b/c", "/b/d/e", "/b/d/f", "/b0", "/b.txt"):
        await drive.put(path, path.encode())
    return drive


async def test_listing(store: Corestore) -> None:
    drive = await filled(store)
    assert await paths(drive) == ["/a", "/b.txt", "/b/c", "/b/d/e", "/b/d/f", "/b0"]
    assert await paths(drive, "/b") == ["/b/c", "/b/d/e", "/b/d/f"]
    assert await paths(drive, "b/", recursive=False) == ["/b/c", "/b/d/e"]
    assert [name async for name in drive.readdir("/")] == ["a", "b.txt", "b", "b0"]
    assert [name async for name in drive.readdir("/b/d")] == ["e", "f"]
    assert [name async for name in drive.readdir("/nothing")] == []
    kept = [entry.path async for entry in drive.list(ignore=lambda path: path.startswith("/b/"))]
    assert kept == ["/a", "/b.txt", "/b0"]
    assert [entry.path async for entry in drive] == await paths(drive)


async def test_a_name_may_be_a_file_and_a_folder(store: Corestore) -> None:
    drive = Drive(store)
    await drive.put("/x", b"file")
    await drive.put("/x/y", b"below")
    assert [name async for name in drive.readdir()] == ["x"]
    assert await drive.get("/x") == b"file" and await drive.get("/x/y") == b"below"


async def test_symbolic_links(store: Corestore) -> None:
    drive = await filled(store)
    await drive.symlink("/link", "/b/c")
    await drive.symlink("/b/relative", "../c")  # seen from the link's own path, as in npm
    await drive.symlink("/one", "/two")
    await drive.symlink("/two", "/one")
    assert await drive.get("/link") is None
    assert await drive.get("/link", follow=True) == b"/b/c"
    assert await drive.get("/b/relative", follow=True) == b"/b/c"
    assert await drive.entry("/gone", follow=True) is None
    with pytest.raises(DriveError, match="circles"):
        await drive.entry("/one", follow=True)


async def test_versions(store: Corestore) -> None:
    drive = Drive(store)
    assert drive.version == 1
    await drive.put("/a", b"1")
    version = drive.version
    await drive.put("/a", b"2", executable=True, metadata={"k": [1]})
    await drive.put("/b", b"3")
    assert await drive.delete("/a") and not await drive.delete("/a")
    old = drive.checkout(version)
    assert await old.get("/a") == b"1" and not old.writable and await paths(old) == ["/a"]
    found = {d.path: (d.left is not None, d.right is not None) async for d in drive.diff(version)}
    assert found == {"/a": (False, True), "/b": (True, False)}
    with pytest.raises(DriveError):
        await old.put("/x", b"x")
    first = await drive.checkout(2).entry("/a")
    second = await drive.checkout(3).entry("/a")
    assert first is not None and second is not None
    assert Drive.compare(first, second) == -1 and second.metadata == {"k": [1]} and second.executable


async def test_truncate_goes_back_for_good(store: Corestore) -> None:
    drive = Drive(store)
    for i in range(5):
        await drive.put(f"/{i}", os.urandom(100_000))
    kept = await drive.get("/1")
    await drive.truncate(3)
    blobs = await drive.blobs()
    assert (drive.version, drive.core.fork, blobs.core.fork) == (3, 1, 1)
    assert await paths(drive) == ["/0", "/1"] and await drive.get("/1") == kept
    assert blobs.core.length == 4 == await drive.blobs_length()
    await drive.put("/new", b"new")
    assert await drive.get("/new") == b"new"
    with pytest.raises(DriveError):
        await drive.truncate(99)


async def test_clear_and_purge(store: Corestore) -> None:
    drive = Drive(store)
    await drive.put("/a", bytes(200_000))
    await drive.put("/b", bytes(10))
    assert await drive.has("/a") and await drive.has("/")
    assert await drive.clear("/a") == 200_000
    assert not await drive.has("/a") and not await drive.has("/") and await drive.has("/b")
    assert await drive.exists("/a") and await drive.clear("/nothing") == 0
    with pytest.raises(NotAvailable):
        await drive.get("/a", wait=False)
    with pytest.raises(NotAvailable):
        await drive.get("/a", timeout=0.01)
    await drive.clear_all()
    assert not await drive.has("/b")
    with pytest.raises(DriveError):
        await drive.checkout(1).purge()
    await drive.purge()
    again = Drive(store)
    assert again.version == 1 and await paths(again) == []


async def test_a_writer_and_batches(store: Corestore) -> None:
    drive = Drive(store)
    async with drive.writer("/stream", executable=True) as writer:
        for _ in range(10):
            await writer.write(b"part" * 5000)
        assert not await drive.exists("/stream")
    assert await drive.get("/stream") == b"part" * 50_000
    with pytest.raises(ZeroDivisionError):
        async with drive.writer("/failed") as writer:
            raise ZeroDivisionError
    assert not await drive.exists("/failed")
    batch = drive.batch()
    await batch.put("/x", b"x")
    batch.symlink("/l", "x")
    batch.delete("/stream")
    assert await batch.entry("/x") is not None and await batch.entry("/stream") is None
    assert await drive.exists("/stream")
    version = drive.version
    assert await batch.flush() == 3
    assert drive.version == version + 3 and await paths(drive) == ["/l", "/x"]


async def test_the_store_remembers_the_encryption_key(store: Corestore) -> None:
    drive = Drive(store, encryption_key=bytes([7]) * 32)
    await drive.put("/secret", b"secret text")
    blobs = await drive.blobs()
    assert b"secret text" not in (blobs.core.get_stored(0) or b"")
    assert await Drive(store).get("/secret") == b"secret text"
    with pytest.raises(DriveError):
        Drive(store, encryption_key=bytes([8]) * 32)


async def test_without_the_encryption_key_nothing_is_read(store: Corestore, other: Corestore) -> None:
    drive = Drive(store, encryption_key=bytes([7]) * 32)
    await drive.put("/secret", b"x")
    copy = Drive(other, drive.key)
    async with connected(store, other):
        await within(copy.update(wait=True))
        with pytest.raises(ProtocolError):
            await within(copy.get("/secret"))


async def test_between_two_stores(store: Corestore, other: Corestore) -> None:
    drive = await filled(store)
    big = os.urandom(400_000)
    await drive.put("/big", big)
    copy = Drive(other, drive.key)
    assert copy.content_key is None and not copy.writable
    with pytest.raises(NotAvailable):
        await copy.blobs(wait=False)
    async with connected(store, other):
        assert await within(copy.update(wait=True))
        assert await within(copy.get("/b/c")) == b"/b/c"
        part = [piece async for piece in copy.read("/big", 100_000, 100_005)]
        assert b"".join(part) == big[100_000:100_005]
        await within(copy.download("/b"))
        assert await copy.has("/b") and not await copy.has("/big")
        version = copy.version
        watched = asyncio.create_task(anext(copy.watch("/b")))
        await asyncio.sleep(0)
        await drive.put("/elsewhere", b"x")
        await drive.put("/b/new", b"new")
        now, _ = await within(watched)
        assert await within(now.get("/b/new")) == b"new"
        await within(copy.download_diff(version))
        assert await copy.has("/b/new")
        await within(copy.download())
        assert await copy.has("/big")
        await within(copy.download_range([(0, 1)], [(0, 2)]))
    assert await copy.get("/big", wait=False) == big


@given(st.text(max_size=20))
@settings(deadline=None, max_examples=100)
def test_normal_paths_stay_and_others_are_refused(text: str) -> None:
    try:
        path = normalize(text)
    except DriveError:
        return
    assert path.startswith("/") and normalize(path) == path == resolve("/", path)
    assert not {"", ".", ".."} & set(path[1:].split("/"))


def test_names_that_utf8_can_not_hold() -> None:
    with pytest.raises(DriveError, match="UTF-8"):
        normalize("/" + os.fsdecode(b"\xff"))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=8,
)


@given(values | st.fixed_dictionaries({"blob": values, "linkname": values, "executable": values}))
@settings(deadline=None, max_examples=100)
def test_entries_from_anyone(value: object) -> None:
    import json

    for raw in (json.dumps(value).encode(), b"\xff", b"[" * 100_000):
        try:
            entry = DriveEntry.decode(Entry(1, b"/x", raw))
            assert entry.same_as(DriveEntry.decode(Entry(2, b"/x", entry.encode())))
        except ProtocolError:
            pass


async def test_versions_inside_a_batch_are_none(tmp_path: Path) -> None:
    """A part of the tree stands in the place of its root there, or nothing."""
    store = Corestore(tmp_path / "store")
    drive = Drive(store)
    batch = drive.batch()
    for number in range(30):
        await batch.put(f"/{number:02}", b"")
    await batch.flush()
    await drive.put("/last", b"")
    assert [version for version in range(1, 33) if drive.bee.is_whole(version)] == [1, 31, 32]
    with pytest.raises(DriveError, match="middle"):
        await drive.truncate(20)
    await drive.truncate(31)
    assert len([entry async for entry in drive.list()]) == 30
    store.close()
