"""The one thing the two protocol stacks share: a duplex byte stream.

``pelure.tor`` gives such streams over circuits, ``pelure.hyper`` replicates over any of them; neither
knows the other. :func:`memory_pipe` is for tests, :class:`SocketStream` for TCP and Unix sockets.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from pelure.errors import ConfigError

READ_SIZE = 65536
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


class SocketStream:
    """A :class:`ByteStream` over an asyncio TCP or Unix connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, host: str, port: int, *, read_ahead: int = 4 * READ_SIZE) -> SocketStream:
        """Connect to ``host``:``port`` by TCP; twice ``read_ahead`` bytes may wait. Raises ``OSError``."""
        return cls(*await asyncio.open_connection(host, port, limit=read_ahead))

    async def read(self, limit: int = READ_SIZE) -> bytes:
        return await self.reader.read(limit)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def write_eof(self) -> None:
        if self.writer.can_write_eof():
            self.writer.write_eof()

    async def close(self) -> None:
        self.writer.close()
        try:
            # Not asyncio.wait_for: on Python 3.11 it swallows a cancellation that comes at the same moment.
            async with asyncio.timeout(LINGER_SECONDS):
                await self.writer.wait_closed()
        except TimeoutError:
            self.writer.transport.abort()
        except OSError:
            pass


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
