"""The web page of a share in a real browser: headless Chromium, on the onion address and on this machine."""

from __future__ import annotations

import io
import math
import os
import struct
import wave
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from interop.chromium import Chromium, Page, is_violation
from interop.commands import Command
from interop.ctor import require
from interop.sharing import Person
from interop.socks_log import SocksLog
from pelure.share.link import PrivateLink
from pelure.tor.onion.auth_files import AuthPrivate
from pelure.tor.onion.client_auth import ClientAuthKey

pytestmark = pytest.mark.timeout(420)
SPY = b"<!doctype html><title>x</title><img src='http://spy.example/1'><script src='http://spy.example/2'></script>"
SPY_PICTURE = (
    b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><script href='http://spy.example/3'/>"
    b"<image href='http://spy.example/4' width='9' height='9'/></svg>"
)
SAMPLES = 400_000


def _png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + bytes(range(256)) * 3
    pixels = zlib.compress(row[: 1 + 3 * width] * height)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _sound() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        one_second = struct.pack("<8000h", *(int(9000 * math.sin(step / 5)) for step in range(8000)))
        sound.writeframes(one_second * (SAMPLES // 8000) * 8)
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("web") / "Holiday"
    (folder / "pictures" / "é ü").mkdir(parents=True)
    (folder / "pictures" / "one.png").write_bytes(_png(200, 100))
    (folder / "pictures" / "two.png").write_bytes(_png(80, 60))
    (folder / "pictures" / "é ü" / "deep.txt").write_text("deep\n")
    (folder / "notes.txt").write_text("Bonjour, pelure!\n")
    (folder / "sound.wav").write_bytes(_sound())
    (folder / "spy.html").write_bytes(SPY)
    (folder / "spy.svg").write_bytes(SPY_PICTURE)
    (folder / "<img src=x onerror=document.title='run'>.txt").write_text("a name")
    return folder


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    require("chromium")
    folder = tmp_path_factory.mktemp("browser-network")
    with Command("net", "up", "--dir", str(folder / "net"), log=folder / "log") as up:
        yield Path(up.wait("up")["network"])


def _names(page: Page) -> list[str]:
    names: list[str] = page.evaluate(
        "[...document.querySelectorAll('td.name')].map(cell => cell.textContent)"
    )
    return names


def _seek(browser: Chromium, page: Page) -> dict[str, Any]:
    """Jump far into the sound of a preview page; the response that this takes."""
    page.evaluate(
        "new Promise((done, failed) => { const sound = document.querySelector('audio');"
        " sound.onerror = failed; if (sound.readyState) done(); else sound.onloadedmetadata = done; })"
    )
    since = len(browser.events)
    length = page.evaluate(
        "new Promise((done, failed) => { const sound = document.querySelector('audio');"
        " sound.onerror = failed; sound.onseeked = () => done(sound.duration);"
        " sound.currentTime = sound.duration * 0.8; })"
    )
    assert length == SAMPLES // 8000 * 8

    def far(event: dict[str, Any]) -> bool:
        answer = event["response"]
        return str(answer["url"]).endswith("sound.wav") and answer["status"] == 206

    response: dict[str, Any] = browser.wait("Network.responseReceived", far, since)["response"]
    return response


def _look_around(browser: Chromium, root: str, folder: Path, tmp_path: Path) -> None:
    """Everything that a visitor does on the page at ``root``."""
    page = browser.page()
    assert page.open(root) is None
    assert page.evaluate("document.title") == "Holiday"
    assert _names(page) == ["pictures", *sorted(path.name for path in folder.iterdir() if path.is_file())]
    styled = "getComputedStyle(document.querySelector('table')).borderCollapse"
    assert page.evaluate(styled) == "collapse"
    for width in (1200, 390):
        page.screenshot(tmp_path / f"list-{width}.png", width, 800)
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    page.open(root + "pictures/")
    assert _names(page) == ["é ü", "one.png", "two.png"]
    page.open(root + "pictures/one.png?view")
    picture = "document.querySelector('.preview img')"
    assert page.evaluate(
        f"{picture}.decode().then(() => [{picture}.naturalWidth, {picture}.naturalHeight])"
    ) == [
        200,
        100,
    ]
    assert page.evaluate("document.querySelector('[rel=next]').href") == root + "pictures/two.png?view"

    since = len(browser.events)
    page.open(root + "notes.txt?view")
    shown = browser.wait(
        "Network.responseReceived", lambda event: event["response"]["url"].endswith("notes.txt?text"), since
    )
    assert shown["response"]["mimeType"] == "text/plain"
    page.open(root + "notes.txt?text")
    assert page.evaluate("document.body.textContent") == "Bonjour, pelure!\n"

    page.open(root + "sound.wav?view")
    ranged = {name.lower(): value for name, value in _seek(browser, page)["headers"].items()}
    first = int(ranged["content-range"].removeprefix("bytes ").split("-")[0])
    assert first > SAMPLES

    page.open(root)
    got = browser.download(page, "document.querySelector('.button').click()", tmp_path / "downloads")
    with zipfile.ZipFile(got) as archive:
        assert archive.testzip() is None
        for path in folder.rglob("*"):
            if path.is_file():
                assert archive.read(str(path.relative_to(folder))) == path.read_bytes()


def _read_spies(browser: Chromium, root: str) -> None:
    """Shared files that want to tell others who reads them: previewed, and opened by themselves."""
    page = browser.page()
    for path in ("spy.html?view", "spy.html?text", "spy.svg?view", "spy.svg"):
        page.open(root + path)
        if path == "spy.svg":
            browser.wait("Audits.issueAdded", is_violation)
    page.open(root + "spy.html")  # a download: it does not replace the page


def test_the_page_in_a_browser(network: Path, folder: Path, tmp_path: Path) -> None:
    publisher, reader = Person(network, tmp_path / "publisher"), Person(network, tmp_path / "reader")
    command, links = publisher.share(folder, "--to", "carol", "--browser")
    link = PrivateLink.decode(links["carol"]["link"])
    auth = tmp_path / "auth"
    auth.mkdir()
    key = AuthPrivate(link.onion_key, ClientAuthKey(link.discovery_secret))
    (auth / "carol.auth_private").write_text(key.encode())
    with (
        command,
        reader.start("proxy", "--socks", "127.0.0.1:0", "--auth-dir", str(auth)) as proxy,
        reader.start("open", links["carol"]["link"]) as opened,
    ):
        at = proxy.wait("listening")
        proxy.wait("bootstrapped")
        with (
            SocksLog((at["host"], at["port"])) as socks,
            Chromium(tmp_path / "browser", f"127.0.0.1:{socks.port}") as browser,
        ):
            onion, local = links["carol"]["address"], opened.wait("page")["url"]
            for root in (onion, local):
                _look_around(browser, root, folder, tmp_path)
            assert not browser.violations()
            _read_spies(browser, onion)
            # What a policy blocks is told as a request too, but never reached the proxy.
            hosts = {urlsplit(address).netloc for address in browser.requests()}
            assert link.address in socks.wanted
            assert "spy.example" not in socks.wanted
        ours = {urlsplit(onion).netloc, urlsplit(local).netloc}
        assert hosts - {"spy.example"} == ours
    assert os.path.getsize(tmp_path / "list-390.png") > 5000
