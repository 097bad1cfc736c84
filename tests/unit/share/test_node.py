"""When a share begins, and when it is over."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from pelure.errors import ConfigError
from pelure.share.control import request
from pelure.share.linkbook import LinkBook
from pelure.share.node import Node, _until_over
from pelure.share.publication import Publication
from pelure.share.record import SHARES_NAME, ShareRecord


class FakePublication:
    """What decides about the end of a share."""

    def __init__(self, **settings: Any) -> None:
        self.record = ShareRecord("docs", "docs", ["/docs"], "", **settings)
        self.completed = asyncio.Event()
        self.given_up = asyncio.Event()


async def over(publication: FakePublication) -> None:
    async with asyncio.timeout(30):
        await _until_over(cast(Any, publication))


async def test_once_somebody_has_all_of_it() -> None:
    publication = FakePublication(once=True)
    ending = asyncio.ensure_future(over(publication))
    await asyncio.sleep(0)
    assert not ending.done()
    publication.completed.set()
    await ending


async def test_at_its_time_by_the_clock_on_the_wall(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timers stand still while a machine sleeps; the time at which a share is to end does not."""
    monkeypatch.setattr("pelure.tor.net.wallclock.LOOK_SECONDS", 0.01)
    now = time.time()
    publication = FakePublication(stop_at=now + 3600)
    publication.completed.set()
    ending = asyncio.ensure_future(over(publication))
    await asyncio.sleep(0.05)
    assert not ending.done()
    monkeypatch.setattr(time, "time", lambda: now + 3601)
    await ending


class FakeTor:
    """Notes that a service is to be published, which then fails."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def serve_onion(self, ports: Any, **settings: Any) -> None:
        self.asked.set()
        raise ConfigError("there is no network here")


async def test_links_of_a_share_that_waits_are_made_at_once_and_let_nobody_in_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is it forgotten by a node that ends and starts again meanwhile."""
    monkeypatch.setattr("pelure.tor.net.wallclock.LOOK_SECONDS", 0.01)
    shared, folder, now = tmp_path / "docs", tmp_path / "node", time.time()
    shared.mkdir()
    (shared / "a").write_text("a")
    folder.mkdir(mode=0o700)
    settings = {"title": None, "expires": None, "browser": False, "live": False, "once": False}
    times = {"start_at": now + 3600, "stop_at": None}
    with LinkBook(folder / "links.json") as book:
        tor = FakeTor()
        node = Node(folder, cast(Any, tor), book, cast(Any, None))
        await node.start()
        asked = {"paths": [str(shared)], "names": ["alice"], "detached": True, **settings, **times}
        told = [event["event"] async for event in request(folder, "share", **asked)]
        assert [name for name in told if name != "progress"] == ["link", "waiting", "done"]
        added = [
            event["event"]
            async for event in request(
                folder, "link-add", share="docs", names=["bob"], expires=None, browser=False
            )
        ]
        assert added == ["link", "waiting", "done"]
        await node.close()

        node = Node(folder, cast(Any, tor), book, cast(Any, None))
        await node.start()
        async with asyncio.timeout(60):
            while not node.shares()[0]["running"]:  # noqa: ASYNC110 - nobody tells that it is imported
                await asyncio.sleep(0.01)
        assert {entry.name for entry in book.live("docs")} == {"alice", "bob"}
        assert not tor.asked.is_set()
        monkeypatch.setattr(time, "time", lambda: now + 3601)
        async with asyncio.timeout(60):
            await tor.asked.wait()
        await node.close()


async def _nothing(*_: object) -> list[str]:
    return []


@pytest.mark.parametrize("over", [{"once": True}, {"stop_at": time.time() - 1}])
async def test_a_share_that_is_over_does_not_come_back(
    over: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, folder = tmp_path / "docs", tmp_path / "node"
    shared.mkdir()
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(Publication, "grant", _nothing)
    monkeypatch.setattr(Publication, "published", _nothing)
    monkeypatch.setattr("pelure.share.node._until_over", _nothing)
    record = replace(ShareRecord.of(folder / SHARES_NAME, [shared], None, detached=True), **over)
    record.save(folder / SHARES_NAME / record.id)
    with LinkBook(folder / "links.json") as book:
        node = Node(folder, cast(Any, FakeTor()), book, cast(Any, None))
        await node.start()
        async with asyncio.timeout(60):
            await asyncio.gather(*node._timers.values())
        assert node.shares()[0]["running"] is node.shares()[0]["detached"] is False
        await node.close()
