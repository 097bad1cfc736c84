"""The folder web site: what it serves, and what it must never serve."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote_from_bytes

import httpx
import pytest

from pelure.errors import ConfigError
from pelure.tor.service.site import Site


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "site"
    (root / "sub").mkdir(parents=True)
    (root / "index.html").write_text("<h1>home</h1>")
    (root / "sub/index.html").write_text("<h1>sub</h1>")
    (root / "data.bin").write_bytes(bytes(range(256)) * 16)
    (root / "empty").mkdir()
    (root / "empty/file.css").write_text("a{}")
    (root / ".git").mkdir()
    (root / ".git/config").write_text("hidden")
    (root / "sub/.env").write_text("hidden")
    (tmp_path / "secret.txt").write_text("outside")
    (root / "leak.txt").symlink_to(tmp_path / "secret.txt")
    (root / "up").symlink_to(tmp_path)
    (root / "loop").symlink_to("loop")
    (root / "inner.bin").symlink_to(root / "data.bin")
    return root


@pytest.fixture
async def http(folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    site = Site(folder)
    await site.start()
    transport = httpx.AsyncHTTPTransport(uds=str(site.socket_path))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=30) as client:
        yield client
    await site.close()
    assert not site.socket_path.exists()


async def test_index_pages_and_mime_types(http: httpx.AsyncClient) -> None:
    home = await http.get("/")
    assert (home.text, home.headers["content-type"]) == ("<h1>home</h1>", "text/html; charset=utf-8")
    assert (await http.get("/sub/")).text == "<h1>sub</h1>"
    assert (await http.get("/empty/file.css")).headers["content-type"].startswith("text/css")
    assert "server" not in home.headers
    assert "date" not in home.headers


async def test_range_requests(http: httpx.AsyncClient, folder: Path) -> None:
    content = (folder / "data.bin").read_bytes()
    part = await http.get("/data.bin", headers={"range": "bytes=100-299"})
    assert (part.status_code, part.content) == (206, content[100:300])
    assert part.headers["content-range"] == "bytes 100-299/4096"
    assert (await http.get("/data.bin", headers={"range": "bytes=9999-"})).status_code == 416
    assert (await http.head("/data.bin")).headers["content-length"] == "4096"


async def test_a_link_inside_the_folder_works(http: httpx.AsyncClient, folder: Path) -> None:
    assert (await http.get("/inner.bin")).content == (folder / "data.bin").read_bytes()


@pytest.mark.parametrize(
    "path",
    [
        "/leak.txt",
        "/up/secret.txt",
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/sub/..%2f..%2fsecret.txt",
        "/.git/config",
        "/sub/.env",
        "/empty/",
        "/missing",
        "//etc/passwd",
        "/%00",
        "/loop",
        "/index.html/",
        "/" + "a" * 300,
    ],
)
async def test_nothing_outside_hidden_or_listed_is_served(http: httpx.AsyncClient, path: str) -> None:
    url = httpx.URL("http://127.0.0.1").copy_with(raw_path=path.encode("ascii"))
    answer = await http.get(url)
    assert answer.status_code == 404
    assert "outside" not in answer.text


async def _raw(site: Site, request: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(site.socket_path))
    writer.write(request)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
    writer.close()
    return head


async def test_a_redirect_tells_no_path_of_this_machine(folder: Path) -> None:
    """Nor does it lead to another host; a request that names none would be told the socket's path."""
    site = Site(folder)
    await site.start()
    try:
        for request, location in (
            (b"GET /sub HTTP/1.0\r\n\r\n", b"./sub/"),
            (b"GET /sub?a=b HTTP/1.1\r\nHost: x\r\n\r\n", b"./sub/?a=b"),
            (b"GET //sub HTTP/1.1\r\nHost: not a name\r\n\r\n", b"./sub/"),
        ):
            head = await _raw(site, request)
            assert b"\r\nlocation: " + location + b"\r\n" in head
            assert str(site.socket_path).encode() not in head
    finally:
        await site.close()


async def test_a_redirect_is_followed(http: httpx.AsyncClient) -> None:
    answer = await http.get("/sub", follow_redirects=True)
    assert (answer.text, answer.url.path) == ("<h1>sub</h1>", "/sub/")


@pytest.mark.parametrize("name", [b"new\nline", b"not \xff text", b"a%b#c?d&e+f", "é".encode()])
async def test_odd_names(http: httpx.AsyncClient, folder: Path, name: bytes) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_text("odd")
    url = httpx.URL("http://127.0.0.1").copy_with(raw_path=b"/" + quote_from_bytes(name).encode())
    assert (await http.get(url)).text == "odd"


async def test_a_range_that_a_server_must_ignore(http: httpx.AsyncClient) -> None:
    """RFC 9110 section 14.2: of a unit that it does not know, or of another request than GET."""
    assert (await http.get("/data.bin", headers={"range": "lines=0-9"})).status_code == 200
    head = await http.head("/data.bin", headers={"range": "bytes=0-9"})
    assert (head.status_code, head.headers["content-length"]) == (200, "4096")


async def test_what_can_not_be_read_is_not_found(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, _: not str(path).endswith("data.bin"))  # root can read all
    assert (await http.get("/data.bin")).status_code == 404


async def test_nothing_can_be_changed(http: httpx.AsyncClient) -> None:
    assert (await http.post("/data.bin", content=b"x")).status_code == 405
    assert (await http.delete("/data.bin")).status_code == 405


def test_only_a_folder_can_be_a_site(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        Site(tmp_path / "missing")
