"""The one thing the two protocol stacks share: a duplex byte stream.

``pelure.tor`` gives such streams over circuits, ``pelure.hyper`` replicates over any of them; neither
knows the other. :func:`memory_pipe` is for tests, :class:`SocketStream` for TCP.
"""

from __future__ import annotations

import asyncio
import logging
import os
from asyncio import Server
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, Self, cast

from pelure.errors import ConfigError

log = logging.getLogger(__name__)

READ_SIZE = 65536
SOCKET_BUFFER = 512 * 1024
"""Bytes that may wait in a :class:`SocketStream` to be read."""
LINGER_SECONDS = 5.0
"""How long a closed socket may take to send what was written before; then that is given up."""


def place(host: str, port: int) -> str:
    """``host``:``port``, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextmanager
def listening(host: str, port: int) -> Iterator[None]:
    """Raises ``ConfigError``, which says where and why, for the ``OSError`` of who can't listen there."""
    try:
        yield
    except OSError as error:  # whose words are asyncio's; of a name that is unknown the number is no errno
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise ConfigError(f"can't listen at {place(host, port)}: {reason}") from error


class ByteStream(Protocol):
    """A reliable ordered duplex byte stream with back-pressure."""

    async def read(self, limit: int = READ_SIZE) -> bytes:
        """Return 1 to ``limit`` bytes, or ``b""`` once the other side has ended its half.

        Raises a ``PelureError`` or ``OSError`` when the stream broke instead of ending.
        """
        ...

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of ``data``; returns once it was accepted under flow control."""
        ...

    async def write_eof(self) -> None:
        """End this side's half; reading goes on."""
        ...

    async def close(self) -> None:
        """Close both halves; idempotent, never raises."""
        ...


class SocketStream(asyncio.BufferedProtocol):
    """A :class:`ByteStream` over a TCP connection; made by :meth:`connect` and :meth:`listen`.

    It receives into a buffer of its own: asyncio's streams copy three times what this copies once.
    """

    def __init__(self, accept: Callable[[Any], Coroutine[Any, Any, None]] | None = None) -> None:
        self._buffer = memoryview(bytearray(SOCKET_BUFFER))
        self._start = self._end = 0
        self._accept = accept
        self._ended = False
        self._error: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport

    @classmethod
    async def connect(cls, host: str, port: int) -> Self:
        """Connect to ``host``:``port``. Raises ``OSError``."""
        loop = asyncio.get_running_loop()
        _, stream = await loop.create_connection(cls, host, port)
        return stream

    @classmethod
    async def listen(
        cls, accept: Callable[[Self], Coroutine[Any, Any, None]], host: str, port: int
    ) -> Server:
        """Accept connections; each is handled by ``accept``, in a task of its own. Raises ``OSError``."""
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: cls(accept), host, port)

    @property
    def peername(self) -> tuple[Any, ...]:
        """The other side's address, as the ``socket`` module has it."""
        return tuple(self._transport.get_extra_info("peername"))

    async def read(self, limit: int = READ_SIZE) -> bytes:
        while self._start == self._end:
            if self._error is not None:
                raise self._error
            if self._ended:
                return b""
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        end = min(self._end, self._start + limit)
        data = bytes(self._buffer[self._start : end])
        self._start = end
        if end == self._end:
            full = end == len(self._buffer)
            self._start = self._end = 0
            if full and not self._transport.is_closing():
                self._transport.resume_reading()
        return data

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._transport.is_closing():
            raise self._error or ConnectionResetError("the connection is closed")
        self._transport.write(data)
        await self._writable.wait()
        if self._lost.is_set():
            raise self._error or ConnectionResetError("the connection was lost")

    async def write_eof(self) -> None:
        if not self._transport.is_closing():
            self._transport.write_eof()

    async def close(self) -> None:
        self._transport.close()
        try:
            # Not asyncio.wait_for: on Python 3.11 it swallows a cancellation that comes at the same moment.
            async with asyncio.timeout(LINGER_SECONDS):
                await self._lost.wait()
        except TimeoutError:
            self._transport.abort()

    # -- what the event loop calls --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        if self._accept is not None:
            self._task = asyncio.get_running_loop().create_task(self._handle(self._accept))

    async def _handle(self, accept: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        try:
            await accept(self)
        except Exception:
            log.exception("the handler of a connection failed")
            self._transport.close()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        self._end += nbytes
        if self._end == len(self._buffer):
            self._transport.pause_reading()
        self._wake_reader()

    def eof_received(self) -> bool:
        self._ended = True
        self._wake_reader()
        return True  # the other half goes on

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, error: Exception | None) -> None:
        self._error = error
        self._ended = True
        self._lost.set()
        self._writable.set()
        self._wake_reader()

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class _Half:
    """One direction of a memory pipe: a bounded queue of bytes."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.chunks: deque[bytes] = deque()
        self.size = 0
        self.ended = False
        self.changed = asyncio.Condition()

    async def put(self, data: bytes) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: self.size < self.capacity or self.ended)
            if self.ended:
                raise ConnectionResetError("the other side closed the pipe")
            self.chunks.append(data)
            self.size += len(data)
            self.changed.notify_all()

    async def take(self, limit: int) -> bytes:
        async with self.changed:
            await self.changed.wait_for(lambda: self.chunks or self.ended)
            if not self.chunks:
                return b""
            chunk = self.chunks.popleft()
            if len(chunk) > limit:
                self.chunks.appendleft(chunk[limit:])
                chunk = chunk[:limit]
            self.size -= len(chunk)
            self.changed.notify_all()
            return chunk

    async def end(self) -> None:
        async with self.changed:
            self.ended = True
            self.changed.notify_all()


class MemoryStream:
    """One end of a :func:`memory_pipe`."""

    def __init__(self, incoming: _Half, outgoing: _Half) -> None:
        self._incoming = incoming
        self._outgoing = outgoing

    async def read(self, limit: int = READ_SIZE) -> bytes:
        return await self._incoming.take(limit)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        if len(data):
            await self._outgoing.put(bytes(data))

    async def write_eof(self) -> None:
        await self._outgoing.end()

    async def close(self) -> None:
        await self._outgoing.end()
        await self._incoming.end()


def memory_pipe(capacity: int = 4 * READ_SIZE) -> tuple[MemoryStream, MemoryStream]:
    """Return the two ends of an in-memory duplex pipe holding ``capacity`` bytes each way."""
    forward, backward = _Half(capacity), _Half(capacity)
    return MemoryStream(backward, forward), MemoryStream(forward, backward)
