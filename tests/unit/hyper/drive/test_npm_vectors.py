"""Keys, index blocks, contents and paths equal those of npm hyperdrive.

The vectors are made by tests/interop/node/make_drive_vectors.js.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pelure.errors import DriveError
from pelure.hyper.core.core import Core
from pelure.hyper.core.corestore import Corestore
from pelure.hyper.drive.drive import Drive
from pelure.hyper.drive.paths import normalize

VECTORS = json.loads((Path(__file__).parents[3] / "vectors" / "hyper" / "drive.json").read_text())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Corestore]:
    store = Corestore(tmp_path / "store", primary_key=bytes([3]) * 32)
    yield store
    store.close()


def blocks(core: Core) -> list[str]:
    found = [core.get_stored(i) or b"" for i in range(core.length)]
    return [block.hex() if len(block) < 600 else hashlib.sha256(block).hexdigest() for block in found]


async def fill(drive: Drive) -> None:
    await drive.put("/hello.txt", b"hello world")
    await drive.put("/empty", b"")
    await drive.put("/big.bin", (b"pelure " * 21429)[:150000])
    metadata = {"note": 'é "quoted"', "n": [1, 2.5, None, True]}
    await drive.put("/run.sh", b"#!/bin/sh\n", executable=True, metadata=metadata)
    await drive.symlink("/link", "hello.txt")
    await drive.put("/ünïcode/日本 語.txt", b"unicode")
    await drive.delete("/empty")
    batch = drive.batch()
    await batch.put("/batch/a", b"a")
    await batch.put("/batch/b", b"b")
    batch.delete("/hello.txt")
    await batch.flush()


@pytest.mark.parametrize("expected", VECTORS["drives"], ids=lambda drive: drive["name"])
async def test_drive(store: Corestore, expected: dict[str, Any]) -> None:
    if expected["namespace"]:
        store = store.namespace(expected["namespace"])
    secret = bytes.fromhex(expected["encryptionKey"]) if expected["encryptionKey"] else None
    drive = Drive(store, encryption_key=secret)
    await fill(drive)
    blobs = await drive.blobs()
    assert drive.key.hex() == expected["key"]
    assert drive.core.discovery_key.hex() == expected["discoveryKey"]
    assert drive.content_key is not None and drive.content_key.hex() == expected["contentKey"]
    assert drive.version == expected["version"]
    assert blocks(drive.core) == expected["db"]
    assert blocks(blobs.core) == expected["blobs"]
    assert (drive.core.signature or b"").hex() == expected["signature"]
    assert (blobs.core.signature or b"").hex() == expected["blobsSignature"]
    listed = [[entry.path, entry.seq, json.loads(entry.encode())] async for entry in drive.list()]
    assert listed == expected["list"]
    part = b"".join([piece async for piece in drive.read("/big.bin", 65530, 65541)])
    assert part.hex() == expected["range"]  # there, the end is inclusive


@pytest.mark.parametrize(("path", "expected"), VECTORS["paths"])
def test_paths(path: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(DriveError):
            normalize(path)
    else:
        assert normalize(path) == expected
