"""Drives replicated with real npm hyperdrive over loopback TCP, both ways (HYPER-FACTS sections 14 to 18)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import pytest

from interop.npm import AVAILABLE, NpmCores, seeded_block
from pelure.errors import ConflictError
from pelure.hyper.core.corestore import Corestore
from pelure.hyper.core.replication.stream import Replication
from pelure.hyper.drive.drive import Drive
from pelure.streams import SocketStream

pytestmark = [
    pytest.mark.npm,
    pytest.mark.skipif(not AVAILABLE, reason="npm packages are not installed"),
]

T = TypeVar("T")
SECRET = bytes(range(32))


@pytest.fixture
async def npm(tmp_path: Path) -> AsyncIterator[NpmCores]:
    async with NpmCores(tmp_path / "npm", script="drive_peer.js") as peer:
        yield peer


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Corestore]:
    store = Corestore(tmp_path / "pelure")
    yield store
    store.close()


async def within(work: Awaitable[T], seconds: float = 90.0) -> T:
    async with asyncio.timeout(seconds):
        return await work


@asynccontextmanager
async def connected(store: Corestore, npm: NpmCores) -> AsyncIterator[Replication]:
    port = (await npm.call("listen"))["port"]
    stream = await SocketStream.connect("127.0.0.1", port)
    async with store.replicate(stream, True) as replication:
        await within(replication.opened())
        yield replication


async def until_version(drive: Drive, version: int, fork: int = 0) -> None:
    async def wait() -> None:
        while drive.core.length < version or drive.core.fork < fork:
            await drive.core.changed()

    await within(wait())


async def tree(drive: Drive) -> dict[str, Any]:
    found = {}
    async for entry in drive.list():
        data = await drive.get(entry.path)
        digest = None if data is None else sha256(data).hexdigest()
        size = None if data is None else len(data)
        found[entry.path] = [entry.executable, entry.linkname, entry.metadata, size, digest]
    return found


async def diff(drive: Drive, version: int) -> list[Any]:
    return [
        [
            [found.left.path, found.left.seq] if found.left else None,
            [found.right.path, found.right.seq] if found.right else None,
        ]
        async for found in drive.diff(version)
    ]


FILES: dict[str, tuple[bytes, bool, Any]] = {
    "/readme.txt": (b"hello", False, None),
    "/empty": (b"", False, None),
    "/big.bin": (seeded_block("big", 0, 1_000_000), False, {"kind": "big"}),
    "/exactly": (bytes(65536), False, None),
    "/bin/run": (b"#!/bin/sh\n", True, {"é": [1, None, "x"]}),
    "/deep/" + "/".join("abcdefghijklmnop") + "/end": (b"deep", False, None),
    "/ünïcode/日本 語/ファイル.txt": ("text ☃".encode(), False, None),
    "/a b/c'd\"e": (b"quotes", False, None),
}


@pytest.mark.parametrize("secret", [None, SECRET], ids=["plain", "encrypted"])
async def test_npm_writes_and_pelure_reads(store: Corestore, npm: NpmCores, secret: bytes | None) -> None:
    opened = await npm.call("open", id="w", encryptionKey=secret.hex() if secret else None)
    for path, (data, executable, metadata) in FILES.items():
        await npm.call("put", id="w", path=path, data=data.hex(), executable=executable, metadata=metadata)
    await npm.call("symlink", id="w", path="/link", target="readme.txt")
    await npm.call("putSeeded", id="w", folder="/many", seed="s", count=300, size=700)
    before = (await npm.call("state", id="w"))["version"]
    await npm.call("del", id="w", path="/a b/c'd\"e")
    await npm.call("put", id="w", path="/readme.txt", data=b"hello again".hex())
    drive = Drive(store, bytes.fromhex(opened["key"]), encryption_key=secret)
    async with connected(store, npm):
        await within(drive.update(wait=True))
        version = (await npm.call("state", id="w"))["version"]
        await until_version(drive, version)
        assert await within(tree(drive)) == (await npm.call("tree", id="w"))["tree"]
        old = drive.checkout(before)
        assert await within(tree(old)) == (await npm.call("tree", id="w", version=before))["tree"]
        assert await diff(drive, before) == (await npm.call("diff", id="w", version=before))["diff"]
        assert drive.content_key is not None
        assert drive.content_key.hex() == opened["contentKey"]
        # live: each side sees what the other does while both run
        live = await npm.call("put", id="w", path="/live", data=b"now".hex())
        await until_version(drive, live["version"])
        assert await within(drive.get("/live")) == b"now"


@pytest.mark.parametrize("secret", [None, SECRET], ids=["plain", "encrypted"])
async def test_pelure_writes_and_npm_reads(store: Corestore, npm: NpmCores, secret: bytes | None) -> None:
    drive = Drive(store, encryption_key=secret)
    for path, (data, executable, metadata) in FILES.items():
        await drive.put(path, data, executable=executable, metadata=metadata)
    await drive.symlink("/link", "readme.txt")
    batch = drive.batch()
    for i in range(300):
        await batch.put(f"/many/{i % 10}/file {i}", seeded_block("s", i, 700))
    await batch.flush()
    before = drive.version
    await drive.delete("/a b/c'd\"e")
    await drive.put("/readme.txt", b"hello again")
    await npm.call("open", id="r", key=drive.key.hex(), encryptionKey=secret.hex() if secret else None)
    async with connected(store, npm):
        await npm.call("waitVersion", id="r", version=drive.version)
        assert (await npm.call("tree", id="r"))["tree"] == await tree(drive)
        old = drive.checkout(before)
        assert (await npm.call("tree", id="r", version=before))["tree"] == await tree(old)
        assert (await npm.call("diff", id="r", version=before))["diff"] == await diff(drive, before)
        await drive.put("/live", b"now")
        await npm.call("waitVersion", id="r", version=drive.version)
        assert (await npm.call("get", id="r", path="/live"))["data"] == b"now".hex()


async def test_ranges_of_a_sparse_drive(store: Corestore, npm: NpmCores) -> None:
    content = b"".join(seeded_block("range", i, 10_000) for i in range(300))
    opened = await npm.call("open", id="w")
    await npm.call("put", id="w", path="/filler", data=content[:700_000].hex())
    await npm.call("put", id="w", path="/big", data=content.hex())
    drive = Drive(store, bytes.fromhex(opened["key"]))
    async with connected(store, npm):
        await within(drive.update(wait=True))
        for start, end in ((1_000_000, 1_000_100), (0, 10), (65_530, 65_540), (2_999_990, 3_000_000)):
            part = [piece async for piece in drive.read("/big", start, end)]
            assert b"".join(part) == content[start:end]
        blobs = await drive.blobs()
        held = blobs.core.bitfield.count(0, blobs.core.length)
        assert held < blobs.core.length / 2  # only what was read, and a little ahead


async def test_npm_reads_a_range_from_pelure(store: Corestore, npm: NpmCores) -> None:
    content = b"".join(seeded_block("range", i, 10_000) for i in range(300))
    drive = Drive(store)
    await drive.put("/filler", content[:700_000])
    await drive.put("/big", content)
    await npm.call("open", id="r", key=drive.key.hex())
    async with connected(store, npm):
        await npm.call("waitVersion", id="r", version=drive.version)
        for start, end in ((1_000_000, 1_000_100), (65_530, 65_540), (2_999_990, 3_000_000)):
            found = await npm.call("range", id="r", path="/big", start=start, end=end)
            assert bytes.fromhex(found["data"]) == content[start:end]


async def test_linked_files_are_served(store: Corestore, npm: NpmCores, tmp_path: Path) -> None:
    content = b"".join(seeded_block("linked", i, 10_000) for i in range(100))
    source = tmp_path / "source.bin"
    source.write_bytes(content)
    drive = Drive(store)
    with source.open("rb") as file:
        await drive.import_file("/linked", file.fileno(), str(source), link=True)
    await npm.call("open", id="r", key=drive.key.hex())
    async with connected(store, npm):
        await npm.call("waitVersion", id="r", version=drive.version)
        assert (await npm.call("get", id="r", path="/linked"))["data"] == content.hex()


async def test_block_maps_of_npm_are_read(store: Corestore, npm: NpmCores) -> None:
    content = b"".join(seeded_block("dedup", i % 7, 30_000) for i in range(40))
    opened = await npm.call("open", id="w")
    await npm.call("dedup", id="w", path="/deduplicated", data=content.hex())
    drive = Drive(store, bytes.fromhex(opened["key"]))
    async with connected(store, npm):
        await within(drive.update(wait=True))
        assert await within(drive.get("/deduplicated")) == content
        part = [piece async for piece in drive.read("/deduplicated", 500_000, 600_000)]
        assert b"".join(part) == content[500_000:600_000]
        entry = await drive.entry("/deduplicated")
        assert entry is not None and entry.blob is not None and entry.blob.block_map
        assert await drive.size(entry) == len(content)


async def test_truncated_by_npm(store: Corestore, npm: NpmCores) -> None:
    opened = await npm.call("open", id="w")
    for i in range(20):
        await npm.call("put", id="w", path=f"/file {i}", data=seeded_block("t", i, 3000).hex())
    drive = Drive(store, bytes.fromhex(opened["key"]))
    async with connected(store, npm):
        await until_version(drive, 21)
        await within(drive.download())
        await npm.call("truncate", id="w", version=11)
        after = await npm.call("put", id="w", path="/after", data=b"after".hex())
        await until_version(drive, after["version"], after["fork"])
        assert await within(tree(drive)) == (await npm.call("tree", id="w"))["tree"]


async def test_truncated_by_pelure(store: Corestore, npm: NpmCores) -> None:
    drive = Drive(store)
    for i in range(20):
        await drive.put(f"/file {i}", seeded_block("t", i, 3000))
    await npm.call("open", id="r", key=drive.key.hex())
    async with connected(store, npm):
        await npm.call("waitVersion", id="r", version=drive.version)
        await npm.call("download", id="r")
        await drive.truncate(11)
        await drive.put("/after", b"after")
        await npm.call("waitVersion", id="r", version=drive.version, fork=drive.core.fork)
        assert (await npm.call("tree", id="r"))["tree"] == await tree(drive)


@pytest.mark.parametrize("same_key", [False, True], ids=["new key", "same key"])
async def test_npm_drive_deleted_and_made_again(store: Corestore, tmp_path: Path, same_key: bool) -> None:
    """Its folder is deleted, as ``purge`` of these npm versions fails in corestore."""
    async with NpmCores(tmp_path / "one", bytes(32), "drive_peer.js") as npm:
        opened = await npm.call("open", id="w")
        await npm.call("put", id="w", path="/old", data=b"old".hex())
        drive = Drive(store, bytes.fromhex(opened["key"]))
        async with connected(store, npm):
            await until_version(drive, 2)
            assert await within(drive.get("/old")) == b"old"
    secret = bytes(32) if same_key else bytes([1]) * 32
    async with NpmCores(tmp_path / "two", secret, "drive_peer.js") as npm:
        again = await npm.call("open", id="w")
        assert (again["key"] == opened["key"]) is same_key
        for i in range(3):
            await npm.call("put", id="w", path=f"/new {i}", data=b"new".hex())
        async with connected(store, npm):
            if same_key:  # two histories under one key: this side keeps the one that it knows
                with pytest.raises(ConflictError):
                    while True:
                        await within(drive.core.changed())
                assert drive.version == 2
            else:
                other = Drive(store, bytes.fromhex(again["key"]))
                await until_version(other, 4)
                assert await within(other.get("/new 2")) == b"new"
        assert await drive.get("/old", wait=False) == b"old"


@pytest.mark.soak
async def test_ten_thousand_small_files_both_ways(store: Corestore, npm: NpmCores) -> None:
    mine = Drive(store)
    batch = mine.batch()
    for i in range(10_000):
        await batch.put(f"/many/{i % 10}/file {i}", seeded_block("many", i, 1024))
    await batch.flush()
    opened = await npm.call("open", id="w")
    await npm.call("putSeeded", id="w", folder="/many", seed="many", count=10_000, size=1024)
    theirs = Drive(store, bytes.fromhex(opened["key"]))
    await npm.call("open", id="r", key=mine.key.hex(), namespace="reader")
    async with connected(store, npm):
        await until_version(theirs, 10_001)
        await npm.call("waitVersion", id="r", version=10_001)
        await within(theirs.download())
        expected = await tree(mine)
        assert await within(tree(theirs)) == expected
        assert (await npm.call("tree", id="r"))["tree"] == expected
