"""The local proxy: SOCKS5 and HTTP CONNECT on one port, over ``pelure.tor.client.socks``.

Streams are isolated by the client's address and credentials, as C tor does by default, and by destination on
request. A client that goes away while its stream is being opened ends the attempt.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable
from typing import Protocol

from pelure.errors import PelureError
from pelure.streams import READ_SIZE, ByteStream, SocketStream, splice
from pelure.tor.client.socks import Command, ProxyError, ProxyParser, Request, reply_code

log = logging.getLogger(__name__)

REQUEST_SECONDS = 60.0
OPEN_SECONDS = 180.0
READ_AHEAD = 4 * READ_SIZE


class Opener(Protocol):
    """What opens the streams and looks up names (``pelure.tor.client.opener``)."""

    async def open(self, host: str, port: int, isolation: Hashable, early: bytes = b"") -> ByteStream:
        """See ``StreamOpener.open``."""
        ...

    async def resolve(self, name: str, isolation: Hashable) -> list[str]:
        """See ``StreamOpener.resolve``."""
        ...

    async def reverse(self, address: str, isolation: Hashable) -> list[str]:
        """See ``StreamOpener.reverse``."""
        ...


class ProxyServer:
    """Listens for programs of this machine. :meth:`close` ends all their connections."""

    def __init__(self, opener: Opener, *, isolate_destinations: bool = False) -> None:
        """``isolate_destinations``: streams to different hosts or ports never share a circuit either."""
        self._opener = opener
        self._isolate_destinations = isolate_destinations
        self._servers: list[asyncio.Server] = []
        self._connections: set[asyncio.Task[None]] = set()

    async def listen(self, host: str, port: int) -> tuple[str, int]:
        """Listen at ``host``:``port`` (0: any free port); returns where. Raises ``OSError``."""
        server = await asyncio.start_server(self._accept, host, port, limit=READ_AHEAD)
        self._servers.append(server)
        name = server.sockets[0].getsockname()
        return name[0], name[1]

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    async def close(self) -> None:
        """Stop listening and drop every client; idempotent."""
        for server in self._servers:
            server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._converse(reader, writer)
        except (PelureError, OSError, TimeoutError) as error:
            log.info("a proxy client was dropped: %s", error)
        except Exception:
            log.exception("bug: serving a proxy client")
        finally:
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = ProxyParser()
        try:
            request = await self._read_request(parser, reader, writer)
        except ProxyError as error:
            log.warning("a program used the proxy wrongly: %s", error)
            writer.write(error.answer)
            await writer.drain()
            return
        if request is None:
            return
        isolation = self._isolation(request, writer)
        if request.command is Command.CONNECT:
            await self._connect(request, isolation, parser.take_rest(), reader, writer)
        else:
            await self._resolve(request, isolation, writer)

    async def _read_request(
        self, parser: ProxyParser, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Request | None:
        """The client's request; None if it went away before it made one."""
        async with asyncio.timeout(REQUEST_SECONDS):
            while parser.request is None:
                data = await reader.read(READ_SIZE)
                if not data:
                    return None
                writer.write(parser.feed(data))
        return parser.request

    def _isolation(self, request: Request, writer: asyncio.StreamWriter) -> Hashable:
        peer = writer.get_extra_info("peername")
        destination = (request.host, request.port) if self._isolate_destinations else None
        return ("proxy", peer[0] if peer else "", request.credentials, destination)

    async def _resolve(self, request: Request, isolation: Hashable, writer: asyncio.StreamWriter) -> None:
        reverse = request.command is Command.RESOLVE_PTR
        look_up = self._opener.reverse if reverse else self._opener.resolve
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                answers = await look_up(request.host, isolation)
            writer.write(request.accept(answers[0]))
        except (PelureError, TimeoutError) as error:
            writer.write(request.refuse(reply_code(error)))
        await writer.drain()

    async def _connect(
        self,
        request: Request,
        isolation: Hashable,
        early: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        opening = asyncio.ensure_future(self._opener.open(request.host, request.port, isolation, early))
        ahead = asyncio.ensure_future(reader.read(READ_SIZE))
        stream: ByteStream | None = None
        try:
            await asyncio.wait({opening, ahead}, timeout=OPEN_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not opening.done() and ahead.done() and ahead.result():
                await asyncio.wait({opening}, timeout=OPEN_SECONDS)
            if not opening.done():
                if not ahead.done():
                    writer.write(request.refuse(reply_code(TimeoutError())))
                return
            try:
                stream = opening.result()
            except PelureError as error:
                log.info("a stream could not be opened: %s", error)
                writer.write(request.refuse(reply_code(error)))
                await writer.drain()
                return
            writer.write(request.accept())
            await splice(_ReadAhead(reader, writer, ahead), stream)
        finally:
            await _give_up(opening, ahead, stream)


class _ReadAhead(SocketStream):
    """A client's connection on which one read was begun already."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ahead: asyncio.Future[bytes]
    ) -> None:
        super().__init__(reader, writer)
        self._ahead: asyncio.Future[bytes] | None = ahead

    async def read(self, limit: int = READ_SIZE) -> bytes:
        if self._ahead is not None:
            ahead, self._ahead = self._ahead, None
            return await ahead
        return await super().read(limit)


async def _give_up(
    opening: asyncio.Future[ByteStream], ahead: asyncio.Future[bytes], stream: ByteStream | None
) -> None:
    """Leave nothing behind: neither an attempt nor a stream that came too late, nor a read."""
    for future in (opening, ahead):
        if not future.done():
            future.cancel()
    await asyncio.gather(opening, ahead, return_exceptions=True)
    if stream is None and not opening.cancelled() and opening.exception() is None:
        await opening.result().close()
