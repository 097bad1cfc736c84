"""The Python API of sharing: :func:`publish`, :func:`open_link`, and :class:`Blocking` without asyncio.

::

    async with pelure.share.publish([Path("photos")], ["alice"]) as published:
        print(published.links["alice"])

    async with pelure.open("pelure:…") as remote:
        data = await remote.drive.get("/a.jpg")
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.types import ASGIApp

from pelure.hyper.drive.drive import Drive
from pelure.share.fairness import FairUpload
from pelure.share.fetch import Fetch, Fetched
from pelure.share.gate import OnEvent
from pelure.share.link import PrivateLink
from pelure.share.linkbook import BOOK_NAME, LinkBook
from pelure.share.publication import Publication
from pelure.share.reader import CIRCUITS, RemoteDrive, open_remote
from pelure.share.received import cache_folder
from pelure.share.record import SHARES_NAME, ShareRecord, publisher_folder
from pelure.share.trust import newest
from pelure.tor.api import connect, default_state
from pelure.tor.net.statefile import StateFolder

T = TypeVar("T")


class Published:
    """A share that runs. ``links``: the private links by name."""

    def __init__(self, publication: Publication, book: LinkBook) -> None:
        live = book.live(publication.record.id)
        self.links = {entry.name: entry.link for entry in live if entry.link is not None}
        self.drive = publication.drive
        self._publication = publication
        self._book = book

    async def add(self, names: Sequence[str], *, expires: float | None = None) -> dict[str, str]:
        """Mint and publish a link for each name; ``expires``: seconds since 1970. Raises ``ConfigError``."""
        entries = self._publication.mint(names, expires=expires)
        await self._publication.grant(entries)
        await self._publication.published()
        fresh = {entry.name: entry.link for entry in entries if entry.link is not None}
        self.links.update(fresh)
        return fresh

    async def revoke(self, name: str) -> int:
        """Take a link's access away; returns how many circuits were cut. Raises ``ConfigError``."""
        cut = await self._publication.revoke(self._book.find(name, self._publication.record.id))
        self.links.pop(name, None)
        return cut


@asynccontextmanager
async def publish(
    paths: Sequence[Path],
    names: Sequence[str],
    *,
    network: str = "public",
    state: Path | None = None,
    title: str | None = None,
    live: bool = False,
    on_event: OnEvent | None = None,
) -> AsyncIterator[Published]:
    """Share ``paths`` with a private link for each name while the ``async with`` block runs.

    ``live`` takes changes over as they happen. Raises ``ConfigError``, ``DriveError``, ``DirectoryError``.
    """
    folder = publisher_folder(state or default_state(), network)
    shares = folder / SHARES_NAME
    with StateFolder(folder), LinkBook(folder / BOOK_NAME) as book:
        record = ShareRecord.of(shares, list(paths), title, live=live)
        publication = Publication(
            shares / record.id, record, book, _no_page, FairUpload(), on_event or _ignore
        )
        try:
            await publication.prepare()
            async with connect(network, state=state, role="publisher", full_vanguards=True) as tor:
                await publication.start(tor)
                published = Published(publication, book)
                await published.add([name for name in names if name not in published.links])
                try:
                    yield published
                finally:
                    await publication.close()
        finally:
            await publication.close()


def _no_page(drive: Drive, title: str) -> ASGIApp:
    """No links for browsers are minted here, so nobody sees a page."""
    return Starlette()


def _ignore(event: str, **fields: Any) -> None:
    """For callers who do not want to hear."""


@asynccontextmanager
async def open_link(
    link: str, *, network: str = "public", state: Path | None = None, circuits: int = CIRCUITS
) -> AsyncIterator[RemoteDrive]:
    """The drive that a private link opens, connected, and at its newest version.

    Raises ``LinkFormatError``, ``AccessDenied``, ``OnionServiceError``, ``DirectoryError``, ``DriveError``.
    """
    private = PrivateLink.decode(link)
    folder = state or default_state()
    async with (
        connect(network, state=folder) as tor,
        open_remote(private, tor, cache_folder(folder, private), circuits=circuits) as remote,
    ):
        await remote.connected()
        await newest(remote.drive)
        yield remote


class Blocking:
    """Runs the API for a program without asyncio, on an event loop in a thread of its own.

    ::

        with Blocking() as pelure:
            pelure.get("pelure:…", Path("photos"))
    """

    def __init__(self, *, network: str = "public", state: Path | None = None) -> None:
        self._network = network
        self._state = state
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="pelure", daemon=True)

    def __enter__(self) -> Blocking:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of any coroutine of the API."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def get(self, link: str, folder: Path, only: Sequence[str] = ()) -> Fetched:
        """Fetch what a link gives into ``folder``. Raises as :func:`open_link` and ``Fetch.run`` do."""
        return self.run(self._get(link, folder, only))

    async def _get(self, link: str, folder: Path, only: Sequence[str]) -> Fetched:
        async with open_link(link, network=self._network, state=self._state) as remote:
            return await Fetch(remote.drive, folder, only).run()

    def share(self, paths: Sequence[Path], names: Sequence[str], **options: Any) -> SharedBlocking:
        """Share ``paths``; a context manager whose value has ``links`` and ``revoke``."""
        return SharedBlocking(
            self, publish(paths, names, network=self._network, state=self._state, **options)
        )


class SharedBlocking:
    """A share run by :class:`Blocking`, for ``with``."""

    def __init__(self, runner: Blocking, manager: AbstractAsyncContextManager[Published]) -> None:
        self._runner = runner
        self._manager = manager
        self._published: Published | None = None

    def __enter__(self) -> SharedBlocking:
        self._published = self._runner.run(_enter(self._manager))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(_leave(self._manager))

    @property
    def links(self) -> dict[str, str]:
        """The private links by name."""
        assert self._published is not None, "inside `with` only"
        return self._published.links

    def revoke(self, name: str) -> int:
        """Take a link's access away; returns how many circuits were cut."""
        assert self._published is not None, "inside `with` only"
        return self._runner.run(self._published.revoke(name))


async def _enter(manager: AbstractAsyncContextManager[Published]) -> Published:
    return await manager.__aenter__()


async def _leave(manager: AbstractAsyncContextManager[Published]) -> None:
    await manager.__aexit__(None, None, None)
