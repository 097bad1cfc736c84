"""Requests of the other side of a stream that wait to be served, and when it has to wait with more of them.

Answers are made only as fast as the stream takes them, so a slow or greedy peer costs no memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from pelure.errors import DriveError, ProtocolError
from pelure.hyper.core.replication.peer import Peer
from pelure.hyper.wire import messages as m

log = logging.getLogger(__name__)

MAX_UPLOADS = 4096
"""Requests waiting to be served at which reading pauses."""
MAX_QUEUED_REQUESTS = 16384
"""Requests waiting to be served at which the other side counts as flooding (npm has 512 a core in flight)."""
SERVED_AT_ONCE = 256
"""Requests served before everything else gets a turn."""
MAX_INVALID_REQUESTS = 64
_PAUSE_SECONDS = 5.0


class Uploads:
    """The requests of all cores on one stream; those with a priority come first."""

    def __init__(self) -> None:
        self._urgent: deque[tuple[Peer, m.Request]] = deque()
        self._bulk: deque[tuple[Peer, m.Request]] = deque()
        self._room = asyncio.Event()
        self._room.set()

    def __len__(self) -> int:
        return len(self._urgent) + len(self._bulk)

    def add(self, peer: Peer, request: m.Request) -> None:
        """Queue a request. Raises ``ProtocolError`` if too many wait."""
        waiting = len(self)
        if waiting >= MAX_QUEUED_REQUESTS:
            raise ProtocolError("the other side floods this one with requests")
        (self._urgent if request.priority else self._bulk).append((peer, request))
        if waiting >= MAX_UPLOADS:
            self._room.clear()

    def clear(self) -> None:
        """Forget all requests."""
        self._urgent.clear()
        self._bulk.clear()

    async def make_room(self) -> None:
        """Wait while too many requests wait to be served.

        Not for ever: the other side may be doing the same, and then neither would read the answers.
        """
        if not self._room.is_set():
            try:
                async with asyncio.timeout(_PAUSE_SECONDS):
                    await self._room.wait()
            except TimeoutError:
                pass

    def serve(self, enough: Callable[[], bool]) -> None:
        """Have peers send answers until there is ``enough`` to be sent, or everything else needs a turn.

        Raises ``ProtocolError`` if a peer asks for too much that makes no sense.
        """
        for _ in range(SERVED_AT_ONCE):
            if not (self._urgent or self._bulk) or enough():
                break
            self._serve(*(self._urgent or self._bulk).popleft())
        if len(self) <= MAX_UPLOADS // 2:
            self._room.set()

    def _serve(self, peer: Peer, request: m.Request) -> None:
        """Queue the answer to a request, unless it was cancelled or its channel closed."""
        if peer.requests.get(request.id) is not request:
            return
        del peer.requests[request.id]
        answer: m.Data | None = None
        reason = m.NoData.NOT_AVAILABLE
        try:
            answer = peer.core.proof(request)
        except ProtocolError:
            reason = m.NoData.INVALID_REQUEST
            peer.invalid_requests += 1
            if peer.invalid_requests > MAX_INVALID_REQUESTS:
                raise
        except DriveError as error:
            log.warning("a block that a peer asked for can't be read: %s", error)
        if answer is None:
            peer.send(m.NoData(request.id, reason))
            return
        if answer.block is not None:
            peer.stats.blocks_sent += 1
            peer.stats.bytes_sent += len(answer.block.value)
        peer.send(answer)
