"""A shared drive whose key was used for two histories: its publisher and its readers are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette

from pelure.errors import ConflictError, DriveError
from pelure.hyper.core.core import Core
from pelure.hyper.core.corestore import Corestore
from pelure.hyper.core.replication.stream import Replication
from pelure.hyper.drive.drive import Drive
from pelure.hyper.wire import messages as m
from pelure.hyper.wire.noise import KeyPair
from pelure.hyper.wire.parts import UpgradeRequest
from pelure.share.fairness import FairUpload
from pelure.share.fetch import Fetch
from pelure.share.linkbook import LinkBook
from pelure.share.node import _until_over
from pelure.share.publication import Publication
from pelure.share.record import ShareRecord
from pelure.share.trust import newest
from pelure.streams import memory_pipe

SECONDS = 30
KEY = bytes(32)


class Publisher:
    """A share of one file; :meth:`serve` is its onion service."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "a.txt").write_text("hello")
        self.book = LinkBook(folder / "links.sqlite")
        self.told: list[tuple[str, Any]] = []
        self.publication = self.publish()

    def publish(self) -> Publication:
        record = ShareRecord("docs", "docs", [str(self.folder / "a.txt")], KEY.hex())
        page = Starlette()
        return Publication(
            self.folder / "share",
            record,
            self.book,
            lambda drive, title: page,
            FairUpload(),
            lambda event, **fields: self.told.append((event, fields["reason"])),
        )

    @asynccontextmanager
    async def serve(self, reader: Corestore) -> AsyncIterator[None]:
        left, right = memory_pipe()
        store = self.publication.drive.store
        async with (
            Replication(left, False, store, KeyPair.from_seed(bytes(32))),
            Replication(right, True, reader, KeyPair.from_seed(bytes([1]) * 32)),
        ):
            yield


def freeze(core: Core) -> None:
    """What a proof of another history does to a core."""
    proof = core.proof(m.Request(0, core.fork, upgrade=UpgradeRequest(0, core.length)))
    assert proof is not None
    core.freeze(proof)


@pytest.fixture
async def publisher(tmp_path: Path) -> AsyncIterator[Publisher]:
    made = Publisher(tmp_path)
    await made.publication.prepare()
    yield made
    await made.publication.close()
    made.book.close()


@pytest.mark.parametrize("which", ["index", "contents"])
async def test_a_share_ends_with_its_drive_and_does_not_begin_again(publisher: Publisher, which: str) -> None:
    ending = asyncio.ensure_future(_until_over(publisher.publication))
    await asyncio.sleep(0)
    drive = publisher.publication.drive
    freeze(drive.core if which == "index" else (await drive.blobs()).core)
    async with asyncio.timeout(SECONDS):
        with pytest.raises(ConflictError) as found:
            await ending
    assert publisher.told == [("conflict", str(found.value))]
    await publisher.publication.close()
    publisher.publication = publisher.publish()
    with pytest.raises(ConflictError):
        await publisher.publication.prepare()


async def test_a_reader_of_a_drive_that_is_not_served_is_told(publisher: Publisher, tmp_path: Path) -> None:
    """It does not take it for an empty folder."""
    drive = publisher.publication.drive
    reader = Corestore(tmp_path / "reader")
    view = Drive(reader, drive.key, encryption_key=KEY)
    async with asyncio.timeout(SECONDS):
        async with publisher.serve(reader):
            await newest(view)
            assert view.version == drive.version
        freeze(drive.core)
        async with publisher.serve(reader):
            with pytest.raises(DriveError, match="does not serve this drive any more"):
                await Fetch(view, tmp_path / "got").run()
    assert not (tmp_path / "got").exists()
    reader.close()
