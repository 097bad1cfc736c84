"""``BEGIN_DIR`` streams: directory documents and onion service descriptors (dir-spec 5, 6; rend-spec-v3 2.2).

What a request is answered with comes from :class:`Directory`; a stream carries one request.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from pelure.errors import DirectoryError, ProtocolError
from pelure.tor.circuit.stream import StreamEndpoint
from pelure.tor.directory.cache import CONSENSUS_PATH, DirectoryCache
from pelure.tor.directory.http import DirReply, DirRequest, parse_request
from pelure.tor.relay.circuit import RelayCircuit
from pelure.tor.relay.hsdir import DescriptorStore

log = logging.getLogger(__name__)

FETCH_PATH = "/tor/hs/3/"
PUBLISH_PATH = "/tor/hs/3/publish"
LONG_PATH = 500  # characters: a request that names more documents than a few
MAX_UPLOAD = 256 * 1024  # bytes of a POST to a relay; authorities take more
WriteDocument = Callable[[DirRequest], Awaitable[DirReply | None]]


class Directory:
    """Answers requests from the cache and from the descriptors that were uploaded.

    ``authority``: answers first, for a relay that is half of a directory authority; None is "not mine".
    """

    def __init__(
        self,
        cache: DirectoryCache,
        descriptors: DescriptorStore,
        authority: WriteDocument | None = None,
        max_upload: int = MAX_UPLOAD,
    ) -> None:
        self.cache = cache
        self.descriptors = descriptors
        self.authority = authority
        self.max_upload = max_upload
        self.requests = 0

    async def answer(self, request: DirRequest, *, anonymous: bool) -> DirReply:
        """The reply. ``anonymous``: it came along a circuit of more than one hop."""
        self.requests += 1
        now = time.time()
        if self.authority is not None:
            reply = await self.authority(request)
            if reply is not None:
                return reply
        if request.path.startswith(FETCH_PATH):
            # Who fetches or uploads in person gives away which onion service it is interested in.
            return self._onion(request, now) if anonymous else DirReply(404)
        if request.path.startswith(CONSENSUS_PATH) or len(request.path) > LONG_PATH:
            # Compressing a consensus, making a diff, or compressing many documents takes long.
            return await asyncio.to_thread(self.cache.answer, request, now)
        return self.cache.answer(request, now)

    def _onion(self, request: DirRequest, now: float) -> DirReply:
        if request.method == "POST" and request.path == PUBLISH_PATH:
            try:
                self.descriptors.store(request.body, now)
            except (DirectoryError, ProtocolError) as error:
                log.info("an uploaded descriptor was refused: %s", error)
                return DirReply(400, reason="Invalid HS descriptor. Rejected.")
            return DirReply(200, reason="HS descriptor stored successfully.")
        if request.method != "GET":
            return DirReply(405)
        document = self.descriptors.fetch(request.path.removeprefix(FETCH_PATH), now)
        return DirReply(404) if document is None else DirReply(200, document)


class DirStream:
    """One ``BEGIN_DIR`` stream of a circuit: a request comes, its reply leaves."""

    def __init__(self, circuit: RelayCircuit, endpoint: StreamEndpoint, directory: Directory) -> None:
        self._circuit = circuit
        self._endpoint = endpoint
        self._directory = directory
        self._received = bytearray()
        self._answering: asyncio.Task[None] | None = None
        endpoint.accept()

    @property
    def waiting(self) -> int:
        """Bytes that wait here, towards either side."""
        return self._endpoint.pending + self._endpoint.buffered + len(self._received)

    def readable(self) -> None:
        """More of the request is there."""
        self._received += self._endpoint.read(self._endpoint.buffered)
        if self._answering is not None:
            self._received.clear()  # nothing is expected after the request
            return
        try:
            parsed = parse_request(self._received, self._directory.max_upload)
        except ProtocolError as error:
            self._reply(DirReply(400, reason=str(error)))
            return
        if parsed is not None:
            self._received.clear()
            self._answering = asyncio.ensure_future(self._answer(parsed[0]))

    def room(self) -> None:
        """A reply waits as a whole already."""

    def ended(self) -> None:
        """Nobody waits for the reply any more."""
        if self._answering is not None:
            self._answering.cancel()

    async def _answer(self, request: DirRequest) -> None:
        try:
            reply = await self._directory.answer(
                request, anonymous=self._circuit.link.peer.rsa_id is not None
            )
        except Exception:
            log.exception("bug: answering %s %s", request.method, request.path[:80])
            reply = DirReply(503)
        self._reply(reply)

    def _reply(self, reply: DirReply) -> None:
        link = self._circuit.link
        peer = link.address[0] if link.peer.rsa_id is None else ""
        self._endpoint.write(reply.encode(time.time(), peer))
        self._endpoint.finish()
        self._circuit.pump()
