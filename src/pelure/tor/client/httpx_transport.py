"""An ``httpx`` transport whose connections are streams of the network.

::

    async with pelure.connect() as tor, httpx.AsyncClient(transport=TorTransport(tor)) as client:
        page = await client.get("http://….onion/")
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Hashable, Iterable
from types import TracebackType
from typing import Any, Protocol, cast

import httpcore
import httpx

from pelure.errors import PelureError
from pelure.streams import READ_SIZE, ByteStream
from pelure.tor.client.tls_stream import TlsStream


class StreamSource(Protocol):
    """What the transport needs of ``pelure.tor.api.Tor``."""

    async def open_stream(self, host: str, port: int, isolation: Hashable = None) -> ByteStream:
        """Open a stream."""
        ...


class TorTransport(httpx.AsyncBaseTransport):
    """Sends requests through the network; names are looked up by exits, never here."""

    def __init__(
        self, tor: StreamSource, *, isolation: Hashable = None, verify: ssl.SSLContext | None = None
    ) -> None:
        """``isolation``: connections share circuits with this token's only. ``verify``: for HTTPS."""
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=verify or ssl.create_default_context(),
            network_backend=_Backend(tor, isolation),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send ``request``. Raises ``httpx.TransportError`` and its kin, as any transport does."""
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        core_request = httpcore.Request(
            request.method,
            url,
            headers=request.headers.raw,
            content=cast(AsyncIterable[bytes], request.stream),
            extensions=request.extensions,
        )
        try:
            response = await self._pool.handle_async_request(core_request)
        except Exception as error:
            raise _as_httpx(error) from error
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=_Body(cast(AsyncIterable[bytes], response.stream), response),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._pool.aclose()

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        await self.aclose()


class _Body(httpx.AsyncByteStream):
    def __init__(self, stream: AsyncIterable[bytes], response: httpcore.Response) -> None:
        self._stream = stream
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._stream:
                yield part
        except Exception as error:
            raise _as_httpx(error) from error

    async def aclose(self) -> None:
        await self._response.aclose()


class _Backend(httpcore.AsyncNetworkBackend):
    """Makes httpcore's connections out of the network's streams."""

    def __init__(self, tor: StreamSource, isolation: Hashable) -> None:
        self._tor = tor
        self._isolation = isolation

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                return _Stream(await self._tor.open_stream(host, port, self._isolation))
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from error
        except PelureError as error:
            raise httpcore.ConnectError(str(error)) from error

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _Stream(httpcore.AsyncNetworkStream):
    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            async with asyncio.timeout(timeout):
                return await self._stream.read(min(max_bytes, READ_SIZE))
        except TimeoutError as error:
            raise httpcore.ReadTimeout(str(error)) from error
        except (PelureError, OSError) as error:
            raise httpcore.ReadError(str(error)) from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self._stream.write(buffer)
        except TimeoutError as error:
            raise httpcore.WriteTimeout(str(error)) from error
        except (PelureError, OSError) as error:
            raise httpcore.WriteError(str(error)) from error

    async def aclose(self) -> None:
        await self._stream.close()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                return _Stream(await TlsStream.start(self._stream, ssl_context, server_hostname))
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from error
        except (PelureError, OSError) as error:  # ssl.SSLError is an OSError
            raise httpcore.ConnectError(str(error)) from error

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object" and isinstance(self._stream, TlsStream):
            return self._stream.tls
        return None


def _as_httpx(error: Exception) -> Exception:
    """httpx's counterpart of an httpcore error: their names are the same."""
    for kind in type(error).__mro__:
        if kind.__module__.startswith("httpcore"):
            counterpart = getattr(httpx, kind.__name__, None)
            if counterpart is not None:
                return cast(Exception, counterpart(str(error)))
    return error
