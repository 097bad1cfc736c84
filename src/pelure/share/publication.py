"""One share while it runs: its drive, its onion services, its links.

The drive is imported once and kept up to date from the shared paths; links are minted, renewed and revoked
while it runs. Everything it tells goes through ``on_event``.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from pelure.errors import ConfigError, ConflictError
from pelure.hyper.core.corestore import Corestore
from pelure.hyper.drive.drive import Drive
from pelure.share.contents import Contents
from pelure.share.fairness import FairUpload
from pelure.share.gate import OnEvent
from pelure.share.importing import Importer, Progress
from pelure.share.link import MAX_EXPIRY, SECRET_SIZE, PrivateLink
from pelure.share.linkbook import Entry, LinkBook
from pelure.share.record import ShareRecord
from pelure.share.rendezvous_groups import SERVICES_NAME, Group, RendezvousGroups
from pelure.share.trust import watch_conflicts
from pelure.tor.api import Tor
from pelure.tor.net.supervision import supervised
from pelure.tor.service.app_server import AppServer

log = logging.getLogger(__name__)

MakePage = Callable[[Drive, str], ASGIApp]
"""Makes the web page of a drive with a title."""
BOOK_CHECK_SECONDS = 30.0
USE_SECONDS = 1.0
"""Links that are used within so long are noted in the book together: each writing waits for the disk."""


class Publication:
    """See the module. :meth:`prepare`, then :meth:`start`, in the end :meth:`close`."""

    def __init__(
        self,
        folder: Path,
        record: ShareRecord,
        book: LinkBook,
        make_page: MakePage,
        upload: FairUpload,
        on_event: OnEvent,
    ) -> None:
        self.record = record
        self._folder = folder
        self._book = book
        self._make_page = make_page
        self._upload = upload
        self._on_event = on_event
        self._store = Corestore(folder / "store")
        content_key = bytes.fromhex(record.content_key)
        self.drive = Drive(self._store, encryption_key=content_key)
        self._importer = Importer(self.drive, [Path(path) for path in record.paths], self._problem)
        self._page: AppServer | None = None
        self._groups: RendezvousGroups | None = None
        self._tasks: list[asyncio.Task[Any]] = []
        self._used: set[int] = set()
        """Links whose use is still to be noted."""
        self.completed = asyncio.Event()
        self.given_up = asyncio.Event()
        """Set when it comes to light that the drive can't be trusted any more: nobody is served then."""

    async def prepare(self, progress: Progress | None = None) -> None:
        """Bring the drive up to date with the shared paths. Raises ``ConfigError``, ``DriveError``."""
        await self._importer.update(progress)
        blobs = await self.drive.blobs()  # opened with its key, before a peer's request opens it without
        for core in (self.drive.core, blobs.core):
            core.check_usable()
            watch_conflicts(core, self._give_up)
        if self.record.drive_key != self.drive.key.hex():
            self.record.drive_key = self.drive.key.hex()
        self.record.save(self._folder)

    def _give_up(self, error: ConflictError) -> None:
        if not self.given_up.is_set():
            self.given_up.set()
            log.error("The share «%s» has come to its end: %s", self.record.id, error)
            self._on_event("conflict", share=self.record.id, reason=str(error))

    async def update(self) -> None:
        """Take over now what has changed in the shared paths, unless they are watched anyway.

        Raises as :meth:`prepare` does.
        """
        if not self.record.live:
            await self._importer.update(on_change=self._changed)

    @property
    def waits(self) -> bool:
        """Whether the time when the share is to begin is yet to come."""
        return self.record.start_at is not None and time.time() < self.record.start_at

    # ---- links ----

    def mint(
        self, names: Sequence[str], *, expires: float | None = None, browser: bool = False
    ) -> list[Entry]:
        """Make a link for each name and write them into the book, all or none; :meth:`grant` opens them.

        Raises ``ConfigError`` for a name that is in use or can't be one, and for a time that is over.
        """
        until = _whole_seconds(expires)
        if len(set(names)) < len(names):
            raise ConfigError("a name is given twice")
        groups = self._need_groups()
        live = self._book.live(self.record.id)
        fresh: list[Entry] = []
        for name in names:
            service = groups.place([*live, *fresh], browser)
            link = PrivateLink(
                onion_key=groups.keys_for(service).identity.public,
                drive_key=self.drive.key,
                content_key=bytes.fromhex(self.record.content_key),
                secret=secrets.token_bytes(SECRET_SIZE),
                expires=until,
                title=self.record.title,
            )
            fresh.append(
                Entry(
                    id=0,
                    share=self.record.id,
                    name=name,
                    link=link.encode(),
                    browser=browser,
                    service=service,
                    created=time.time(),
                    expires=link.expires,
                )
            )
        self._book.add(fresh)
        return [self._book.find(name, self.record.id) for name in names]

    async def grant(self, entries: Sequence[Entry]) -> None:
        """Let these links in, publishing what that takes; those that were revoked meanwhile are out again.

        Nobody is let in before it is time.
        """
        if self.waits:
            return
        await self._need_groups().open(entries)
        await self._close_ended()

    async def revoke(self, entry: Entry) -> int:
        """Take all access from a link at once and wipe it; return how many circuits were cut."""
        cut = self._need_groups().cut(entry.id)
        self._book.revoke(entry)
        await self._need_groups().close_links([entry.id])
        self._need_groups().wipe(entry.service)
        return cut

    async def renew(self, entry: Entry, expires: float | None) -> Entry:
        """Give a link another expiry; the link's own text changes with it, its keys stay.

        Raises ``ConfigError`` for a time that is over.
        """
        link = replace(entry.private_link(), expires=_whole_seconds(expires))
        renewed = self._book.change(entry, link=link.encode(), expires=link.expires)
        if entry.state() == "expired" and renewed.state() == "live":
            await self.grant([renewed])
        return renewed

    # ---- life ----

    async def start(self, tor: Tor) -> None:
        """Serve the live links of the book. Returns at once; :meth:`published` waits."""
        self._groups = RendezvousGroups(
            self._folder / SERVICES_NAME,
            tor,
            Contents(self.drive),
            self._page_socket,
            self._upload,
            self._tell,
        )
        jobs = [supervised(self._watch_book, "the watch on the link book")]
        if self.record.live:
            jobs.append(supervised(self._follow, "the watch on the shared folder"))
        self._tasks += [asyncio.ensure_future(job) for job in jobs]
        await self.grant(self._book.live(self.record.id))

    async def published(self) -> list[str]:
        """Wait until all services are on their directories; return their addresses."""
        return await self._need_groups().published()

    def groups(self) -> list[Group]:
        """The services that run."""
        return [] if self._groups is None else self._groups.groups()

    async def close(self) -> None:
        """End the services and close the drive."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._groups is not None:
            await self._groups.close()
        self._note_use()
        if self._page is not None:
            await self._page.close()
        self._store.close()

    # ---- inside ----

    def _need_groups(self) -> RendezvousGroups:
        if self._groups is None:
            raise ConfigError(f"the share «{self.record.id}» is not running")
        return self._groups

    async def _page_socket(self) -> Path:
        if self._page is None:
            self._page = AppServer(self._make_page(self.drive, self.record.title))
            await self._page.start()
        return self._page.socket_path

    def _tell(self, event: str, **fields: Any) -> None:
        if event == "connected":
            if not self._used:
                asyncio.get_running_loop().call_later(USE_SECONDS, self._note_use)
            self._used.add(fields["link_id"])
        if event == "transfer" and fields["complete"]:
            self.completed.set()
        self._on_event(event, share=self.record.id, **fields)

    def _note_use(self) -> None:
        """Write down which links were used; readers are served also if that can't be done."""
        used, self._used = self._used, set()
        if used:
            try:
                self._book.used(used)
            except ConfigError as error:
                log.warning("When links were used last could not be noted: %s", error)

    async def _follow(self) -> None:
        await self._importer.follow(self._changed)

    def _problem(self, path: str, reason: str) -> None:
        log.info("%s is not shared: %s", path, reason)
        self._on_event("problem", share=self.record.id, path=path, reason=reason)

    def _changed(self, op: str, path: str) -> None:
        self._on_event("changed", share=self.record.id, op=op, path=path)

    async def _watch_book(self) -> None:
        """Cut off those whose time is over, or whom a command without this node has revoked."""
        while True:
            await self._close_ended()
            await asyncio.sleep(BOOK_CHECK_SECONDS)

    async def _close_ended(self) -> None:
        """Take access from links that have it and are not live in the book; expired ones can be renewed."""
        groups = self._need_groups()
        entries = {entry.id: entry for entry in self._book.entries(self.record.id)}
        live = {entry.id for entry in entries.values() if entry.state() == "live"}
        ended = [link_id for link_id in groups.open_links() if link_id not in live]
        expired = {i: entries[i].name for i in ended if i in entries and entries[i].revoked is None}
        for name in expired.values():
            log.info("Link «%s» has expired", name)
            self._on_event("expired", share=self.record.id, name=name)
        await groups.close_links(ended, renewable=expired)


def _whole_seconds(expires: float | None) -> int | None:
    """The time until which a link is good, as links hold it. Raises ``ConfigError`` for one that is over."""
    if expires is None:
        return None
    if not time.time() < expires < MAX_EXPIRY:
        raise ConfigError(
            "the time until which a link is to be good is over already (or no date); "
            "to end a link now: pelure link revoke"
        )
    return int(expires)
