"""Contents: writing, ranges, block maps, imports."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import DriveError, ProtocolError
from pelure.hyper.blobs.blob_id import BlobId, decode_block_map
from pelure.hyper.blobs.blobs import Blobs
from pelure.hyper.blobs.importing import import_file, same_content
from pelure.hyper.core.corestore import Corestore
from pelure.hyper.core.tree import NotAvailable
from pelure.hyper.encoding.compact import Writer

SIZES = [0, 1, 2048, 2049, 65535, 65536, 65537, 3 * 65536, 5_000_000]


@pytest.fixture(params=[None, bytes(32)], ids=["plain", "encrypted"])
def blobs(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Blobs]:
    store = Corestore(tmp_path / "store")
    yield Blobs(store.get(name="blobs", encryption_key=request.param))
    store.close()


@pytest.mark.parametrize("how", ["put", "copy", "link"])
async def test_what_goes_in_comes_out(blobs: Blobs, tmp_path: Path, how: str) -> None:
    for size in SIZES:
        content = os.urandom(size)
        if how == "put":
            blob = await blobs.put(content)
        else:
            path = tmp_path / f"file {size}"
            path.write_bytes(content)
            done: list[int] = []
            with path.open("rb") as file:
                blob = await import_file(
                    blobs, file.fileno(), str(path), link=how == "link", progress=done.append
                )
                assert blobs.core.encryption is not None or same_content(blobs, blob, file.fileno())
            assert sum(done) >= size
        assert (blob.byte_length, blob.block_length) == (size, -(-size // 65536))
        assert await blobs.get(blob, wait=False) == content
        for start, end in ((0, 10), (size // 2, size), (size // 3, size // 3 + 100_000), (size, size + 1)):
            assert await blobs.get(blob, start, end, wait=False) == content[start:end]
    assert blobs.core.byte_length == sum(SIZES)


async def test_pieces_of_any_size_make_whole_blocks(blobs: Blobs) -> None:
    content = os.urandom(300_000)
    async with blobs.writer() as writer:
        for at in range(0, len(content), 7001):
            await writer.write(content[at : at + 7001])
    assert writer.blob.block_length == 5
    assert await blobs.get(writer.blob) == content


async def test_a_failed_writer_leaves_no_blob_and_the_next_one_works(blobs: Blobs) -> None:
    with pytest.raises(ZeroDivisionError):
        async with blobs.writer() as writer:
            await writer.write(b"x" * 100_000)
            raise ZeroDivisionError
    with pytest.raises(DriveError):
        _ = writer.blob
    blob = await blobs.put(b"next")
    assert await blobs.get(blob) == b"next"


async def test_a_file_that_changes_while_it_is_read_is_refused(blobs: Blobs, tmp_path: Path) -> None:
    path = tmp_path / "growing"
    path.write_bytes(bytes(4_000_000))
    with path.open("r+b") as file:

        def touch(_: int) -> None:
            os.utime(path, ns=(0, 0))

        with pytest.raises(DriveError, match="changed while it was read"):
            await import_file(blobs, file.fileno(), str(path), progress=touch)


async def test_block_maps(blobs: Blobs) -> None:
    parts = [os.urandom(1000), os.urandom(70_000), os.urandom(1)]
    first = blobs.core.append(parts)
    w = Writer()
    w.uint(0)
    order = [0, 1, 1, 2, 0]
    w.uint(len(order))
    for at in order:
        w.uint(first + at)
        w.uint(len(parts[at]))
    listed = await blobs.put(w.bytes())
    blob = BlobId(listed.block_offset, listed.byte_offset, 1, listed.byte_length, True)
    content = b"".join(parts[at] for at in order)
    assert await blobs.get(blob) == content
    assert await blobs.get(blob, 900, 71_500) == content[900:71_500]
    assert await blobs.get(blob, 71_000, 142_000) == content[71_000:142_000]
    assert await blobs.byte_length(blob) == len(content)
    assert BlobId.from_json(json.loads(blob.to_json())) == blob
    assert await blobs.clear(blob) > 0
    with pytest.raises(NotAvailable):
        await blobs.get(blob, wait=False)


async def test_lying_entries_are_refused(blobs: Blobs) -> None:
    await blobs.put(os.urandom(100_000))
    for blob in (
        BlobId(0, 0, 1, 100_000),
        BlobId(0, 50_000, 1, 65_000),
        BlobId(1, 0, 1, 30_000),
    ):
        with pytest.raises((ProtocolError, NotAvailable)):
            await blobs.get(blob, 1000, wait=False)
    with pytest.raises(ProtocolError):
        await blobs.block_map(BlobId(0, 0, 65, 10, True))


@pytest.mark.parametrize(
    "value",
    [None, 3, [], {}, {"blockOffset": -1}, {"blockOffset": 0, "byteOffset": 0, "blockLength": 0}],
)
def test_malformed_ids(value: object) -> None:
    with pytest.raises(ProtocolError):
        BlobId.from_json(value)
    good = {"blockOffset": 0, "byteOffset": 0, "blockLength": 1, "byteLength": 5}
    for wrong in (True, "1", 1.5, None, 2**60):
        with pytest.raises(ProtocolError):
            BlobId.from_json({**good, "byteLength": wrong})


@given(st.binary(max_size=40))
@settings(deadline=None, max_examples=100)
def test_block_maps_from_anyone(data: bytes) -> None:
    try:
        decode_block_map(data)
    except ProtocolError:
        pass
