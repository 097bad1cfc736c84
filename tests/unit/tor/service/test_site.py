"""The folder web site: what it serves, and what it must never serve."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

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
    ],
)
async def test_nothing_outside_hidden_or_listed_is_served(http: httpx.AsyncClient, path: str) -> None:
    url = httpx.URL("http://127.0.0.1").copy_with(raw_path=path.encode("ascii"))
    answer = await http.get(url)
    assert answer.status_code == 404
    assert "outside" not in answer.text


async def test_nothing_can_be_changed(http: httpx.AsyncClient) -> None:
    assert (await http.post("/data.bin", content=b"x")).status_code == 405
    assert (await http.delete("/data.bin")).status_code == 405


def test_only_a_folder_can_be_a_site(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        Site(tmp_path / "missing")
