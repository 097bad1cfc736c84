"""The web page of a drive: listing, previews, ranges, ZIP, and names that try to be markup."""

import io
import zipfile
from pathlib import Path

import httpx
import pytest

from pelure.hyper.core.corestore import Corestore
from pelure.hyper.drive.drive import Drive
from pelure.web.page import DrivePage

EVIL = "<img src=x onerror=alert(1)>&\"'.txt"


@pytest.fixture
async def client(tmp_path: Path):
    store = Corestore(tmp_path / "store")
    drive = Drive(store)
    await drive.put("/a.txt", b"hello", metadata={"mtime": 1_700_000_000})
    await drive.put("/photos/one.png", bytes(range(256)) * 1000)
    await drive.put("/photos/deep/é ü.bin", b"x" * 10, executable=True, metadata={"mtime": (1 << 40) - 1})
    await drive.put("/page.html", b"<script>alert(1)</script>")
    await drive.put("/" + EVIL.replace("/", ""), b"evil", metadata={"mtime": 1e300})
    await drive.symlink("/link", "/etc/passwd")
    transport = httpx.ASGITransport(DrivePage(drive, "My <b>share</b>").app())
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as opened:
        yield opened
    store.close()


async def test_listing(client: httpx.AsyncClient) -> None:
    page = await client.get("/")
    assert page.status_code == 200
    assert "a.txt" in page.text
    assert "2023-11-14" in page.text
    assert "<img" not in page.text
    assert "<b>" not in page.text
    assert "script" not in page.headers["content-security-policy"]
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert (await client.get("/photos")).status_code == 302
    assert "deep/" in (await client.get("/photos/")).text
    assert (await client.get("/nothing/")).status_code == 404
    assert (await client.get("/nothing")).status_code == 404
    assert (await client.get("/link")).status_code == 404
    assert "prefers-color-scheme" in (await client.get("/?style")).text
    assert (await client.get("/?icon")).headers["content-type"].startswith("image/svg+xml")


async def test_files_and_ranges(client: httpx.AsyncClient) -> None:
    whole = bytes(range(256)) * 1000
    got = await client.get("/photos/one.png")
    assert got.content == whole
    assert got.headers["content-type"] == "image/png"
    part = await client.get("/photos/one.png", headers={"Range": "bytes=1000-1999"})
    assert part.status_code == 206
    assert part.content == whole[1000:2000]
    assert part.headers["content-range"] == "bytes 1000-1999/256000"
    assert (part.headers["content-length"], got.headers["content-length"]) == ("1000", "256000")
    assert (await client.get("/photos/one.png", headers={"Range": "bytes=-5"})).content == whole[-5:]
    assert (await client.get("/photos/one.png", headers={"Range": "bytes=999999-"})).status_code == 416
    head = await client.head("/photos/one.png")
    assert head.headers["content-length"] == "256000"
    assert head.content == b""


async def test_shared_html_is_never_run(client: httpx.AsyncClient) -> None:
    got = await client.get("/page.html")
    assert got.headers["content-disposition"].startswith("attachment")
    assert "sandbox" in got.headers["content-security-policy"]
    text = await client.get("/page.html?text")
    assert text.headers["content-type"].startswith("text/plain")
    assert text.headers["x-content-type-options"] == "nosniff"


async def test_what_is_shown_and_what_is_saved(client: httpx.AsyncClient) -> None:
    """Pictures are shown unless they are to be saved; what a browser might run is only ever saved."""
    shown = await client.get("/photos/one.png")
    saved = await client.get("/photos/one.png?download")
    assert "content-disposition" not in shown.headers
    assert saved.headers["content-disposition"] == "attachment; filename*=UTF-8''one.png"
    assert saved.headers["content-type"] == "image/png"
    for query in ("", "?download", "?text", "?view=1"):
        got = await client.get("/photos/deep/é ü.bin" + query)
        assert got.headers["content-disposition"].startswith("attachment")
        assert got.headers["content-type"] == "application/octet-stream"
    for path in ("/page.html", "/page.html?view=1", "/a.txt"):
        assert (await client.get(path)).headers["content-disposition"].startswith("attachment")


async def test_an_empty_drive(tmp_path: Path) -> None:
    store = Corestore(tmp_path / "store")
    transport = httpx.ASGITransport(DrivePage(Drive(store), "share").app())
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        page = await client.get("/")
        assert page.status_code == 200 and "This folder is empty" in page.text
        assert "There is more" not in page.text
        archive = await client.get("/?zip")
        assert archive.headers["content-disposition"] == "attachment; filename*=UTF-8''share.zip"
        assert zipfile.ZipFile(io.BytesIO(archive.content)).namelist() == []
    store.close()


async def test_previews(client: httpx.AsyncClient) -> None:
    assert "<img src='./one.png'" in (await client.get("/photos/one.png?view")).text
    assert "iframe" in (await client.get("/a.txt?view")).text
    assert "no preview" in (await client.get("/photos/deep/é ü.bin?view")).text


async def test_ways_around(tmp_path: Path) -> None:
    store = Corestore(tmp_path / "ways")
    drive = Drive(store)
    for path in ("/a/1.png", "/a/2.png", "/a/3.png", "/a/4/x", "/b/README"):
        await drive.put(path, b"x")
    for name, target in (("in", "../b/README"), ("out", "../../etc/passwd"), ("root", "/b")):
        await drive.symlink(f"/a/{name}", target)
    transport = httpx.ASGITransport(DrivePage(drive, "ways", "/token/").app())
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        assert "1 folder, 1 file" not in (await client.get("/token/")).text
        assert "2 folders" in (await client.get("/token/")).text
        page = (await client.get("/token/a/2.png?view")).text
        assert "rel=prev href='./1.png?view'" in page
        assert "rel=next href='./3.png?view'" in page
        assert "href='/token/a/'" in page
        assert "rel=prev" not in (await client.get("/token/a/1.png?view")).text
        assert "rel=next" not in (await client.get("/token/a/3.png?view")).text
        listing = (await client.get("/token/a/")).text
        assert "href='/token/b/README?view'" in listing
        assert "<span>out → ../../etc/passwd</span>" in listing
        assert "<span>root → /b</span>" in listing
        assert "<iframe" in (await client.get("/token/b/README?view")).text
    store.close()


async def test_a_folder_of_too_many_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pelure.web.page.MAX_ROWS", 3)
    store = Corestore(tmp_path / "many")
    drive = Drive(store)
    for number in range(4):
        await drive.put(f"/{number}", b"x")
    transport = httpx.ASGITransport(DrivePage(drive, "many").app())
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        assert "more in this folder" in (await client.get("/")).text
        await drive.delete("/3")
        assert "more in this folder" not in (await client.get("/")).text
    store.close()


@pytest.mark.parametrize(
    "path", ["/photos//", "/photos//one.png", "/photos/%2e/", "/a/%2e%2e/photos/", "/%2e%2e/"]
)
@pytest.mark.parametrize("query", ["", "?zip"])
async def test_another_spelling_of_a_path_is_no_address(
    client: httpx.AsyncClient, path: str, query: str
) -> None:
    """Names are cut out of paths by their lengths, and links in a page go on from its own address."""
    assert (await client.get(path + query)).status_code == 404


async def test_zip(client: httpx.AsyncClient) -> None:
    got = await client.get("/photos/?zip")
    archive = zipfile.ZipFile(io.BytesIO(got.content))
    assert archive.testzip() is None
    assert sorted(archive.namelist()) == ["deep/é ü.bin", "one.png"]
    assert archive.read("one.png") == bytes(range(256)) * 1000
    assert archive.getinfo("deep/é ü.bin").external_attr >> 16 & 0o777 == 0o755
    assert archive.getinfo("deep/é ü.bin").date_time[0] == 2107  # its date is beyond what the format has
    assert "photos.zip" in got.headers["content-disposition"]
    assert (await client.head("/photos/?zip")).content == b""


async def test_below_a_token(tmp_path: Path) -> None:
    store = Corestore(tmp_path / "other")
    drive = Drive(store)
    await drive.put("/a.txt", b"hello")
    transport = httpx.ASGITransport(DrivePage(drive, "x", "/token/").app())
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        assert (await client.get("/token/a.txt")).content == b"hello"
        for wrong in ("/", "/a.txt", "/tokem/a.txt", "/token", "/token/../a.txt"):
            assert (await client.get(wrong)).status_code == 404
    store.close()
