"""The gate of a share: who may replicate its drive, who does, and how somebody is cut off.

Each stream that readers open to the drive port is a Noise handshake first. The reader's static key is its
link's identity key; a key that is not on the list ends the handshake before a word about any drive is said.
Before that nobody knows who knocks, so whoever has taken longest makes room for new ones.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pelure.hyper.core.replication.stream import Replication
from pelure.hyper.wire.noise import KeyPair
from pelure.share.contents import Contents
from pelure.share.fairness import SHARE_STREAMS, FairStream, FairUpload
from pelure.streams import ByteStream
from pelure.tor.service.targets import IncomingInfo

MAX_STREAMS_PER_LINK = 32
MAX_STREAMS = 1024
"""While there are so many in all, no link gets more than ``SHARE_STREAMS``: each takes memory."""
MAX_HANDSHAKES = 256
"""Handshakes under way at once on one onion service; an old one makes room for another."""
MAX_HANDSHAKES_PER_CIRCUIT = 4
"""So many on one circuit; more are hung up on. Readers open one stream on each."""
MAX_MESSAGE = 1024 * 1024
"""Bytes of the longest message taken from a reader; their longest tells which blocks they have."""
HANG_UP_SECONDS = 1.0
"""The end of a stream gets so long to arrive before its circuit is closed."""
PROGRESS_SECONDS = 1.0

log = logging.getLogger(__name__)
OnEvent = Callable[..., None]
"""Called with an event's name and its fields."""
HangUp = Callable[[int], object]
"""Closes a circuit, if it is still there."""


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


@dataclass(eq=False)
class Presence:
    """The streams that one link has open, and the bytes sent on those that have ended since it came."""

    streams: list[Visitor] = field(default_factory=list)
    sent_before: int = 0
    told: tuple[int, bool] | None = None
    """What was told last: the bytes sent, and whether it has everything."""

    @property
    def sent(self) -> int:
        """Bytes written to the reader since it came."""
        return self.sent_before + sum(visitor.sent for visitor in self.streams)


class Gate:
    """See the module. One for each onion service of a share; they share the drive."""

    def __init__(self, contents: Contents, keypair: KeyPair, upload: FairUpload, on_event: OnEvent) -> None:
        self.hang_up: HangUp = lambda circuit: None
        """Closes the circuit of somebody who was not let in; set once there is a service to do it."""
        self._contents = contents
        self._store = contents.drive.store
        self._keypair = keypair
        self._upload = upload
        self._on_event = on_event
        self._allowed: dict[bytes, tuple[int, str]] = {}
        self._present: dict[int, Presence] = {}
        self._handshakes: dict[Replication, int] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def admit(self, link_id: int, name: str, identity: bytes) -> None:
        """Let in whoever holds the 32-byte ``identity`` key from now on."""
        self._allowed[identity] = (link_id, name)

    def bar(self, link_id: int) -> list[int]:
        """Strike a link off and cut its streams; return the circuits that it came on."""
        self._allowed = {key: held for key, held in self._allowed.items() if held[0] != link_id}
        gone = self._streams_of(link_id)
        for visitor in gone:
            self._keep(asyncio.ensure_future(visitor.replication.close()))
        return sorted({visitor.circuit for visitor in gone})

    def visitors(self) -> list[Visitor]:
        """Everybody inside."""
        return [visitor for present in self._present.values() for visitor in present.streams]

    def _streams_of(self, link_id: int) -> list[Visitor]:
        return list(self._present[link_id].streams) if link_id in self._present else []

    async def accept(self, stream: ByteStream, info: IncomingInfo) -> None:
        """Serve one stream from its handshake to its end; the target of the onion service's drive port."""
        fair = FairStream(stream, self._upload)
        passed = False
        try:
            passed = self._make_room(info.circuit) and await self._admit(fair, info.circuit)
        finally:
            loop = asyncio.get_running_loop()
            loop.call_later(HANG_UP_SECONDS, self._leave, info.circuit, passed)

    def _make_room(self, circuit: int) -> bool:
        """Whether another handshake may begin on ``circuit``; of too many in all, one is ended.

        That is the oldest on the circuits that have most: readers have one on each of theirs.
        """
        under_way = Counter(self._handshakes.values())
        if under_way[circuit] >= MAX_HANDSHAKES_PER_CIRCUIT:
            log.info("Too many handshakes at once on one circuit; one was hung up on")
            return False
        if len(self._handshakes) >= MAX_HANDSHAKES:
            log.info("Too many handshakes at once; the oldest was ended")
            most = max(under_way.values())
            oldest = next(one for one, on in self._handshakes.items() if under_way[on] == most)
            del self._handshakes[oldest]
            self._keep(asyncio.ensure_future(oldest.close()))
        return True

    def _leave(self, circuit: int, passed: bool) -> None:
        """Close a circuit that nobody who was let in is on any more.

        Whoever failed on it (not ``passed``) gets no second try there: that is a circuit of one reader.
        """
        if any(visitor.circuit == circuit for visitor in self.visitors()):
            return
        if not passed or circuit not in self._handshakes.values():
            self.hang_up(circuit)

    async def _admit(self, fair: FairStream, circuit: int) -> bool:
        """Serve a stream; return whether it was let in."""
        replication = Replication(
            fair,
            False,
            self._store,
            self._keypair,
            self._allowed.__contains__,
            max_message=MAX_MESSAGE,
            crowded=lambda identity: self._is_full(*self._allowed[identity]),
        )
        async with replication:
            held = await self._handshake(replication, circuit)
            if held is None:
                return False
            fair.assign(self._upload.join(held[0]))
            try:
                await self._host(replication, circuit, *held)
            finally:
                self._upload.part(held[0])
            return True

    async def _handshake(self, replication: Replication, circuit: int) -> tuple[int, str] | None:
        """The id and name of the reader's link, None if it may not come in."""
        self._handshakes[replication] = circuit
        try:
            await replication.opened()
        except Exception as error:
            log.info("A reader did not pass the gate: %s", error)
            return None
        finally:
            self._handshakes.pop(replication, None)
        held = self._allowed.get(replication.remote_public)
        if held is None or self._is_full(*held):  # barred, or full since the handshake was complete
            return None
        return held

    def _is_full(self, link_id: int, name: str) -> bool:
        """Whether a link has as many streams as it may."""
        most = MAX_STREAMS_PER_LINK if self._upload.streams < MAX_STREAMS else SHARE_STREAMS
        full = len(self._streams_of(link_id)) >= most
        if full:
            log.info("Link «%s» has %d streams open already", name, most)
        return full

    async def _host(self, replication: Replication, circuit: int, link_id: int, name: str) -> None:
        present = self._present.setdefault(link_id, Presence())
        visitor = Visitor(link_id, name, circuit, time.time(), replication)
        present.streams.append(visitor)
        self._on_event("connected", link_id=link_id, name=name, streams=len(present.streams))
        reporter = asyncio.ensure_future(self._report(visitor, present))
        try:
            await replication.wait_closed()
            if present.streams == [visitor]:  # what came with its last words counts, too
                await self._tell_transfer(visitor, present, 0)
        finally:
            reporter.cancel()
            present.streams.remove(visitor)
            present.sent_before += visitor.sent
            if not present.streams:
                del self._present[link_id]
            self._on_event(
                "disconnected",
                link_id=link_id,
                name=name,
                streams=len(present.streams),
                sent=present.sent,
            )

    async def _report(self, visitor: Visitor, present: Presence) -> None:
        """Tell what a link has been sent, and how fast, when that changes."""
        before, at = present.sent, time.monotonic()
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            sent, since = present.sent - before, time.monotonic() - at
            before, at = before + sent, at + since
            if present.streams[0] is visitor:
                await self._tell_transfer(visitor, present, max(0, round(sent / since)))

    async def _tell_transfer(self, visitor: Visitor, present: Presence, rate: int) -> None:
        complete = False
        for stream in list(present.streams):
            complete = complete or await self._contents.held_by(stream.replication.peers)
        now = (present.sent, complete)
        if now == present.told:
            return
        present.told = now
        self._on_event(
            "transfer",
            link_id=visitor.link_id,
            name=visitor.name,
            sent=now[0],
            total=sum(core.byte_length for core in self._store.open_cores()),
            rate=rate,
            complete=complete,
        )

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End every stream."""
        await asyncio.gather(
            *(replication.close() for replication in self._handshakes),
            *(visitor.replication.close() for visitor in self.visitors()),
            *self._tasks,
            return_exceptions=True,
        )
