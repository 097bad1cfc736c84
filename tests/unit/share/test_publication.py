"""Which links a running share lets in, while its link book changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from starlette.applications import Starlette

from pelure.errors import ConfigError
from pelure.share import publication as module
from pelure.share.fairness import FairUpload
from pelure.share.linkbook import Entry, LinkBook
from pelure.share.publication import Publication
from pelure.share.record import ShareRecord
from pelure.tor.service.keys import ServiceKeys


class FakeService:
    """An onion service without a network; it publishes once ``may_publish`` is set."""

    def __init__(self, keys: ServiceKeys) -> None:
        self.keys = keys
        self.may_publish = asyncio.Event()
        self.may_publish.set()
        self.publishing = asyncio.Event()
        self.rotated = asyncio.Event()

    async def add_clients(self, clients: dict[str, bytes]) -> None:
        for name, key in clients.items():
            self.keys.add_client(name, key)
        self.publishing.set()
        await self.may_publish.wait()

    async def remove_clients(self, names: list[str]) -> None:
        for name in names:
            self.keys.remove_client(name, lambda size: b"\1" * size)

    async def rotate_intro_points(self) -> None:
        self.rotated.set()

    def connections(self) -> list[Any]:
        return []

    def close_circuit(self, number: int) -> bool:
        return False

    async def close(self) -> None:
        pass


class Share:
    """A share of one file that runs, without a network."""

    def __init__(self, folder: Path) -> None:
        (folder / "a.txt").write_text("hello")
        self.book = LinkBook(folder / "links.sqlite")
        self.services: list[FakeService] = []
        self.told: list[tuple[str, Any]] = []
        self.publication = Publication(
            folder / "share",
            ShareRecord("docs", "docs", [str(folder / "a.txt")], "00" * 32),
            self.book,
            lambda drive, title: Starlette(),
            FairUpload(),
            lambda event, **fields: self.told.append((event, fields.get("name"))),
        )

    async def serve_onion(self, ports: Any, *, keys: ServiceKeys, **_: Any) -> FakeService:
        await asyncio.sleep(0)  # as a real one does, which computes how many clients fit
        self.services.append(FakeService(keys))
        return self.services[-1]

    def connect(self, entry: Entry) -> None:
        """Somebody came with this link."""
        (group,) = self.publication.groups()
        group.gate._on_event("connected", link_id=entry.id, name=entry.name, streams=1)

    def let_in(self) -> set[str]:
        """The names of the links that the gates let in."""
        return {name for group in self.publication.groups() for _, name in group.gate._allowed.values()}

    async def until_changed(self, service: FakeService) -> None:
        """Wait until the service has left what somebody knew of it."""
        async with asyncio.timeout(30):
            await service.rotated.wait()


@pytest.fixture
async def share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Share]:
    monkeypatch.setattr(module, "BOOK_CHECK_SECONDS", 0.01)
    made = Share(tmp_path)
    await made.publication.prepare()
    await made.publication.start(cast(Any, made))
    yield made
    await made.publication.close()
    made.book.close()


async def test_a_link_that_ends_soon_after_it_was_made_is_closed(
    share: Share, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made after one look at the book, and over before the next."""
    now = time.time()
    entries = share.publication.mint(["alice", "bob"], expires=now + 10)
    await share.publication.grant(entries)
    await share.publication.grant(share.publication.mint(["carol"]))
    assert share.let_in() == {"alice", "bob", "carol"}
    monkeypatch.setattr(time, "time", lambda: now + 11)
    (service,) = share.services
    await share.until_changed(service)
    assert share.let_in() == {"carol"} and len(service.keys.clients) == 1
    assert share.told == [("expired", "alice"), ("expired", "bob")]


async def test_a_link_revoked_while_it_is_being_published_is_not_let_in(share: Share) -> None:
    await share.publication.grant(share.publication.mint(["alice"]))
    (service,) = share.services
    service.may_publish.clear()
    (bob,) = share.publication.mint(["bob"])
    adding = asyncio.ensure_future(share.publication.grant([bob]))
    await service.publishing.wait()
    await share.publication.revoke(bob)
    service.may_publish.set()
    await adding
    assert share.let_in() == {"alice"}
    assert len(service.keys.clients) == 1


async def test_a_link_revoked_in_the_book_alone_is_closed(share: Share) -> None:
    """By a command that found no control socket: a program shares through the Python API."""
    alice, bob = share.publication.mint(["alice", "bob"])
    await share.publication.grant([alice, bob])
    share.book.revoke(bob)
    (service,) = share.services
    await share.until_changed(service)
    assert share.let_in() == {"alice"} and len(service.keys.clients) == 1


async def test_two_commands_that_need_a_new_service_start_one(share: Share) -> None:
    """A second one with the same keys would be in no list: its links could not be revoked."""
    entries = share.publication.mint(["alice", "bob"])
    await asyncio.gather(*(share.publication.grant([entry]) for entry in entries))
    assert len(share.services) == 1
    assert share.let_in() == {"alice", "bob"}


@pytest.mark.parametrize("until", [-1e9, 0.0, 1e9, 2.0**40, float("nan")])
async def test_a_time_that_is_over_is_no_expiry(share: Share, until: float) -> None:
    with pytest.raises(ConfigError, match="over already"):
        share.publication.mint(["alice"], expires=until)
    (alice,) = share.publication.mint(["alice"])
    with pytest.raises(ConfigError, match="over already"):
        await share.publication.renew(alice, until)
    assert share.book.find("alice") == alice


async def test_links_used_at_the_same_time_are_noted_together(
    share: Share, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand readers at the door are not to make the share wait for the disk a thousand times."""
    monkeypatch.setattr(module, "USE_SECONDS", 0.0)
    entries = share.publication.mint(["alice", "bob", "carol"])
    await share.publication.grant(entries)
    written: list[set[int]] = []
    noted = asyncio.Event()

    def used(entry_ids: set[int], now: float | None = None) -> None:
        written.append(entry_ids)
        noted.set()

    monkeypatch.setattr(share.book, "used", used)
    for entry in [*entries[:2], *entries[:2]]:
        share.connect(entry)
    await noted.wait()
    assert written == [{entry.id for entry in entries[:2]}]


async def test_the_last_use_is_noted_when_a_share_ends(share: Share) -> None:
    (alice,) = share.publication.mint(["alice"])
    await share.publication.grant([alice])
    share.connect(alice)
    await share.publication.close()
    assert share.book.find("alice").last_use is not None


async def test_readers_are_served_while_the_book_can_not_be_written(
    share: Share, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The disk is full, say."""
    (alice,) = share.publication.mint(["alice"])
    await share.publication.grant([alice])

    def used(entry_ids: set[int], now: float | None = None) -> None:
        raise ConfigError("the link book can't be used: full")

    monkeypatch.setattr(share.book, "used", used)
    share.connect(alice)
    await share.publication.close()
    assert ("connected", "alice") in share.told
    assert "could not be noted" in caplog.text
