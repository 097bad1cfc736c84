"""The pelure process that publishes: one connection to a network, one link book, its shares.

It owns the publisher's folder (a lock) and answers the control socket there, so that commands work the same
whether it runs in front of them (``pelure share``) or in the background (``pelure daemon``).
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pelure.errors import ConfigError, PelureError
from pelure.share.control import ControlServer, Emit
from pelure.share.describing import describe_shares, link_fields
from pelure.share.fairness import FairUpload
from pelure.share.followers import Followers
from pelure.share.link import printable
from pelure.share.linkbook import BOOK_NAME, Entry, LinkBook
from pelure.share.publication import MakePage, Publication
from pelure.share.record import SHARES_NAME, ShareRecord, load_all, publisher_folder
from pelure.share.rendezvous_groups import SERVICES_NAME, wipe_service
from pelure.tor.api import Tor, connect
from pelure.tor.client.network_client import Progress
from pelure.tor.net.statefile import StateFolder
from pelure.tor.net.wallclock import sleep_until

PROGRESS_SECONDS = 0.25
log = logging.getLogger(__name__)


class Node:
    """See the module; :func:`run_node` makes one."""

    def __init__(self, folder: Path, tor: Tor, book: LinkBook, make_page: MakePage) -> None:
        self.book = book
        self.followers = Followers()
        self._folder = folder
        self._tor = tor
        self._make_page = make_page
        self._upload = FairUpload()
        self._running: dict[str, Publication] = {}
        self._timers: dict[str, asyncio.Task[None]] = {}
        operations = {
            "share": self._op_share,
            "share-update": self._op_update,
            "stop": self._op_stop,
            "shares": self._op_shares,
            "link-add": self._op_add,
            "link-revoke": self._op_revoke,
            "link-renew": self._op_renew,
            "status": self._op_status,
        }
        self._control = ControlServer(folder, operations)

    async def start(self) -> None:
        """Answer the control socket, and resume the shares that were left to run in the background."""
        await self._control.start()
        for record in load_all(self._folder / SHARES_NAME).values():
            if record.detached:
                self._timers[record.id] = asyncio.ensure_future(self._resume(record))

    async def close(self) -> None:
        """End all shares; they stay on disk."""
        await self._control.close()
        for task in self._timers.values():
            task.cancel()
        await asyncio.gather(*self._timers.values(), return_exceptions=True)
        await asyncio.gather(*(publication.close() for publication in self._running.values()))

    # ---- shares ----

    async def open_share(self, record: ShareRecord, emit: Emit) -> Publication:
        """Import and start a share. Raises ``ConfigError``, ``DriveError``."""
        if record.id in self._running:
            raise ConfigError(f"the share «{record.id}» is running already")
        publication = Publication(
            self._folder / SHARES_NAME / record.id,
            record,
            self.book,
            self._make_page,
            self._upload,
            self.followers.tell,
        )
        try:
            await self._prepare(publication, emit)
            await publication.start(self._tor)
        except BaseException:
            await publication.close()
            raise
        self._running[record.id] = publication
        return publication

    async def _prepare(self, publication: Publication, emit: Emit) -> None:
        """Import, telling now and then how far it is."""
        state = (0, 0)

        def progress(done: int, total: int) -> None:
            nonlocal state
            state = done, total

        importing = asyncio.ensure_future(publication.prepare(progress))
        try:
            while not (await asyncio.wait({importing}, timeout=PROGRESS_SECONDS))[0]:
                await emit("progress", what="import", done=state[0], total=state[1])
            importing.result()
        finally:
            importing.cancel()

    async def close_share(self, share: str, *, forget: bool) -> None:
        """End a share; with ``forget`` delete its keys, drive and links too (never the shared files)."""
        publication = self._running.pop(share, None)
        if publication is not None:
            await publication.close()
        if forget:
            self.book.forget_share(share)
            await asyncio.to_thread(shutil.rmtree, self._folder / SHARES_NAME / share, True)

    def _leave(self, share: str) -> None:
        """Let the next node begin without the share: it was ended, or has ended by itself."""
        folder = self._folder / SHARES_NAME / share
        replace(ShareRecord.load(folder), detached=False).save(folder)

    async def _resume(self, record: ShareRecord) -> None:
        if record.stop_at is not None and record.stop_at <= time.time():
            self._leave(record.id)
            return
        try:
            await self._run_share(record, _silent)
        except (PelureError, OSError) as error:
            log.warning("The share «%s» could not be resumed: %s", record.id, error)

    async def _run_share(
        self,
        record: ShareRecord,
        emit: Emit,
        mint: Callable[[Publication], Awaitable[None]] | None = None,
        announced: asyncio.Event | None = None,
    ) -> None:
        """Run a share within its times, until it is over: cancelled, complete (``once``) or too late.

        Its links are made, and the share is on disk, before it is time to begin. ``announced`` is set once
        nothing is left to be told at once.
        """
        publication = await self.open_share(record, emit)
        try:
            if mint is not None:
                await mint(publication)
            if record.start_at is not None and publication.waits:
                await emit("waiting", share=record.id, until=record.start_at)
                if announced is not None:
                    announced.set()
                await sleep_until(record.start_at)
                await publication.update()
            await publication.grant(self.book.live(record.id))
            addresses = await publication.published()
            for address in addresses:
                await emit("published", share=record.id, address=address)
            if announced is not None:
                announced.set()
            await _until_over(publication)
            log.info("The share «%s» has ended", record.id)
            self._leave(record.id)
        finally:
            if self._running.get(record.id) is publication:
                await self.close_share(record.id, forget=False)

    # ---- operations of the control socket ----

    async def _op_share(self, asked: dict[str, Any], emit: Emit) -> dict[str, Any]:
        shares = self._folder / SHARES_NAME
        names = [str(name) for name in asked["names"]]
        browser, expires = bool(asked["browser"]), asked["expires"]
        record = self._find_or_make(shares, asked)
        existing = {entry.name for entry in self.book.live(record.id)}
        fresh = [name for name in names if name not in existing]
        entries: list[Entry] = []

        async def mint(publication: Publication) -> None:
            publication.mint(fresh, expires=expires, browser=browser)
            entries.extend(self.book.find(name, record.id) for name in names)
            for entry in entries:
                await emit("link", share=record.id, **link_fields(entry))
                if entry.name in existing and (expires, browser) != (None, False):
                    await emit("kept", share=record.id, name=entry.name, expires=entry.expires)

        announced, over = asyncio.Event(), asyncio.Event()
        follow = asyncio.ensure_future(self.followers.follow(record.id, emit, over))
        run = asyncio.ensure_future(self._run_share(record, self._teller(record.id), mint, announced))
        self._timers[record.id] = run
        published = asyncio.ensure_future(announced.wait())
        try:
            # A share in the background goes on when its command ends; `pelure unshare` cancels any.
            await asyncio.wait(
                {run, published} if record.detached else {run}, return_when=asyncio.FIRST_COMPLETED
            )
            if run.done() and not run.cancelled():
                run.result()
        finally:
            published.cancel()
            if not record.detached:
                run.cancel()
                await asyncio.gather(run, return_exceptions=True)
            over.set()
            await asyncio.gather(follow, return_exceptions=True)
        return {"share": record.id, "links": len(entries)}

    def _teller(self, share: str) -> Emit:
        async def tell(event: str, **fields: Any) -> None:
            self.followers.tell(event, **{"share": share, **fields})

        return tell

    def _find_or_make(self, shares: Path, asked: dict[str, Any]) -> ShareRecord:
        """The share of these paths, with the settings asked for."""
        settings = {key: asked[key] for key in ("live", "once", "detached", "start_at", "stop_at")}
        record = ShareRecord.of(shares, [Path(path) for path in asked["paths"]], asked["title"], **settings)
        timer = self._timers.get(record.id)
        if record.id in self._running or (timer is not None and not timer.done()):
            raise ConfigError(
                f"this is shared already, as «{record.id}»; "
                f"for more links: pelure link add --share {record.id} NAME"
            )
        return record

    async def _op_stop(self, asked: dict[str, Any], emit: Emit) -> dict[str, Any]:
        share = self._known(asked["share"])
        timer = self._timers.pop(share, None)
        if timer is not None:
            timer.cancel()
            await asyncio.gather(timer, return_exceptions=True)
        await self.close_share(share, forget=bool(asked["forget"]))
        if not asked["forget"]:
            self._leave(share)
        return {"share": share}

    async def _op_update(self, asked: dict[str, Any], emit: Emit) -> dict[str, Any]:
        share = self._known(asked["share"])
        await self._need_running(share).update()
        return {"share": share}

    async def _op_shares(self, asked: dict[str, Any], emit: Emit) -> dict[str, Any]:
        return {"shares": self.shares()}

    def shares(self) -> list[dict[str, Any]]:
        """All shares: what they are, whether they run, how many links are live."""
        return describe_shares(self._folder, self.book, set(self._running))

    async def _op_add(self, asked: dict[str, Any], emit: Emit) -> dict[str, Any]:
        share = self._known(asked["share"])
        publication = self._need_running(share)
        entries = publication.mint(asked["names"], expires=asked["expires"], browser=bool(asked["browser"]))
        for entry in entries:
            await emit("link", share=share, **link_fields(entry))
        if publication.waits:
            await emit("waiting", share=share, until=publication.record.start_at)
        await publication.grant(entries)
        for address in await publication.published():
            await emit("published", share=share, address=address)
        return {"share": share, "links": len(entries)}

    async def _op_revoke(self, asked: dict[str, Any], emit: Emit) -> dict[str, Any]:
        entry = self.book.find_minted(asked["name"], asked["share"])
        cut = 0
        if entry.share in self._running:
            cut = await self._running[entry.share].revoke(entry)
        else:
            self.book.revoke(entry)
            wipe_service(self._folder / SHARES_NAME / entry.share / SERVICES_NAME, entry.service)
        self.followers.tell("revoked", share=entry.share, name=entry.name, cut=cut)
        return {"name": entry.name, "share": entry.share, "cut": cut}

    async def _op_renew(self, asked: dict[str, Any], emit: Emit) -> dict[str, Any]:
        entry = self.book.find_minted(asked["name"], asked["share"])
        if entry.share not in self._running:
            raise ConfigError(f"the share «{entry.share}» is not running")
        renewed = await self._running[entry.share].renew(entry, asked["expires"])
        return link_fields(renewed)

    async def _op_status(self, asked: dict[str, Any], emit: Emit) -> dict[str, Any]:
        visitors = [
            {
                "share": share,
                "name": visitor.name,
                "circuit": visitor.circuit,
                "since": visitor.since,
                "sent": visitor.sent,
            }
            for share, publication in self._running.items()
            for group in publication.groups()
            for visitor in group.gate.visitors()
        ]
        services = [
            {
                "share": share,
                "service": group.name,
                "address": group.service.address,
                "links": len(group.links),
                "circuits": [asdict(connection) for connection in group.service.connections()],
            }
            for share, publication in self._running.items()
            for group in publication.groups()
        ]
        return {"pid": os.getpid(), "visitors": visitors, "services": services, **asdict(self._tor.status())}

    def _known(self, share: str | None) -> str:
        shares = load_all(self._folder / SHARES_NAME)
        if share is None:
            candidates = list(self._running) or list(shares)
            if len(candidates) != 1:
                raise ConfigError("say which share with --share; see `pelure shares`")
            return candidates[0]
        if share not in shares:
            raise ConfigError(f"there is no share «{printable(share)}»; see `pelure shares`")
        return share

    def _need_running(self, share: str) -> Publication:
        if share not in self._running:
            raise ConfigError(f"the share «{share}» is not running")
        return self._running[share]


async def _until_over(publication: Publication) -> None:
    """Return when somebody has all of it (``once``), or at the time when the share is to stop.

    Raises ``ConflictError`` when the drive can't be trusted any more.
    """
    record = publication.record
    complete = publication.completed if record.once else asyncio.Event()
    ends: list[asyncio.Future[Any]] = [
        asyncio.ensure_future(complete.wait()),
        asyncio.ensure_future(publication.given_up.wait()),
    ]
    if record.stop_at is not None:
        ends.append(asyncio.ensure_future(sleep_until(record.stop_at)))
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for end in ends:
            end.cancel()
    if publication.given_up.is_set():
        publication.drive.core.check_usable()
        (await publication.drive.blobs()).core.check_usable()


async def _silent(event: str, **fields: Any) -> None:
    """An ``Emit`` for nobody."""


@asynccontextmanager
async def run_node(
    network: str, state: Path, make_page: MakePage, progress: Progress | None = None
) -> AsyncIterator[Node]:
    """Connect to ``network`` and run a node in its publisher's folder below ``state``.

    Raises ``ConfigError`` if another process runs there already, ``DirectoryError``.
    """
    folder = publisher_folder(state, network)
    with StateFolder(folder), LinkBook(folder / BOOK_NAME) as book:
        async with connect(
            network, state=state, role="publisher", progress=progress, full_vanguards=True
        ) as tor:
            node = Node(folder, tor, book, make_page)
            try:
                await node.start()
                yield node
            finally:
                await node.close()
