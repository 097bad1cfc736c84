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
"""Bytes of incomplete requests on all connections together."""
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
        self._connections: set[asyncio.Task[None]] = set()
        self._buffered = 0

    async def start(self) -> None:
        """Begin to listen. Raises ``ConfigError``."""
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
            writer.close()
            return
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

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
        finally:
            writer.close()

    async def _reply(self, reader: asyncio.StreamReader) -> DirReply:
        received = bytearray()
        try:
            while (parsed := parse_request(received, MAX_UPLOAD)) is None:
                data = await reader.read(_CHUNK)
                if not data:
                    return DirReply(400)
                if self._buffered + len(data) > MAX_BUFFERED:
                    return DirReply(503)
                received += data
                self._buffered += len(data)
            return await self._answer(parsed[0])
        except ProtocolError as error:
            return DirReply(400, reason=str(error))
        finally:
            self._buffered -= len(received)
