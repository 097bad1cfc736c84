"""Hyperbee: an ordered key-value store, with its whole history, in an append-only core (HYPER-FACTS §14).

What is held here is read without waiting; blocks that are not are asked of peers. All views of one core
(:meth:`Bee.sub`, :meth:`Bee.checkout`) share one cache and one lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from pelure.errors import DriveError, ProtocolError
from pelure.hyper.bee.blocks import BlockCache, BlocksMissing
from pelure.hyper.bee.editor import Editor
from pelure.hyper.bee.messages import Block, Header
from pelure.hyper.bee.versions import WholeVersions
from pelure.hyper.bee.walk import DiffCursor, Range, RangeCursor, lookup
from pelure.hyper.core.core import Core
from pelure.hyper.core.tree import NotAvailable

_T = TypeVar("_T")
_STEPS_WITHOUT_PAUSE = 256
_KEPT_EDITS = 32_768
_FETCH_AHEAD = 64
_FETCH_AHEAD_MAX = 1024
"""Blocks asked for with a missing one; who goes on through a range asks for twice as many each time."""
_LONGEST_BATCH = 50_000
_EVERYTHING = Range()


@dataclass(frozen=True, slots=True)
class Entry:
    """A key and its value (``None`` only for a put without one), from block ``seq``."""

    seq: int
    key: bytes
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Event:
    """One step of the history: ``entry`` was put, or its key ``deleted``."""

    entry: Entry
    deleted: bool


@dataclass(frozen=True, slots=True)
class Difference:
    """A key that differs between two versions; ``None`` where it does not exist."""

    left: Entry | None
    right: Entry | None


@dataclass(slots=True)
class _Shared:
    """What all views of a core share; ``editor`` is kept between puts while it fits the core."""

    core: Core
    header: Header
    blocks: BlockCache
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    editor: Editor | None = None
    editor_fork: int = 0
    edits: int = 0


class Bee:
    """A view of a Hyperbee: of the whole or of a sub-database, of the newest or of a fixed version."""

    def __init__(self, core: Core, header: Header | None = None) -> None:
        """``header`` is what an empty core will begin with."""
        self._shared = _Shared(core, header or Header(), BlockCache(core))
        self._prefix = b""
        self._version: int | None = None
        self._fork: int | None = None

    def _view(self, prefix: bytes, version: int | None, fork: int | None) -> Bee:
        view = Bee.__new__(Bee)
        view._shared, view._prefix, view._version, view._fork = self._shared, prefix, version, fork
        return view

    def sub(self, name: bytes) -> Bee:
        """The sub-database ``name``."""
        return self._view(self._prefix + name + b"\0", self._version, self._fork)

    def checkout(self, version: int) -> Bee:
        """The state as of ``version``, read-only."""
        return self._view(self._prefix, max(version, 1), self.core.fork)

    def snapshot(self) -> Bee:
        """The state as it is now, read-only."""
        return self if self._version is not None else self.checkout(self.version)

    @property
    def core(self) -> Core:
        """The core underneath."""
        return self._shared.core

    @property
    def version(self) -> int:
        """Blocks that make up this state, the header included; at least 1."""
        return max(self.core.length, 1) if self._version is None else self._version

    @property
    def writable(self) -> bool:
        """Whether keys can be put and deleted."""
        return self._version is None and self.core.writable

    async def header(self, *, wait: bool = True, timeout: float | None = None) -> Header:
        """Block 0. Raises ``NotAvailable``, or ``ProtocolError`` if the core holds something else."""
        return Header.decode(await self.core.get(0, wait=wait, timeout=timeout))

    def _check(self) -> None:
        if self._fork is not None:
            self.core.check_version(self._fork, self.version)

    async def _retry(self, step: Callable[[], _T], wait: bool, timeout: float | None, ahead: int = 0) -> _T:
        """Do ``step``, fetching the blocks it lacks until it succeeds."""
        while True:
            self._check()
            try:
                return step()
            except BlocksMissing as missing:
                if not wait:
                    raise
                await self._fetch(missing.indexes, timeout, ahead)

    async def _fetch(self, indexes: list[int], timeout: float | None, ahead: int) -> None:
        core = self.core
        wanted = set(indexes)
        for index in indexes if ahead else ():
            end = min(index + ahead, core.length)
            wanted.update(other for other in range(index, end) if not core.has(other))
        ahead_tasks = [
            asyncio.ensure_future(core.get(index, timeout=timeout)) for index in sorted(wanted - set(indexes))
        ]
        try:
            await asyncio.gather(*(core.get(index, timeout=timeout) for index in indexes))
            await asyncio.gather(*ahead_tasks, return_exceptions=True)
        finally:
            for task in ahead_tasks:
                task.cancel()

    def _entry(self, block: Block) -> Entry:
        return Entry(block.seq, block.key[len(self._prefix) :], block.value)

    def get_local(self, key: bytes) -> Entry | None:
        """The entry of ``key``, without asking peers. Raises ``NotAvailable`` if that can't be told."""
        self._check()
        block = lookup(self._shared.blocks, self.version, self._prefix + key)
        return self._entry(block) if block is not None else None

    async def get(self, key: bytes, *, wait: bool = True, timeout: float | None = None) -> Entry | None:
        """The entry of ``key``. Raises ``NotAvailable`` if it can't be told here or in time."""
        return await self._retry(lambda: self.get_local(key), wait, timeout)

    async def range(
        self,
        bounds: Range = _EVERYTHING,
        *,
        reverse: bool = False,
        limit: int | None = None,
        wait: bool = True,
        timeout: float | None = None,
    ) -> AsyncIterator[Entry]:
        """The entries of a range in order of their keys, of the version there is at the first step."""
        view = self.snapshot()
        cursor = RangeCursor(self._shared.blocks, view.version, bounds.under(self._prefix), reverse)
        count, ahead = 0, _FETCH_AHEAD
        while limit is None or count < limit:
            try:
                block = cursor.next()
            except BlocksMissing:
                block = await view._retry(cursor.next, wait, timeout, ahead)
                ahead = min(2 * ahead, _FETCH_AHEAD_MAX)
            if block is None:
                return
            count += 1
            if count % _STEPS_WITHOUT_PAUSE == 0:
                view._check()
                await asyncio.sleep(0)
            yield self._entry(block)

    async def history(
        self, start: int = 1, end: int | None = None, *, reverse: bool = False, wait: bool = True
    ) -> AsyncIterator[Event]:
        """What was put and deleted by the blocks ``start`` to ``end`` (exclusive, default: this version)."""
        view = self.snapshot()
        last = view.version if end is None else min(end, view.version)
        numbers: Iterable[int] = range(max(start, 1), last)
        for count, seq in enumerate(reversed(range(max(start, 1), last)) if reverse else numbers, 1):
            block = await view._retry(lambda seq=seq: self._shared.blocks.get(seq), wait, None, _FETCH_AHEAD)  # type: ignore[misc]
            if count % _STEPS_WITHOUT_PAUSE == 0:
                await asyncio.sleep(0)
            if block.key.startswith(self._prefix):
                yield Event(self._entry(block), block.is_deletion)

    async def log(self, *, wait: bool = True) -> AsyncIterator[tuple[int, Event]]:
        """What was put and deleted, the newest first, with the first whole version that each is in."""
        view = self.snapshot()
        whole, everything = WholeVersions(self._shared.blocks), view._view(b"", view._version, view._fork)
        async for event in everything.history(reverse=True, wait=wait):
            block = self._shared.blocks.get(event.entry.seq)
            version = whole.of(block)
            if block.key.startswith(self._prefix):
                yield version, Event(self._entry(block), event.deleted)

    def is_whole(self, version: int) -> bool:
        """Whether ``version`` is not in the middle of a batch, as far as the blocks held here tell."""
        blocks, end = self._shared.blocks, min(self.core.length, version + _LONGEST_BATCH)
        whole, found = WholeVersions(blocks), version
        try:
            for seq in reversed(range(max(version - 1, 1), end)):
                found = whole.of(blocks.get(seq))
        except BlocksMissing:
            return True
        return found == version or version == 1

    async def diff(
        self, version: int, bounds: Range = _EVERYTHING, *, wait: bool = True
    ) -> AsyncIterator[Difference]:
        """How this state (left) differs from that of ``version`` (right)."""
        view = self.snapshot()
        cursor = DiffCursor(self._shared.blocks, view.version, version, bounds.under(self._prefix))
        count = 0
        while (pair := await view._retry(cursor.next, wait, None, _FETCH_AHEAD)) is not None:
            left, right = pair
            count += 1
            if count % _STEPS_WITHOUT_PAUSE == 0:
                await asyncio.sleep(0)
            yield Difference(self._entry(left) if left else None, self._entry(right) if right else None)

    async def watch(self, bounds: Range = _EVERYTHING) -> AsyncIterator[tuple[Bee, Bee]]:
        """After each change within the range: the state now, and the one before. Never ends by itself."""
        before = self.snapshot()
        while True:
            while self.version == before.version and self.core.fork == before._fork:
                await self.core.changed()
            now = self.snapshot()
            if await self._differs(now, before, bounds):
                yield now, before
            before = now

    async def _differs(self, now: Bee, before: Bee, bounds: Range) -> bool:
        if now._fork != before._fork:
            return True
        try:
            async for _ in now.diff(before.version, bounds):
                return True
        except (NotAvailable, ProtocolError):
            return True  # cut short meanwhile: that is a change, too
        return False

    async def put(self, key: bytes, value: bytes | None) -> None:
        """Set ``key``; durable on return. Raises ``DriveError`` if this is not writable."""
        batch = self.batch()
        batch.put(key, value)
        await batch.flush()

    async def delete(self, key: bytes) -> bool:
        """Remove ``key``; return whether it was there."""
        batch = self.batch()
        batch.delete(key)
        return await batch.flush() > 0

    def batch(self) -> Batch:
        """Collect changes, to be made all at once."""
        if not self.writable:
            raise DriveError("this drive is read-only here")
        return Batch(self)

    def _editor(self) -> Editor:
        """The editor at the end of the core. Raises ``BlocksMissing``."""
        shared, core = self._shared, self.core
        editor = shared.editor
        fits = editor is not None and editor.first == core.length and shared.editor_fork == core.fork
        if editor is None or not fits or shared.edits > _KEPT_EDITS:
            editor = shared.editor = Editor.load(shared.blocks, core.length)
            shared.editor_fork, shared.edits = core.fork, 0
        return editor

    async def _apply(self, changes: list[tuple[bytes, bytes | None, bool]]) -> int:
        shared = self._shared
        async with shared.lock:
            if self.core.length == 0:
                self.core.append([shared.header.encode()], durable=False)
            while True:
                try:
                    return await self._append(changes)
                except BlocksMissing as missing:
                    await self._fetch(missing.indexes, None, 0)

    async def _append(self, changes: list[tuple[bytes, bytes | None, bool]]) -> int:
        shared = self._shared
        try:
            editor = self._editor()
            for count, (key, value, remove) in enumerate(changes, 1):
                if remove:
                    editor.delete(key)
                else:
                    editor.put(key, value)
                if count % _STEPS_WITHOUT_PAUSE == 0:
                    await asyncio.sleep(0)
            blocks = editor.take_blocks()
        except BaseException:
            shared.editor = None  # half edited
            raise
        shared.edits += len(blocks)
        if blocks:
            self.core.append(blocks)
        return len(blocks)


class Batch:
    """Changes that become visible together, in one append. Reads through it see them."""

    def __init__(self, bee: Bee) -> None:
        self._bee = bee
        self._changes: list[tuple[bytes, bytes | None, bool]] = []
        self._latest: dict[bytes, tuple[bytes, bytes | None, bool]] = {}

    def __len__(self) -> int:
        return len(self._changes)

    def put(self, key: bytes, value: bytes | None) -> None:
        """Set ``key``."""
        change = self._latest[key] = (self._bee._prefix + key, value, False)
        self._changes.append(change)

    def delete(self, key: bytes) -> None:
        """Remove ``key``, if it is there."""
        change = self._latest[key] = (self._bee._prefix + key, None, True)
        self._changes.append(change)

    async def get(self, key: bytes) -> Entry | None:
        """The entry of ``key`` with the changes made; ``seq`` is 0 for one that is not appended yet."""
        if key in self._latest:
            _, value, removed = self._latest[key]
            return None if removed else Entry(0, key, value)
        return await self._bee.get(key)

    async def flush(self) -> int:
        """Make the changes; return how many blocks were appended. They are durable on return."""
        changes, self._changes = self._changes, []
        self._latest = {}
        return await self._bee._apply(changes) if changes else 0
