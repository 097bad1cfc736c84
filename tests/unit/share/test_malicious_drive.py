"""A publisher whose drive tries to reach out of the folder: everything else in it is had, nothing else is."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import unicodedata
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from pelure.hyper.core.corestore import Corestore
from pelure.hyper.core.replication.stream import Replication
from pelure.hyper.drive.drive import Drive
from pelure.hyper.drive.entry import DriveEntry, Unfit
from pelure.hyper.wire.noise import KeyPair
from pelure.share.fetch import Fetch
from pelure.share.mount import mount
from pelure.streams import memory_pipe
from pelure.web.page import DrivePage

COMPOSED = unicodedata.normalize("NFC", "/é.txt")
GOOD = {
    "/good.txt",
    "/Good.txt",
    COMPOSED,
    unicodedata.normalize("NFD", COMPOSED),
    "/deep/er/fine.bin",
    "/NUL",
    "/con.txt",
    "/a.txt/real",
    "/$(reboot)",
    "/-rf",
    "/<script>alert(1)</script>",
    "/…\u200d",
}
NOT_PATHS = {
    "/../up",
    "//double",
    "/deep/../../up",
    "/deep/./dot",
    "/.",
    "/..",
    "/deep/",
    "/back\\..\\..\\slash",
    "/" + "x/" * 20_000 + "end",
}
"""These can't be asked for, as npm hyperdrive resolves every path."""
TOO_DEEP = "/" + "/".join(["long" * 20] * 60)
UNSAFE = {
    "/nul\0byte",
    "/new\nline",
    "/\x1b]0;title\x07\x1b[2J",
    "/c1\x9b31m",
    "/" + "n" * 256,
    TOO_DEEP,
}
"""These a drive can have, but no folder should."""
LINKS = {
    "/etc-link": "/etc",
    "/up-link": "../..",
    "/sneaky": "deep/../../..",
    "/escape-link": "\x1b[2J",
}
BESIDES = {"/fine-link": "good.txt", "/folder-link": "deep"}


async def make_drive(store: Corestore) -> Drive:
    """Entries as a malicious publisher writes them: straight into the index."""
    drive = Drive(store)
    blob = await (await drive.blobs()).put(b"content")

    async def put(path: str, entry: DriveEntry) -> None:
        value = json.loads(entry.encode()) if entry.linkname is None else {"linkname": entry.linkname}
        await drive.db.put(path.encode(), json.dumps(value).encode())

    for path in GOOD | NOT_PATHS | UNSAFE:
        await put(path, DriveEntry(path, 0, blob=blob))
    for path, target in (LINKS | BESIDES).items():
        await put(path, DriveEntry(path, 0, linkname=target))
    for path in ("/etc-link/passwd", "/folder-link/through"):
        await put(path, DriveEntry(path, 0, blob=blob))
    fields = json.loads(blob.to_json())
    beyond = fields | {"blockOffset": 1 << 50, "blockLength": 1 << 50}
    await drive.db.put(b"/beyond", json.dumps({"blob": beyond}).encode())
    await drive.db.put(b"/mapped", json.dumps({"blob": fields | {"blockMap": True}}).encode())
    await drive.db.put(b"/long", json.dumps({"blob": fields | {"byteLength": 1 << 50}}).encode())
    for key, value in (
        (b"/garbage", b"\xff"),
        (b"/list", b"[]"),
        (b"/odd", b'{"linkname":"\\ud800"}'),
        (b"/\xff", b"{}"),
        (b"/blob", b'{"blob":7}'),
    ):
        await drive.db.put(key, value)
    return drive


UNREADABLE = {"/beyond", "/mapped", "/long"}
NO_ENTRIES = {"/garbage", "/list", "/odd", "/\\xff", "/blob"}


@pytest.fixture
async def drive(tmp_path: Path) -> AsyncIterator[Drive]:
    """The drive as a reader has it, connected to the publisher."""
    theirs, ours = Corestore(tmp_path / "theirs"), Corestore(tmp_path / "ours")
    published = await make_drive(theirs)
    left, right = memory_pipe()
    async with (
        Replication(left, False, theirs, KeyPair.from_seed(bytes(32))),
        Replication(right, True, ours, KeyPair.from_seed(bytes(31) + b"\1")),
    ):
        reading = Drive(ours, published.key)
        await reading.update(wait=True)
        yield reading
    ours.close()
    theirs.close()


def below(folder: Path) -> set[str]:
    """Paths of files and links, as a drive has them."""
    return {
        f"/{path.relative_to(folder)}" for path in folder.rglob("*") if path.is_symlink() or path.is_file()
    }


async def test_get_writes_what_is_good_and_tells_the_rest(drive: Drive, tmp_path: Path) -> None:
    folder = tmp_path / "outer" / "inner" / "got"
    async with asyncio.timeout(60):
        fetched = await Fetch(drive, folder).run()
    got = below(folder)
    # Of two names that one folder can't have together, the first in order is there.
    assert got == (GOOD | BESIDES.keys() | {"/etc-link/passwd"})
    assert below(tmp_path / "outer") == {f"/inner/got{path}" for path in got}
    assert (folder / "good.txt").read_bytes() == b"content"
    told = {path for path, _ in fetched.problems}
    assert told == NOT_PATHS | UNSAFE | LINKS.keys() | UNREADABLE | NO_ENTRIES | {"/folder-link/through"}
    async with asyncio.timeout(60):
        again = await Fetch(drive, folder).run()
    assert {path for path, _ in again.problems} == told and below(folder) == got


async def test_listing_leaves_out_what_is_no_entry(drive: Drive) -> None:
    unfit: list[Unfit] = []
    listed = {entry.path async for entry in drive.list(unfit=unfit.append)}
    assert {problem.path for problem in unfit} == NOT_PATHS | NO_ENTRIES
    assert not listed & (NOT_PATHS | NO_ENTRIES) and listed > GOOD | UNSAFE
    names = [name async for name in drive.readdir("/")]
    assert not {"", ".", ".."} & set(names) and "good.txt" in names and "deep" in names


async def test_the_page_and_its_zip_stay_inside(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pelure.hyper.blobs.blobs._LENGTH_SECONDS", 0.05)
    transport = httpx.ASGITransport(DrivePage(drive, "share").app())
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        page = await client.get("/")
        assert page.status_code == 200
        assert "<script" not in page.text and "good.txt" in page.text
        assert all(c.isprintable() or c in "\n\u200d" for c in page.text)
        for path in ("/..%2f..%2fetc%2fpasswd", "/%2e%2e/%2e%2e/etc/passwd", "/etc-link", "/garbage"):
            assert (await client.get(path)).status_code in (404, 503)
        zipped = await client.get("/?zip")
    with zipfile.ZipFile(io.BytesIO(zipped.content)) as archive:
        names = {f"/{name}" for name in archive.namelist()}
        assert archive.read("good.txt") == b"content"
    assert GOOD | BESIDES.keys() <= names
    assert not names & (NOT_PATHS | UNSAFE - {TOO_DEEP} | LINKS.keys() | NO_ENTRIES)


@pytest.mark.skipif(
    not os.environ.get("CI") and not (os.path.exists("/dev/fuse") and shutil.which("fusermount3")),
    reason="FUSE is not there (Debian: apt-get install fuse3)",
)
async def test_the_mount_leads_nowhere_else(drive: Drive, tmp_path: Path) -> None:
    folder = tmp_path / "mounted"
    mounted = await mount(drive, folder)

    def look() -> None:
        names = {f"/{name}" for name in os.listdir(folder)}
        assert "/good.txt" in names and "/etc-link" in names
        assert not names & (NOT_PATHS | UNSAFE | {"/", "/.", "/.."})
        assert (folder / "good.txt").read_bytes() == b"content"
        assert (folder / "fine-link").read_bytes() == b"content"
        for name in LINKS:
            with pytest.raises(OSError):
                os.readlink(folder / name[1:])
        with pytest.raises(OSError):
            (folder / "etc-link" / "passwd").read_bytes()
        with pytest.raises(OSError):
            (folder / "back\\..\\..\\slash").read_bytes()

    try:
        await asyncio.to_thread(look)
    finally:
        await mounted.unmount()
