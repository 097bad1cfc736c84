"""One file of 1 GiB replicated with npm hyperdrive, both ways: what arrives has the hash of the original."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Iterator
from hashlib import file_digest, sha256
from pathlib import Path

import pytest

from interop.npm import AVAILABLE, NpmCores
from pelure.hyper.core.corestore import Corestore
from pelure.hyper.drive.drive import Drive
from pelure.streams import SocketStream

pytestmark = [
    pytest.mark.npm,
    pytest.mark.soak,
    pytest.mark.skipif(not AVAILABLE, reason="npm packages are not installed"),
]

MIB = 1 << 20
SIZE = 1024 * MIB
SECONDS = 1200.0


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A file of 1 GiB, and its SHA-256."""
    path = tmp_path_factory.mktemp("large") / "large"
    source = random.Random(1)
    with path.open("wb") as file:
        for _ in range(SIZE // MIB):
            file.write(source.randbytes(MIB))
    with path.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    yield path, digest
    path.unlink()


@pytest.fixture
async def npm(tmp_path: Path) -> AsyncIterator[NpmCores]:
    async with NpmCores(tmp_path / "npm", script="drive_peer.js") as peer:
        yield peer


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Corestore]:
    store = Corestore(tmp_path / "pelure")
    yield store
    store.close()


async def test_a_file_of_1_gib_from_npm(store: Corestore, npm: NpmCores, large: tuple[Path, str]) -> None:
    path, digest = large
    opened = await npm.call("open", id="w")
    version = (await npm.call("putFile", seconds=SECONDS, id="w", path="/large", file=str(path)))["version"]
    drive = Drive(store, bytes.fromhex(opened["key"]))
    stream = await SocketStream.connect("127.0.0.1", (await npm.call("listen"))["port"])
    async with store.replicate(stream, True), asyncio.timeout(SECONDS):
        while drive.version < version:
            await drive.core.changed()
        await drive.download()
    received = sha256()
    async for part in drive.read("/large", wait=False):
        received.update(part)
    assert received.hexdigest() == digest


@pytest.mark.parametrize("link", [False, True], ids=["copied", "linked"])
async def test_a_file_of_1_gib_to_npm(
    store: Corestore, npm: NpmCores, large: tuple[Path, str], link: bool
) -> None:
    path, digest = large
    drive = Drive(store)
    fd = os.open(path, os.O_RDONLY)
    await drive.import_file("/large", fd, str(path), link=link)
    os.close(fd)
    await npm.call("open", id="r", key=drive.key.hex())
    stream = await SocketStream.connect("127.0.0.1", (await npm.call("listen"))["port"])
    async with store.replicate(stream, True), asyncio.timeout(SECONDS):
        await npm.call("waitVersion", seconds=SECONDS, id="r", version=drive.version)
        await npm.call("download", seconds=SECONDS, id="r")
    assert (await npm.call("hash", seconds=SECONDS, id="r", path="/large"))["sha256"] == digest
