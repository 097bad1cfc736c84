"""A shared drive at its reader: several onion circuits, one replication on each, one drive.

Blocks are asked for where they come fastest (the replication's affair) and each is verified. A circuit that
breaks is replaced, ever more slowly while the publisher is away; what was fetched stays in the cache.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pelure.errors import AccessDenied, ConfigError, ConflictError, OnionServiceError, PelureError
from pelure.hyper.core.corestore import Corestore
from pelure.hyper.core.replication.stream import Crowded, Replication
from pelure.hyper.core.storage import StoreInUse
from pelure.hyper.drive.drive import Drive
from pelure.share.link import DEFAULT_PORT, PrivateLink
from pelure.share.trust import watch_conflicts
from pelure.tor.api import Tor
from pelure.tor.net.statefile import private_folder

CIRCUITS = 4
RETRY_FIRST, RETRY_MAX = 0.5, 30.0
OPEN_SECONDS = 120.0
MAX_CACHES = 9
_NEED_CLIENT_KEY = frozenset({0xF4, 0xF5})
"""Codes of proposal 304 for a descriptor that the link's key does not open."""
REFUSED = "the publisher does not accept this link: it was revoked or has expired"
CROWDED = (
    "this link has as many connections open as one link may: end other readers of it, use fewer circuits, "
    "or ask for a link of your own"
)

log = logging.getLogger(__name__)


class RemoteDrive:
    """See the module; open one with :func:`open_remote`."""

    def __init__(self, link: PrivateLink, tor: Tor, store: Corestore, circuits: int) -> None:
        self.link = link
        self.drive = Drive(store, link.drive_key, encryption_key=link.content_key)
        self.drive.local_blobs()  # opened here, with its key, before a peer's request opens it without
        self.open_circuits = 0
        self.last_error: PelureError | OSError | None = None
        self.on_conflict: Callable[[ConflictError], None] = lambda error: None
        """Called when it comes to light that the drive can't be trusted any more."""
        self._tor = tor
        self._store = store
        self._further = range(1, circuits)
        """The circuits that are opened once the publisher is reached."""
        self._token = os.urandom(8)
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[Any]] = []
        self._replications: set[Replication] = set()

    @property
    def bytes_read(self) -> int:
        """Bytes received on the circuits that are open now."""
        return sum(replication.bytes_read for replication in self._replications)

    def start(self) -> None:
        """Begin to connect: the first circuit at once, the others when it has reached the publisher.

        What tells where the contents are is asked for together with the first path; all but a listing need
        both, and each costs a round trip.
        """
        watch_conflicts(self.drive.core, lambda error: self.on_conflict(error))
        self._tasks = [asyncio.ensure_future(job) for job in (self._keep_open(0), self._find_contents())]

    async def _find_contents(self) -> None:
        blobs = await self.drive.blobs()
        watch_conflicts(blobs.core, lambda error: self.on_conflict(error))

    async def connected(self, timeout: float = OPEN_SECONDS) -> None:
        """Wait until one circuit is let in.

        Raises ``AccessDenied`` if the publisher refuses this link, ``Crowded`` if it serves as many circuits
        of it as it will, ``OnionServiceError`` if nobody could be reached within ``timeout`` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                while not self.open_circuits:
                    if isinstance(self.last_error, AccessDenied):
                        raise self.last_error
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            if isinstance(self.last_error, Crowded):
                raise self.last_error from None
            raise OnionServiceError(
                f"the publisher could not be reached: {self.last_error or 'no answer'}; "
                "ask whether the share is running, then try again"
            ) from None

    async def close(self) -> None:
        """End all circuits."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep_open(self, number: int) -> None:
        delay = RETRY_FIRST
        while True:
            try:
                await self._run_once(number)
                delay = RETRY_FIRST
            except (PelureError, OSError) as error:
                log.info("Circuit %d to the publisher: %s", number, error)
                self.last_error = _explained(error)
                self._changed.set()
            await asyncio.sleep(delay * random.uniform(0.5, 1.5))
            delay = min(delay * 2, RETRY_MAX)

    async def _run_once(self, number: int) -> None:
        stream = await self._tor.open_stream(
            self.link.address, DEFAULT_PORT, isolation=("link", self._token, number)
        )
        further, self._further = self._further, range(0)
        self._tasks += [asyncio.ensure_future(self._keep_open(other)) for other in further]
        async with Replication(stream, True, self._store, self.link.identity) as replication:
            await replication.opened()
            await replication.accepted()
            self._replications.add(replication)
            self.open_circuits += 1
            self.last_error = None
            self._changed.set()
            try:
                error = await replication.wait_closed()
            finally:
                self.open_circuits -= 1
                self._replications.discard(replication)
            if error is not None and isinstance(error, PelureError | OSError):
                raise error


def _explained(error: PelureError | OSError) -> PelureError | OSError:
    if isinstance(error, Crowded):
        return Crowded(CROWDED)
    refused = isinstance(error, AccessDenied) or getattr(error, "code", None) in _NEED_CLIENT_KEY
    return AccessDenied(REFUSED) if refused else error


def _open_cache(cache: Path) -> Corestore:
    """The store in ``cache``; one beside it if another command reads the same drive just now."""
    for number in range(1, MAX_CACHES):
        try:
            return Corestore(
                private_folder(cache if number == 1 else cache.with_name(f"{cache.name}-{number}"))
            )
        except StoreInUse:
            log.info("The cache %d of this drive is in use", number)
    raise ConfigError("too many commands read this share at once; end one of them")


def check_date(link: PrivateLink) -> None:
    """Raises ``AccessDenied`` for a link that has expired."""
    if link.expired():
        raise AccessDenied("this link has expired: ask for a new one")


@asynccontextmanager
async def open_remote(
    link: PrivateLink,
    tor: Tor,
    cache: Path,
    *,
    circuits: int = CIRCUITS,
) -> AsyncIterator[RemoteDrive]:
    """Open the drive of ``link``; ``cache`` is the folder where fetched blocks are kept between runs.

    Raises ``AccessDenied`` for a link that has expired, and what :meth:`RemoteDrive.connected` raises once
    that is awaited.
    """
    check_date(link)
    tor.add_client_key(link.address, link.discovery_secret)
    store = _open_cache(cache)
    remote = RemoteDrive(link, tor, store, circuits)
    remote.start()
    try:
        yield remote
    finally:
        await remote.close()
        store.close()
