"""The gate of a share: who may replicate its drive, who does, and how somebody is cut off.

Each stream that readers open to the drive port is a Noise handshake first. The reader's static key is its
link's identity key; a key that is not on the list ends the handshake before a word about any drive is said.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pelure.hyper.core.corestore import Corestore
from pelure.hyper.core.replication.stream import Replication
from pelure.hyper.wire.noise import KeyPair
from pelure.streams import ByteStream
from pelure.tor.service.targets import IncomingInfo

MAX_STREAMS_PER_LINK = 32
MAX_HANDSHAKES = 64
"""Handshakes under way at once on one onion service; more are hung up on."""
PROGRESS_SECONDS = 1.0

log = logging.getLogger(__name__)
OnEvent = Callable[..., None]
"""Called with an event's name and its fields."""


@dataclass(eq=False)
class Visitor:
    """One stream of one link that has passed the gate. ``since``: seconds since 1970."""

    link_id: int
    name: str
    circuit: int
    since: float
    replication: Replication = field(repr=False)

    @property
    def sent(self) -> int:
        """Bytes written to the reader on this stream."""
        return self.replication.bytes_written


class Gate:
    """See the module. One for each onion service of a share; they share the drive's store."""

    def __init__(self, store: Corestore, keypair: KeyPair, on_event: OnEvent) -> None:
        self._store = store
        self._keypair = keypair
        self._on_event = on_event
        self._allowed: dict[bytes, tuple[int, str]] = {}
        self._visitors: dict[int, list[Visitor]] = {}
        self._handshakes = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    def admit(self, link_id: int, name: str, identity: bytes) -> None:
        """Let in whoever holds the 32-byte ``identity`` key from now on."""
        self._allowed[identity] = (link_id, name)

    def bar(self, link_id: int) -> list[int]:
        """Strike a link off and cut its streams; return the circuits that it came on."""
        self._allowed = {key: held for key, held in self._allowed.items() if held[0] != link_id}
        gone = self._visitors.get(link_id, [])
        for visitor in gone:
            self._keep(asyncio.ensure_future(visitor.replication.close()))
        return sorted({visitor.circuit for visitor in gone})

    def visitors(self) -> list[Visitor]:
        """Everybody inside."""
        return [visitor for streams in self._visitors.values() for visitor in streams]

    async def accept(self, stream: ByteStream, info: IncomingInfo) -> None:
        """Serve one stream from its handshake to its end; the target of the onion service's drive port."""
        if self._handshakes >= MAX_HANDSHAKES:
            log.info("Too many handshakes at once; one was hung up on")
            return
        replication = Replication(stream, False, self._store, self._keypair, self._allowed.__contains__)
        async with replication:
            self._handshakes += 1
            try:
                await replication.opened()
            except Exception as error:
                log.info("A reader did not pass the gate: %s", error)
                return
            finally:
                self._handshakes -= 1
            await self._host(replication, info.circuit)

    async def _host(self, replication: Replication, circuit: int) -> None:
        held = self._allowed.get(replication.remote_public)
        if held is None:
            return  # barred while the handshake was under way
        link_id, name = held
        streams = self._visitors.setdefault(link_id, [])
        if len(streams) >= MAX_STREAMS_PER_LINK:
            log.info("Link «%s» has %d streams open already", name, len(streams))
            return
        visitor = Visitor(link_id, name, circuit, time.time(), replication)
        streams.append(visitor)
        self._on_event("connected", link_id=link_id, name=name, streams=len(streams))
        reporter = asyncio.ensure_future(self._report(visitor))
        try:
            await replication.wait_closed()
        finally:
            reporter.cancel()
            streams.remove(visitor)
            if not streams:
                del self._visitors[link_id]
            self._on_event("disconnected", link_id=link_id, name=name, streams=len(streams))

    async def _report(self, visitor: Visitor) -> None:
        """Tell what a link has been sent, when that changes."""
        told: tuple[int, bool] | None = None
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            now = (sum(v.sent for v in self._visitors[visitor.link_id]), self._complete(visitor))
            if now != told and self._visitors[visitor.link_id][0] is visitor:
                told = now
                self._on_event(
                    "transfer", link_id=visitor.link_id, name=visitor.name, sent=now[0], complete=now[1]
                )

    def _complete(self, visitor: Visitor) -> bool:
        """Whether the reader has announced every block of every core of the drive."""
        for core in self._store.open_cores():
            peers = core.replicator.peers if core.replicator is not None else []
            mine = [peer for peer in peers if peer.link is visitor.replication]
            if core.length and not any(peer.blocks.covers(0, core.length) for peer in mine):
                return False
        return True

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End every stream."""
        await asyncio.gather(
            *(visitor.replication.close() for visitor in self.visitors()),
            *self._tasks,
            return_exceptions=True,
        )
