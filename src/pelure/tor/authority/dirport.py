"""An authority's DirPort: directory requests by plain HTTP/1.0, one a connection (dir-spec section 5)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from pelure.errors import ProtocolError
from pelure.streams import listening
from pelure.tor.directory.http import DirReply, DirRequest, parse_request

MAX_UPLOAD = 64 << 20
MAX_CONNECTIONS = 1000
MAX_BUFFERED = 256 << 20
"""Bytes of requests on all connections together."""
REQUEST_SECONDS = 60.0
_CHUNK = 1 << 16
log = logging.getLogger(__name__)
Answer = Callable[[DirRequest], Awaitable[DirReply]]


class DirPort:
    """Listens on ``host``:``port`` (0: any free one) and lets ``answer`` answer."""

    def __init__(self, host: str, port: int, answer: Answer) -> None:
        self.host = host
        self.port = port
        self._answer = answer
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], int] = {}  # oldest first, bytes received of each
        self._reading: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin to listen; idempotent. Raises ``ConfigError``."""
        if self._server is not None:
            return
        with listening(self.host, self.port):
            self._server = await asyncio.start_server(self._accept, self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening and drop the connections."""
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= MAX_CONNECTIONS:
            self._drop_oldest()
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._connections[task] = 0
        self._reading.add(task)
        task.add_done_callback(self._forget)
        task.add_done_callback(lambda _: writer.close())  # it may have been dropped before it began

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._connections.pop(task, None)
        self._reading.discard(task)

    def _drop_oldest(self) -> None:
        """Make room: honest requests are here in a moment, so who has taken longest goes.

        Only where all requests are here one that waits for its answer, or does not read it.
        """
        task = next((one for one in self._connections if one in self._reading), next(iter(self._connections)))
        self._forget(task)
        task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = str((writer.get_extra_info("peername") or ("",))[0])
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                writer.write((await self._reply(reader)).encode(time.time(), peer))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError):
            pass  # the client went away, or is too slow to be served
        except Exception:
            log.exception("bug: a request on the DirPort")

    async def _reply(self, reader: asyncio.StreamReader) -> DirReply:
        task = asyncio.current_task()
        assert task is not None
        received = bytearray()
        try:
            while (parsed := parse_request(received, MAX_UPLOAD)) is None:
                data = await reader.read(_CHUNK)
                if not data:
                    return DirReply(400)
                received += data
                self._connections[task] = len(received)
                while sum(self._connections.values()) > MAX_BUFFERED:
                    self._drop_oldest()
            self._reading.discard(task)
            return await self._answer(parsed[0])
        except ProtocolError as error:
            return DirReply(400, reason=str(error))
        finally:
            if task in self._connections:
                self._connections[task] = 0
