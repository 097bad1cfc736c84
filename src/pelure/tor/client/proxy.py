"""The local proxy: SOCKS5 and HTTP CONNECT on one port, over ``pelure.tor.client.socks``.

Streams are isolated by the client's address and credentials, as C tor does by default, and by destination on
request. A client that goes away while its stream is being opened ends the attempt.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable
from typing import Protocol, cast

from pelure.errors import PelureError
from pelure.streams import READ_SIZE, listening
from pelure.tor.client.socks import Command, ProxyError, ProxyParser, Reply, Request, reply_code
from pelure.tor.net.circuit_stream import CircuitStream
from pelure.tor.net.origin import Circuit
from pelure.tor.net.spliced_socket import SplicedSocket

log = logging.getLogger(__name__)

REQUEST_SECONDS = 60.0
OPEN_SECONDS = 180.0
READ_AHEAD = 8 * READ_SIZE
"""A client whose stream is not open yet may send so many bytes ahead."""


class Opener(Protocol):
    """What opens the streams and looks up names (``pelure.tor.client.opener``)."""

    def ready(self, host: str, port: int, isolation: Hashable) -> Circuit | None:
        """See ``StreamOpener.ready``."""
        ...

    async def open(self, host: str, port: int, isolation: Hashable, early: bytes = b"") -> CircuitStream:
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
        self.opener = opener
        self.isolate_destinations = isolate_destinations
        self.asking: set[ProxyClient] = set()
        """The clients whose streams are not open yet."""
        self.open: set[SplicedSocket] = set()
        """Those whose streams are."""
        self._servers: list[asyncio.Server] = []

    async def listen(self, host: str, port: int) -> tuple[str, int]:
        """Listen at ``host``:``port`` (0: any free port); returns where. Raises ``ConfigError``."""
        with listening(host, port):
            server = await asyncio.get_running_loop().create_server(lambda: ProxyClient(self), host, port)
        self._servers.append(server)
        name = server.sockets[0].getsockname()
        return name[0], name[1]

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self.asking) + len(self.open)

    async def close(self) -> None:
        """Stop listening and drop every client; idempotent."""
        for server in self._servers:
            server.close()
        for spliced in list(self.open):
            spliced.close()
        tasks = [client.drop() for client in list(self.asking)]
        await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)


class ProxyClient(asyncio.Protocol):
    """A connected program, until its stream is open and a :class:`SplicedSocket` takes its place."""

    def __init__(self, server: ProxyServer) -> None:
        self._server = server
        self._opener = server.opener
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = ProxyParser()
        self._early = b""
        self._ahead = bytearray()
        self._paused = False
        self._read_all = False
        self._work: asyncio.Task[None] | None = None
        self._patience: asyncio.TimerHandle | None = None

    def drop(self) -> asyncio.Task[None] | None:
        """Drop the connection; returns what is then still coming to its end."""
        if self._transport is not None:
            self._transport.abort()
        if self._work is not None:
            self._work.cancel()
        return self._work

    # ---- asyncio protocol ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._transport.set_write_buffer_limits(high=0)  # makes uvloop write at once
        self._server.asking.add(self)
        self._patience = self._loop.call_later(REQUEST_SECONDS, self.drop)

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        if transport is None:
            return
        if self._parser.request is not None:
            self._ahead += data
            if len(self._ahead) > READ_AHEAD and not self._paused:
                self._paused = True
                transport.pause_reading()
            return
        try:
            answer = self._parser.feed(data)
        except ProxyError as error:
            log.warning("a program used the proxy wrongly: %s", error)
            transport.write(error.answer)
            transport.close()
            return
        if answer:
            transport.write(answer)
        if self._parser.request is not None:
            self._requested(self._parser.request, transport)

    def eof_received(self) -> bool:
        self._read_all = True
        request = self._parser.request
        if request is None:
            return False
        # Whoever wants a stream and has said nothing on it went away; others wait for an answer.
        return request.command is not Command.CONNECT or bool(self._early or self._ahead)

    def connection_lost(self, error: Exception | None) -> None:
        self._leave()
        if self._work is not None:
            self._work.cancel()

    def _leave(self) -> None:
        self._transport = None
        self._server.asking.discard(self)
        if self._patience is not None:
            self._patience.cancel()

    # ---- requests ----

    def _requested(self, request: Request, transport: asyncio.Transport) -> None:
        if self._patience is not None:
            self._patience.cancel()
        isolation = self._isolation(request, transport)
        self._early = self._parser.take_rest()
        if request.command is Command.CONNECT:
            circuit = self._opener.ready(request.host, request.port, isolation)
            if circuit is not None:
                transport.write(request.accept())  # first: the program goes on while the stream is opened
                self._open_at_once(circuit, request.port, transport)
                return
        self._work = self._loop.create_task(self._serve(request, isolation))

    def _isolation(self, request: Request, transport: asyncio.Transport) -> Hashable:
        peer = transport.get_extra_info("peername")
        destination = (request.host, request.port) if self._server.isolate_destinations else None
        return ("proxy", peer[0] if peer else "", request.credentials, destination)

    def _open_at_once(self, circuit: Circuit, port: int, transport: asyncio.Transport) -> None:
        try:
            stream = circuit.open("", port)
        except PelureError as error:
            log.info("a stream could not be opened: %s", error)
            transport.close()
        else:
            self._splice(stream, self._early)

    async def _serve(self, request: Request, isolation: Hashable) -> None:
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                answer, stream = await self._answer(request, isolation)
        except (PelureError, TimeoutError) as error:
            log.info("a proxy client can't be served: %s", error or "it took too long")
            answer, stream = request.refuse(reply_code(error)), None
        except Exception:
            log.exception("bug: serving a proxy client")
            answer, stream = request.refuse(Reply.GENERAL_FAILURE), None
        if self._transport is not None:
            self._transport.write(answer)
        if stream is not None:
            self._splice(stream, b"")
        elif self._transport is not None:
            self._transport.close()

    async def _answer(self, request: Request, isolation: Hashable) -> tuple[bytes, CircuitStream | None]:
        """What to say to the client if it works, and its stream if it asked for one."""
        if request.command is Command.CONNECT:
            stream = await self._opener.open(request.host, request.port, isolation, self._early)
            return request.accept(), stream
        reverse = request.command is Command.RESOLVE_PTR
        look_up = self._opener.reverse if reverse else self._opener.resolve
        return request.accept((await look_up(request.host, isolation))[0]), None

    def _splice(self, stream: CircuitStream, early: bytes) -> None:
        """Hand the connection over; ``early`` was not sent yet, and comes before what was read ahead."""
        transport = self._transport
        if transport is None:
            stream.close_soon()
            return
        self._leave()
        spliced = SplicedSocket(stream, self._server.open)
        transport.set_protocol(spliced)
        spliced.connection_made(transport)
        if self._paused:
            transport.resume_reading()
        if early or self._ahead:
            spliced.data_received(early + self._ahead)
        if self._read_all and not spliced.eof_received():
            transport.close()
