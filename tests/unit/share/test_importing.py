"""What is shared, and what is told of that which is not."""

from __future__ import annotations

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
