"""Folder sync both ways: what changes, what is left alone, and what costs no data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pelure.hyper.core.corestore import Corestore
from pelure.hyper.drive.drive import Drive
from pelure.hyper.drive.local import LocalDrive
from pelure.hyper.drive.mirror import AnyDrive, Mirror, MirrorOptions


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[LocalDrive]:
    root = tmp_path / "folder"
    (root / "docs").mkdir(parents=True)
    (root / "a.txt").write_text("a")
    (root / "docs/big.bin").write_bytes(os.urandom(300_000))
    (root / "docs/run.sh").write_text("#!/bin/sh\n")
    (root / "docs/run.sh").chmod(0o755)
    (root / "empty").touch()
    (root / "link").symlink_to("docs/run.sh")
    local = LocalDrive(root)
    yield local
    local.close()


async def mirror(source: AnyDrive, target: AnyDrive, **options: Any) -> list[tuple[str, str]]:
    steps = Mirror(source, target, MirrorOptions(**options)).steps()
    return sorted([(step.operation, step.path) async for step in steps if step.operation != "equal"])


@pytest.mark.parametrize("link", [False, True], ids=["copied", "linked"])
async def test_files_from_before_1970(store: Corestore, folder: LocalDrive, link: bool) -> None:
    for name in ("a.txt", "docs/big.bin"):
        os.utime(folder.root / name, ns=(-(10**18), -(10**18)))
    drive = Drive(store)
    await mirror(folder, drive, link=link, times=True)
    assert await contents(drive) == await contents(folder)
    assert await mirror(folder, drive, link=link, times=True) == []
    path = store.path
    store.close()
    again = Corestore(path)
    assert await Drive(again).get("/docs/big.bin") == (folder.root / "docs/big.bin").read_bytes()
    blobs = Drive(again).local_blobs()
    assert blobs is not None and all(link.unchanged() for link in blobs.core.storage.links())
    again.close()


async def contents(drive: AnyDrive) -> dict[str, Any]:
    return {
        entry.path: (entry.executable, entry.linkname, await drive.get(entry.path))
        async for entry in drive.list()
    }


@pytest.mark.parametrize("link", [False, True], ids=["copied", "linked"])
async def test_folder_to_drive(store: Corestore, folder: LocalDrive, link: bool) -> None:
    drive = Drive(store)
    assert await mirror(folder, drive, link=link) == [
        ("add", path) for path in ("/a.txt", "/docs/big.bin", "/docs/run.sh", "/empty", "/link")
    ]
    assert await contents(drive) == await contents(folder)
    version = drive.version
    assert await mirror(folder, drive, link=link) == []
    assert await mirror(folder, drive, link=link, by_hash=True) == []
    assert drive.version == version

    (folder.root / "a.txt").write_text("b")
    (folder.root / "docs/big.bin").rename(folder.root / "moved.bin")
    (folder.root / "docs/run.sh").chmod(0o644)
    (folder.root / "empty").unlink()
    blobs = await drive.blobs()
    length = blobs.core.length
    changes = [
        ("change", "/a.txt"),
        ("change", "/docs/run.sh"),
        ("remove", "/empty"),
        ("rename", "/moved.bin"),
    ]
    assert await mirror(folder, drive, link=link, dry_run=True) == changes
    assert drive.version == version
    assert await mirror(folder, drive, link=link) == changes
    assert blobs.core.length == length + 1  # only the changed file
    assert await contents(drive) == await contents(folder)


async def test_drive_to_folder_and_back(store: Corestore, folder: LocalDrive, tmp_path: Path) -> None:
    drive = Drive(store)
    await mirror(folder, drive)
    target = LocalDrive(tmp_path / "out", create=True)
    (target.root / "mine").write_text("was here before")
    await mirror(drive, target)
    assert (target.root / "mine").read_text() == "was here before"
    (target.root / "mine").unlink()
    assert await contents(target) == await contents(folder)
    assert await mirror(drive, target) == []

    await drive.put("/docs/new", b"new")
    entry = await drive.entry("/docs/big.bin")
    assert entry is not None
    await drive.put_entry("/big moved", blob=entry.blob)
    await drive.delete("/docs/big.bin")
    await drive.delete("/link")
    inode = (target.root / "docs/big.bin").stat().st_ino
    assert await mirror(drive, target) == [
        ("add", "/docs/new"),
        ("remove", "/link"),
        ("rename", "/big moved"),
    ]
    assert (target.root / "big moved").stat().st_ino == inode
    assert await contents(target) == await contents(drive)
    target.close()


async def test_files_and_folders_change_places(store: Corestore, folder: LocalDrive, tmp_path: Path) -> None:
    drive = Drive(store)
    await mirror(folder, drive)
    with_target = LocalDrive(tmp_path / "out", create=True)
    await mirror(drive, with_target)
    for path in ("/docs/big.bin", "/docs/run.sh", "/a.txt"):
        await drive.delete(path)
    await drive.put("/docs", b"a file now")
    await drive.put("/a.txt/below", b"in a folder now")
    await mirror(drive, with_target)
    assert await contents(with_target) == await contents(drive)
    with_target.close()


async def test_encrypted_drive(store: Corestore, folder: LocalDrive, tmp_path: Path) -> None:
    drive = Drive(store, encryption_key=bytes(32))
    await mirror(folder, drive, link=True)
    assert await contents(drive) == await contents(folder)
    assert await mirror(folder, drive, link=True, by_hash=True) == []
    out = LocalDrive(tmp_path / "out", create=True)
    await mirror(drive, out)
    assert await contents(out) == await contents(folder)
    out.close()


async def test_drive_to_drive(store: Corestore, folder: LocalDrive) -> None:
    one, other = Drive(store.namespace("one")), Drive(store.namespace("other"))
    await mirror(folder, one)
    await one.put("/with metadata", b"x", metadata={"a": 1})
    await mirror(one, other)
    assert await contents(other) == await contents(one)
    entry = await other.entry("/with metadata")
    assert entry is not None and entry.metadata == {"a": 1}
    assert await mirror(one, other) == []


async def test_ignored_and_impossible_names(store: Corestore, folder: LocalDrive) -> None:
    (folder.root / ".pelureignore").write_text("*.bin\n!keep.bin\nempty\n")
    (folder.root / "keep.bin").write_text("kept")
    (folder.root / "new\nline").write_text("x")
    os.mkfifo(folder.root / "pipe")
    os.close(os.open(os.fsencode(folder.root) + b"/\xff", os.O_CREAT))
    local = LocalDrive(folder.root)
    drive = Drive(store)
    steps = await mirror(local, drive)
    assert [path for operation, path in steps if operation == "add"] == [
        "/a.txt",
        "/docs/run.sh",
        "/keep.bin",
        "/link",
    ]
    assert [operation for operation, _ in steps].count("problem") == 3
    local.close()


async def test_files_of_the_folder_are_kept_if_asked_to(store: Corestore, tmp_path: Path) -> None:
    drive = Drive(store)
    for name in ("ours", "same", "touched", "other", "gone", "gone too"):
        await drive.put(f"/{name}", b"1 " + name.encode())
    root = tmp_path / "folder"
    root.mkdir()
    (root / "ours").write_text("mine")
    (root / "same").write_text("1 same")
    (root / "link").symlink_to("mine")
    os.mkfifo(root / "pipe")  # what could not be shared may lie there, too
    local = LocalDrive(root)
    done = await mirror(drive, local, keep=True)
    assert ("problem", "/ours") in done and len(done) == 5
    assert (root / "ours").read_text() == "mine"
    for name in ("same", "touched", "other"):
        await drive.put(f"/{name}", b"2 " + name.encode())
    await drive.symlink("/link", "theirs")
    await drive.delete("/gone")
    await drive.delete("/gone too")
    for name in ("touched", "gone"):
        (root / name).write_text("changed here")
    done = await mirror(drive, local, keep=True)
    assert {path for what, path in done if what == "problem"} == {"/ours", "/touched", "/link"}
    assert [path for what, path in done if what == "remove"] == ["/gone too"]
    assert {path.name: path.read_text() for path in root.iterdir() if path.stem not in ("link", "pipe")} == {
        "ours": "mine",
        "same": "2 same",
        "touched": "changed here",
        "other": "2 other",
        "gone": "changed here",
    }
    assert os.readlink(root / "link") == "mine"
    await mirror(drive, local)
    assert (root / "ours").read_text() == "1 ours"
    assert os.readlink(root / "link") == "theirs"
    local.close()
