"""Fetching over a way on which each question takes long: little is asked for step by step."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pelure.hyper.bee.bee import Bee
from pelure.hyper.core.corestore import Corestore
from pelure.hyper.core.replication.stream import Replication
from pelure.hyper.drive.drive import Drive
from pelure.hyper.wire.noise import KeyPair
from pelure.share.fetch import Fetch
from pelure.streams import memory_pipe

FILES = 1000


async def test_the_whole_index_comes_while_it_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = Corestore(tmp_path / "theirs"), Corestore(tmp_path / "ours")
    published = Drive(theirs)
    batch = published.batch()
    for number in range(FILES):
        await batch.put(f"/{number}.txt", b"%d" % number)
    await batch.flush()

    async def asks_for_nothing(self: Bee, *arguments: Any) -> None:
        await self.core.changed()

    monkeypatch.setattr(Bee, "_fetch", asks_for_nothing)
    left, right = memory_pipe()
    async with (
        asyncio.timeout(60),
        Replication(left, False, theirs, KeyPair.from_seed(bytes(32))),
        Replication(right, True, ours, KeyPair.from_seed(bytes(31) + b"\1")),
    ):
        got = await Fetch(Drive(ours, published.key), tmp_path / "got").run()
    ours.close()
    theirs.close()
    assert got.files == FILES
    assert {path.name: path.read_text() for path in (tmp_path / "got").iterdir()} == {
        f"{number}.txt": str(number) for number in range(FILES)
    }
