"""A core: a signed append-only log of blocks, read from the disk or from peers.

:class:`Core` adds waiting to :class:`~pelure.hyper.core.state.CoreState`: what is not held here is asked for
through :attr:`Core.replicator`, which the replication puts in place while there are peers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pelure.errors import DriveError, ProtocolError
from pelure.hyper.core import conflict, exchange
from pelure.hyper.core.core_storage import CoreStorage
from pelure.hyper.core.linked import LinkedFileChanged
from pelure.hyper.core.manifest import Manifest
from pelure.hyper.core.reorg import Reorg
from pelure.hyper.core.signer import KeyPair
from pelure.hyper.core.state import CoreState
from pelure.hyper.core.tree import NotAvailable, SeekResult
from pelure.hyper.wire.messages import Data, Request

if TYPE_CHECKING:
    from pelure.hyper.core.replication.replicator import Replicator


log = logging.getLogger(__name__)


class Core(CoreState):
    """One core. ``key`` (32 bytes) identifies it; ``replicator`` is the way to peers, if there is one."""

    _replicator: Replicator | None = None

    def __init__(
        self,
        storage: CoreStorage,
        key: bytes,
        manifest: Manifest | None = None,
        key_pairs: Sequence[KeyPair] = (),
    ) -> None:
        super().__init__(storage, key, manifest, key_pairs)
        self._waiters: list[asyncio.Future[None]] = []
        self.closed = False
        self.on_change(lambda change: self._wake())

    @property
    def replicator(self) -> Replicator | None:
        """The way to peers."""
        return self._replicator

    @replicator.setter
    def replicator(self, replicator: Replicator | None) -> None:
        self._replicator = replicator
        self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def changed(self) -> None:
        """Wait for the next change of the core, or of the way to its peers.

        Raises :class:`~pelure.errors.DriveError` when the core can't be used (any more).
        """
        self.check_usable()
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter
        self.check_usable()

    def check_usable(self) -> None:
        """Raises :class:`~pelure.errors.DriveError` if the core was purged or given up."""
        if self.closed:
            raise DriveError("the core was purged")
        super().check_usable()

    def proof(self, request: Request) -> Data | None:
        """The answer to a peer's request, or ``None`` if something of it is not held.

        Raises :class:`~pelure.errors.ProtocolError` for a request that makes no sense and
        :class:`~pelure.errors.DriveError` if a block on the disk is damaged, or its linked file changed.
        """
        try:
            return exchange.answer(self, request)
        except NotAvailable:
            return None

    def verify_and_store(self, answers: Sequence[Data]) -> int:
        """Verify answers in order and store the good ones; return how many those are.

        They are durable soon after. Raises :class:`~pelure.errors.ProtocolError` if the first one is bad.
        """
        received = exchange.Received()
        count = 0
        try:
            for data in answers:
                exchange.apply(self, data, received)
                count += 1
        except ProtocolError:
            if count == 0:
                raise
        finally:
            received.finish(self)
        return count

    def check_conflict(self, data: Data) -> bool:
        """Give up the core if ``data`` proves that its writer signed another tree; whether it does.

        Raises :class:`~pelure.errors.ProtocolError` for a proof that does not verify.
        """
        if not conflict.contradicts(self, data):
            return False
        log.error("The key of core %s was used twice: it has two histories", self.discovery_key.hex())
        self.freeze(data)
        return True

    def reorg(self, data: Data) -> Reorg:
        """Begin to follow the core to a newer fork, whose tree ``data`` proves.

        Raises :class:`~pelure.errors.ProtocolError` if it does not.
        """
        return Reorg(self, data)

    async def get(self, index: int, *, wait: bool = True, timeout: float | None = None) -> bytes:
        """Block ``index``, decrypted, from the disk or from peers.

        Raises :class:`~pelure.hyper.core.tree.NotAvailable` if it is not held and ``wait`` is false or no
        peer brought it within ``timeout`` seconds; without a time-out it waits for as long as it takes.
        Raises :class:`~pelure.errors.DriveError` when the core can't be used any more.
        """
        block = self._held(index)
        if block is not None:
            return block
        if index < 0 or not wait:
            raise NotAvailable(f"block {index} is not held here")
        try:
            async with asyncio.timeout(timeout):
                return await self._fetch(index)
        except TimeoutError:
            raise NotAvailable(f"no peer sent block {index} within {timeout:g} seconds") from None

    def _held(self, index: int) -> bytes | None:
        """Block ``index`` if it is held; a reader's block in a file that has changed since is not."""
        try:
            return self.get_local(index)
        except LinkedFileChanged:
            if self.writable:
                raise
            self.clear(index, index + 1)
            return None

    async def _fetch(self, index: int) -> bytes:
        while (block := self._held(index)) is None:
            self.check_usable()
            if self._replicator is None or index >= self.length:
                await self.changed()
                continue
            self.fresh.awaited.add(index)
            try:
                await self._replicator.request_block(index)
            finally:
                self.fresh.awaited.discard(index)
        return block

    async def wait_length(self, length: int, *, wait: bool = True, timeout: float | None = None) -> None:
        """Wait until ``length`` blocks are known to exist. Raises like :meth:`get`."""
        if self.length < length:
            if not wait:
                raise NotAvailable(f"only {self.length} blocks are known here")
            try:
                async with asyncio.timeout(timeout):
                    await self._grown(length)
            except TimeoutError:
                raise NotAvailable(f"no peer told of block {length - 1}") from None

    async def _grown(self, length: int) -> None:
        while self.length < length:
            await self.changed()

    async def seek(
        self, position: int, *, wait: bool = True, timeout: float | None = None
    ) -> tuple[int, int]:
        """The block that holds byte ``position``, and the offset in it. Raises like :meth:`get`."""
        found = self.find(position)
        if not found.found:
            if not wait:
                raise NotAvailable(f"it is not known here which block holds byte {position}")
            try:
                async with asyncio.timeout(timeout):
                    found = await self._fetch_seek(position)
            except TimeoutError:
                raise NotAvailable(f"no peer told which block holds byte {position}") from None
        return found.start, found.offset

    async def _fetch_seek(self, position: int) -> SeekResult:
        while not (found := self.find(position)).found:
            self.check_usable()
            if self._replicator is None:
                await self.changed()
            else:
                await self._replicator.request_seek(position)
        return found

    async def update(self, *, wait: bool = False, timeout: float | None = None) -> bool:
        """Ask the peers for a newer tree; return whether the core changed.

        With ``wait`` and no peers yet, wait for the first; a writer never waits. Raises
        :class:`~pelure.errors.DriveError` if the core can't be used any more.
        """
        self.check_usable()
        if self.writable:
            return False
        before = (self.fork, self.length)
        try:
            async with asyncio.timeout(timeout):
                await self._fetch_upgrade(wait)
        except TimeoutError:
            pass
        return (self.fork, self.length) != before

    async def _fetch_upgrade(self, wait: bool) -> None:
        while self._replicator is None:
            if not wait:
                return
            await self.changed()
        await self._replicator.request_upgrade()
        self.check_usable()

    async def download(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Fetch all blocks of the ``(start, end)`` ranges that are not held; they are durable on return."""
        wanted = [(start, end) for start, end in ranges if start < end]
        while any(self.bitfield.first_unset(start) < end for start, end in wanted):
            self.check_usable()
            if self._replicator is None:
                await self.changed()
            else:
                await self._replicator.request_download(wanted)
        self.storage.store.commit()

    def purge(self) -> None:
        """Delete the core from the store, for good; it can't be used any more."""
        self.closed = True
        if self._replicator is not None:
            self._replicator.close()
            self._replicator = None
        self.make_durable()  # so that nothing of it waits to be written
        self.storage.purge()
        self._wake()

    def snapshot(self, length: int | None = None) -> Snapshot:
        """The first ``length`` blocks (by default all) as they are now."""
        return Snapshot(self, self.length if length is None else length)


class Snapshot:
    """A core at a fixed length and fork."""

    def __init__(self, core: Core, length: int) -> None:
        self.core = core
        self.length = length
        self.fork = core.fork

    async def get(self, index: int, *, wait: bool = True, timeout: float | None = None) -> bytes:
        """Like :meth:`Core.get`; raises ``NotAvailable`` too if the core was cut below this length since."""
        self.core.check_version(self.fork, self.length)
        if index >= self.length:
            raise NotAvailable(f"block {index} is not part of version {self.length}")
        return await self.core.get(index, wait=wait, timeout=timeout)
