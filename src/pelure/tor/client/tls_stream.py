"""TLS inside a byte stream, for HTTPS through the network: the client's side, without a socket."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import TypeVar

from pelure.streams import READ_SIZE, ByteStream

T = TypeVar("T")


class TlsStream:
    """A ``ByteStream`` that is encrypted inside another; :meth:`start` makes one."""

    def __init__(self, inner: ByteStream, context: ssl.SSLContext, host: str | None) -> None:
        self._inner = inner
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._sending = asyncio.Lock()

    @classmethod
    async def start(cls, inner: ByteStream, context: ssl.SSLContext, host: str | None) -> TlsStream:
        """Shake hands with the server ``host``. Raises ``ssl.SSLError``, ``PelureError``."""
        stream = cls(inner, context, host)
        await stream._run(stream._tls.do_handshake)
        return stream

    @property
    def tls(self) -> ssl.SSLObject:
        """The session, for its certificate and protocol."""
        return self._tls

    async def _run(self, step: Callable[[], T]) -> T:
        """Do ``step`` of the session, moving bytes as it wants them."""
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                await self._flush()
                data = await self._inner.read(READ_SIZE)
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            else:
                await self._flush()
                return result

    async def _flush(self) -> None:
        async with self._sending:
            if data := self._outgoing.read():
                await self._inner.write(data)

    async def read(self, limit: int = READ_SIZE) -> bytes:
        """See ``ByteStream``; raises ``ssl.SSLError`` if the stream ended without the server's goodbye."""
        try:
            return await self._run(lambda: self._tls.read(limit))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """See ``ByteStream``."""
        view = memoryview(data)
        while view:
            sent = await self._run(lambda piece=view: self._tls.write(piece))  # type: ignore[misc]
            view = view[sent:]

    async def write_eof(self) -> None:
        """Say goodbye; the server's half stays open."""
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass  # the server has not answered it yet, and need not
        await self._flush()

    async def close(self) -> None:
        """Close the stream below; idempotent."""
        await self._inner.close()
