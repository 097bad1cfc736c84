"""Fair shares of the publisher's upload for links, whatever the number of circuits each of them comes on.

Circuits are served evenly further below (by the link to the guard, by each relay), so a link gets as much as
it has circuits at work. While several links are being served, each has at most :data:`SHARE_STREAMS` at work
at a time, and one that has more than that open, which is asking for more than its share, only one: it makes
do with what the others leave. A link that is alone is served as fast as it can take it.

What readers say costs work here too, so that is taken in at a rate which no reader who only fetches reaches,
and little of it while an answer waits to be sent. Readers who ask and take nothing keep memory in use: of
too many, those of the link that has most are hung up on.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from pelure.streams import READ_SIZE, ByteStream
from pelure.tor.net.circuit_stream import CircuitStream

SHARE_STREAMS = 4
"""As many circuits as readers open by default."""
GREEDY_STREAMS = 1
SMALL = 16 * 1024
"""Bytes; what is shorter than this does not wait for its turn."""
ACTIVE_SECONDS = 1.0
"""A link counts as being served for so long after it was sent something."""
STALL_SECONDS = 10.0
"""A reader who takes nothing for so long loses the turn to the link's other streams."""
MAX_STALLED = 64
"""So many of these may wait to be taken up again."""
UNANSWERED = 4096
"""Bytes taken in from a stream while an answer waits to be sent: requests for some hundred blocks."""
HEARD_RATE = 64 * 1024
"""Bytes a second taken in from one link in the long run: requests for 100 MB/s fit in."""
HEARD_BURST = 1024 * 1024


class Lane:
    """The streams of one link: which are at work and which wait for their turn; what may still be read."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.streams = 0
        self._clock = clock
        self._working = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._served = -ACTIVE_SECONDS
        self._credit = float(HEARD_BURST)
        self._credit_at = clock()

    def active(self, now: float) -> bool:
        """Whether the link is being served, or was a moment ago."""
        return self._working > 0 or now - self._served < ACTIVE_SECONDS

    async def enter(self, limit: Callable[[], int]) -> None:
        """Wait for a turn."""
        if not self._waiting and self._working < limit():
            self._working += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave(limit)  # the turn came in the same moment
            raise

    def leave(self, limit: Callable[[], int]) -> None:
        """End a turn, and give it to the next."""
        self._working -= 1
        self._served = self._clock()
        while self._waiting and (self._waiting[0].done() or self._working < limit()):
            turn = self._waiting.popleft()
            if not turn.done():
                self._working += 1
                turn.set_result(None)

    def debt(self, size: int) -> float:
        """Note that ``size`` bytes came; the seconds to wait until the next may be read."""
        now = self._clock()
        self._credit = min(HEARD_BURST, self._credit + (now - self._credit_at) * HEARD_RATE) - size
        self._credit_at = now
        return max(0.0, -self._credit / HEARD_RATE)


class FairUpload:
    """See the module; one for all that a process publishes. ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lanes: dict[int, Lane] = {}
        self._stalled: dict[asyncio.Timeout, Lane] = {}
        self.streams = 0
        """How many there are of all links."""

    def join(self, link_id: int) -> Lane:
        """One more stream of a link; give the lane back with :meth:`part`."""
        lane = self._lanes.get(link_id)
        if lane is None:
            lane = self._lanes[link_id] = Lane(self._clock)
        lane.streams += 1
        self.streams += 1
        return lane

    def part(self, link_id: int) -> None:
        """A stream of a link has ended."""
        lane = self._lanes[link_id]
        lane.streams -= 1
        self.streams -= 1
        if not lane.streams:
            del self._lanes[link_id]

    def limit(self, lane: Lane) -> int:
        """How many streams of ``lane`` may be at work now."""
        now = self._clock()
        if not any(other is not lane and other.active(now) for other in self._lanes.values()):
            return lane.streams
        return SHARE_STREAMS if lane.streams <= SHARE_STREAMS else GREEDY_STREAMS

    @asynccontextmanager
    async def turn(self, lane: Lane) -> AsyncIterator[None]:
        """A turn of ``lane``, taken away after :data:`STALL_SECONDS`.

        Raises ``TimeoutError`` if it has come to that, and too many others have stalled since.
        """

        def limit() -> int:
            return self.limit(lane)

        await lane.enter(limit)
        left = False

        def leave() -> None:
            nonlocal left
            if not left:
                left = True
                lane.leave(limit)

        patience = asyncio.timeout(None)

        def stall() -> None:
            leave()
            self._stalled[patience] = lane
            self._hang_up()

        stalled = asyncio.get_running_loop().call_later(STALL_SECONDS, stall)
        try:
            async with patience:
                yield
        finally:
            stalled.cancel()
            self._stalled.pop(patience, None)
            leave()

    def _hang_up(self) -> None:
        """End the longest stalled write of the link that has most of them, if there are too many."""
        if len(self._stalled) > MAX_STALLED:
            counts = Counter(self._stalled.values())
            most = max(counts.values())
            longest = next(one for one, lane in self._stalled.items() if counts[lane] == most)
            del self._stalled[longest]
            longest.reschedule(asyncio.get_running_loop().time())


class FairStream:
    """A reader's stream, in turns with the others once :meth:`assign` says whose it is; a ``ByteStream``."""

    def __init__(self, stream: ByteStream, upload: FairUpload) -> None:
        self._stream = stream
        self._upload = upload
        self._lane: Lane | None = None
        self._unanswered = 0
        self._answered = asyncio.Event()
        self._answered.set()

    def assign(self, lane: Lane) -> None:
        """It belongs to the link of ``lane``."""
        self._lane = lane

    async def read(self, limit: int = READ_SIZE) -> bytes:
        if self._lane is None:
            return await self._stream.read(min(limit, READ_SIZE))
        if self._unanswered >= UNANSWERED:
            with suppress(TimeoutError):  # it goes on slowly, so that a sign of life is heard
                async with asyncio.timeout(STALL_SECONDS):
                    await self._answered.wait()
        data = await self._stream.read(min(limit, UNANSWERED))
        self._unanswered += len(data)
        if wait := self._lane.debt(len(data)):
            await asyncio.sleep(wait)
        return data

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """As ``ByteStream.write``; while others are served, what is long keeps its turn until it has left."""
        lane = self._lane
        if lane is None or len(data) < SMALL:
            await self._stream.write(data)
            return
        self._answered.clear()
        self._unanswered = 0
        try:
            async with self._upload.turn(lane):
                await self._stream.write(data)
                if isinstance(self._stream, CircuitStream) and self._upload.limit(lane) < lane.streams:
                    await self._stream.drain()
        finally:
            self._unanswered = 0
            self._answered.set()

    async def write_eof(self) -> None:
        await self._stream.write_eof()

    async def close(self) -> None:
        await self._stream.close()
